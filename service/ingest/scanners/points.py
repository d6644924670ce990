"""From points to rows: what the scanners of long formats share once names and labels are known by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.columns import COLUMNS
from kernels.interned import NEVER_SEEN
from kernels.points import (
    BLANK,
    IGNORED_COLUMN,
    OF_GPU,
    REFERENCE,
    SERIES_ENDED,
    UNKNOWN,
    UNKNOWN_COLUMN,
    points_judge,
    points_number,
    points_put,
)
from service.ingest.fields import FieldTable, Metric
from service.ingest.reading import MEASUREMENT
from service.ingest.records import Records
from service.ingest.scanners.contract import Ask, Bounds, Scanned
from service.ingest.scanners.raw_labels import RawLabels

ASKED_MAX = 1 << 16  # records of one scan that the reference is asked about; the rest is left to it
ENDED = 2


class Points(NamedTuple):
    """Points in order of records: record, head, entry int32[p]; time_ns int64[p]; raw float64[p]; kind int8[p]."""

    record: NDArray[np.int32]
    head: NDArray[np.int32]
    entry: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    raw: NDArray[np.float64]
    kind: NDArray[np.int8]


class PointReader:
    """Knows what heads (metric names as they lie in records) and labels mean, and asks the reference about new ones."""

    def __init__(self, fields: FieldTable, bounds: Bounds) -> None:
        self._fields = fields
        self._bounds = bounds
        self.heads = RawLabels()
        self.labels = RawLabels()
        self._metrics: dict[Metric | None, int] = {}
        self._column = np.empty(0, np.int32)
        self._factor = np.empty((0, 6))

    def rows(self, records: Records, plain: NDArray[np.bool_], points: Points, ask: Ask) -> Scanned:
        """Return the rows of the points; records whose points are not all good are made not plain."""
        self._resolve(records, points, ask)
        metric = self.heads.meaning[points.head]
        label_set = self.labels.meaning[points.entry]
        bounds = self._bounds
        counts = np.zeros((len(records), 4), np.int32)
        column, value = np.empty(len(metric), np.int32), np.empty(len(metric))
        points_judge(
            points.record, metric, label_set, points.time_ns, points.raw, points.kind,
            self._column, self._factor, self._fields.codes, records.timestamp_ms,
            bounds.earliest_ns, bounds.latest_ns, bounds.future_ns, plain, counts, column, value,
        )  # fmt: skip
        row, first, before = (np.empty(len(metric), np.int32) for _ in range(3))
        count = np.zeros(1, np.int64)
        last_row = np.full(label_set.max(initial=0) + 1, -1, np.int32)
        points_number(points.record, column, label_set, points.time_ns, plain, last_row, row, first, before, count)
        first = first[: int(count[0])]
        used = np.flatnonzero(np.bincount(column[row >= 0], minlength=len(COLUMNS)))
        place = np.zeros(len(COLUMNS), np.int32)
        place[used] = np.arange(len(used))
        values = np.full((len(used), len(first)), np.nan)
        points_put(row, column, value, place, values)
        return Scanned(
            plain,
            points.record[first],
            label_set[first],
            points.time_ns[first],
            {COLUMNS[c].name: values[k] for k, c in enumerate(used.tolist())},
            _counts(counts, plain),
        )

    def _resolve(self, records: Records, points: Points, ask: Ask) -> None:
        """Find out what new heads and labels mean: the samples that the reference gives are the points in their order."""
        asked = np.concatenate(
            [self._first_new(self.heads, points.head, points), self._first_new(self.labels, points.entry, points)]
        )
        for r in np.unique(points.record[asked])[:ASKED_MAX].tolist():
            own = np.arange(*np.searchsorted(points.record, (r, r + 1)))
            own = own[points.kind[own] != ENDED]
            heads, entries = points.head[own], points.entry[own]
            new_head = self.heads.meaning[heads] == NEVER_SEEN
            new_labels = self.labels.meaning[entries] == NEVER_SEEN
            samples = ask.samples(records[r])
            if samples is None or len(samples) != len(own):
                continue
            for k in np.flatnonzero(new_head | new_labels).tolist():
                sample = samples[k]
                self.heads.meaning[heads[k]] = self._metric(next(iter(sample.values), ""))
                if self.labels.meaning[entries[k]] == NEVER_SEEN:
                    of_measurement = MEASUREMENT in sample.labels  # names mean something else under it
                    label_set = REFERENCE if of_measurement else ask.label_set(records[r], sample)
                    self.labels.meaning[entries[k]] = label_set

    @staticmethod
    def _first_new(known: RawLabels, number: NDArray[np.int32], points: Points) -> NDArray[np.int64]:
        """Return the first point with a value of each entry whose meaning is not known."""
        new = np.flatnonzero((known.meaning[number] == NEVER_SEEN) & (points.kind != ENDED))
        return new[np.unique(number[new], return_index=True)[1]]

    def _metric(self, name: str) -> int:
        """Return the row of the metric that a name means, REFERENCE where that depends on labels."""
        metric = self._fields.lookup("")[name]
        if isinstance(metric, list):
            return REFERENCE
        known = self._metrics.get(metric)
        if known is None:
            known = self._metrics[metric] = len(self._metrics)
            column, *factor = metric if metric is not None else Metric(UNKNOWN_COLUMN)
            self._column = np.append(self._column, np.int32(column))
            self._factor = np.concatenate([self._factor, [factor]])
        return known


def _counts(counts: NDArray[np.int32], plain: NDArray[np.bool_]) -> Mapping[str, int]:
    own = counts[plain]
    silent = (own[:, OF_GPU] == 0) & (own[:, SERIES_ENDED] == 0)
    unknown, blank, ended = own[:, [UNKNOWN, BLANK, SERIES_ENDED]].sum(axis=0).tolist()
    return {
        "accepted": int((~silent).sum()),
        "unknown_metric": unknown,
        "blank": blank,
        "series_ended": ended,
        "no_gpu": int(silent.sum()),
    }


assert IGNORED_COLUMN == Metric(-1).column
