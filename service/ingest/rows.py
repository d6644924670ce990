"""Rows of one batch while it is being decoded: lists to append to, arrays at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.batch import EventBatch
from detectors.columns import COLUMNS
from service.ingest.contract import RecordBatch
from service.ingest.scanners.contract import Scanned


class Rows:
    """Collects values; those of one record with the same label set and instant become one row, the last of a column counts."""

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._times_ns: list[int] = []
        self._label_sets: list[int] = []
        self._cells: dict[int, tuple[list[int], list[float]]] = {}
        self._of_record: dict[tuple[int, int], int] = {}
        self._offset = -1

    def __len__(self) -> int:
        return len(self._offsets)

    def begin_record(self, offset: int) -> None:
        """Rows of an earlier record are closed: another record is another row."""
        self._offset = offset
        if self._of_record:
            self._of_record = {}

    def row(self, label_set: int, time_ns: int) -> int:
        """Return this record's row for a label set and an instant, a new one if it has none."""
        key = (label_set, time_ns)
        known = self._of_record.get(key)
        if known is not None:
            return known
        fresh = len(self._offsets)
        self._of_record[key] = fresh
        self._offsets.append(self._offset)
        self._times_ns.append(time_ns)
        self._label_sets.append(label_set)
        return fresh

    def put(self, row: int, column: int, value: float) -> None:
        """Set a cell."""
        cells = self._cells.get(column)
        if cells is None:
            cells = self._cells[column] = ([], [])
        cells[0].append(row)
        cells[1].append(value)

    def event_batch(self, source: RecordBatch) -> EventBatch:
        """Return everything put so far as the EventBatch of `source`; columns in the order of COLUMNS."""
        columns = {}
        for column in sorted(self._cells):
            rows, values = self._cells[column]
            filled = np.full(len(self), np.nan)
            filled[rows] = values
            columns[COLUMNS[column].name] = filled
        return EventBatch(
            topic=source.topic,
            partition=source.partition,
            next_offset=source.next_offset,
            offset=np.array(self._offsets, np.int64),
            event_time_ns=np.array(self._times_ns, np.int64),
            label_set=np.array(self._label_sets, np.int32),
            columns=columns,
        )


def with_scanned(read: EventBatch, scanned: Scanned, record_offset: NDArray[np.int64]) -> EventBatch:
    """Return the rows of both, in order of offsets; `record_offset` int64[n] is the offset of each scanned record."""
    offset = np.concatenate([record_offset[scanned.record], read.offset])
    order = np.argsort(offset, kind="stable") if len(read) else None
    blank = {True: np.full(len(scanned.record), np.nan), False: np.full(len(read), np.nan)}
    columns = {}
    for column in COLUMNS:
        parts = scanned.columns.get(column.name), read.columns.get(column.name)
        if all(part is None or np.isnan(part).all() for part in parts):
            continue
        first, second = (blank[own] if part is None else part for own, part in zip((True, False), parts, strict=True))
        columns[column.name] = _ordered(first, second, order)
    return EventBatch(
        topic=read.topic,
        partition=read.partition,
        next_offset=read.next_offset,
        offset=offset if order is None else offset[order],
        event_time_ns=_ordered(scanned.time_ns, read.event_time_ns, order),
        label_set=_ordered(scanned.label_set, read.label_set, order),
        columns=columns,
    )


def _ordered(first: NDArray[Any], second: NDArray[Any], order: NDArray[np.int64] | None) -> NDArray[Any]:
    return first if order is None else np.concatenate([first, second])[order]
