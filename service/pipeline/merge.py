"""From the waiting rows of one tick to its merged rows: one row per GPU and instant, in order of entity and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.entities import Presence
from kernels.rows import rows_merge, rows_number, rows_sort
from service.pipeline.pending import Chunk


@dataclass(frozen=True, slots=True)
class TickRows:
    """Rows of one tick, sorted by (entity, time), each pair once.

    entity int32[n], time_ns int64[n]; columns float64[n] by name, NaN = missing, of those that occur. `presence` says
    when and under which labels each entity reported.
    """

    entity: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    presence: Presence


def label_sets_of(chunks: Sequence[Chunk]) -> NDArray[np.int32]:
    """Return the label set of every row."""
    return np.concatenate([np.empty(0, np.int32), *(c.label_set for c in chunks)])


def merge_rows(
    chunks: Sequence[Chunk], label_set: NDArray[np.int32], entity: NDArray[np.int32], entity_count: int
) -> TickRows:
    """Merge chunks; label_set and entity int32[n] are those of every row, in the order of the chunks."""
    time_ns = np.concatenate([np.empty(0, np.int64), *(c.time_ns for c in chunks)])
    order = _sorted(entity, time_ns, entity_count)
    n = len(order)
    row, count = np.empty(n, np.int64), np.zeros(1, np.int64)
    merged_entity, merged_time_ns = np.empty(n, np.int32), np.empty(n, np.int64)
    rows_number(order, entity, time_ns, row, merged_entity, merged_time_ns, count)
    merged = int(count[0])
    columns: dict[str, NDArray[np.float64]] = {}
    start = 0
    for chunk in chunks:
        end = start + len(chunk.time_ns)
        for name, column in chunk.columns.items():
            if name not in columns:
                columns[name] = np.full(merged, np.nan)
            rows_merge(row[start:end], column, columns[name])
        start = end
    presence = Presence(order, entity, label_set, time_ns)
    return TickRows(merged_entity[:merged], merged_time_ns[:merged], columns, presence)


def _sorted(entity: NDArray[np.int32], time_ns: NDArray[np.int64], entity_count: int) -> NDArray[np.int64]:
    """Return the order of rows by (entity, time), equal ones as they came."""
    order, in_time = np.empty(len(entity), np.int64), np.zeros(1, np.bool_)
    scratch = np.empty(entity_count + 1, np.int64)
    rows_sort(entity, time_ns, scratch, order, in_time)
    if in_time[0]:
        return order
    by_time = np.argsort(time_ns, kind="stable")
    rows_sort(entity[by_time], time_ns[by_time], scratch, order, in_time)
    return by_time[order]
