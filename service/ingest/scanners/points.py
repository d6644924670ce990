"""From points to rows: what the scanners of long formats share once names and labels are known by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
from service.ingest.scanners.raw_labels import RawLabels, TableArrays

ASKED_MAX = 1 << 16  # records of one scan that the reference is asked about; the rest is left to it
HEADS_MAX = 1 << 19  # names and resources come from outside
ENDED = 2
Excerpt = Callable[[RawLabels, RawLabels, Iterable[tuple[int, int]]], bytes]


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

    def __init__(self, fields: FieldTable, bounds: Bounds, excerpt: Excerpt | None = None) -> None:
        """`excerpt` returns a record's value that has one point for each pair of head and labels; by default, all of it."""
        self._fields = fields
        self._bounds = bounds
        self._excerpt = excerpt
        self.heads = RawLabels(HEADS_MAX)
        self.labels = RawLabels()
        self._heads_emptied = 0
        self._metrics: dict[Metric | None, int] = {}
        self._column = np.empty(0, np.int32)
        self._factor = np.empty((0, 6))

    def tables(self) -> tuple[*TableArrays, *TableArrays, NDArray[np.int64]]:
        """Return the state that a kernel takes: heads, labels, and the parts of what is being read."""
        heads = self.heads.arrays()
        if self._heads_emptied != self.heads.emptied:
            self._heads_emptied = self.heads.emptied
            self.labels.clear()  # labels may hold the number of a head
        return *heads, *self.labels.arrays(), self.labels.parts

    def made_room(self) -> bool:
        """Tell whether heads or labels found no room, and there is more now: what was not read can be read again."""
        return any([self.heads.made_room(), self.labels.made_room()])

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget labels that mean others than these label sets."""
        self.labels.forget(used)

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
        new = [
            self._first_new(self.heads, points.head, points.kind),
            self._first_new(self.labels, points.entry, points.kind),
        ]
        asked = np.unique(np.concatenate(new))
        alike: dict[tuple[str, ...], list[tuple[int, tuple[str, ...]]]] = {}  # labels of the same names
        begins = np.flatnonzero(np.diff(points.record[asked], prepend=-1))
        for own in np.split(asked, begins[1:])[:ASKED_MAX] if len(asked) else ():
            heads, entries = points.head[own].tolist(), points.entry[own].tolist()
            record = records[int(points.record[own[0]])]
            if self._excerpt is not None:
                excerpt = self._excerpt(self.heads, self.labels, zip(heads, entries, strict=True))
                record = record._replace(value=excerpt)
            samples = ask.samples(record)
            if samples is None or len(samples) != len(own):
                continue
            for head, entry, sample in zip(heads, entries, samples, strict=True):
                if self.heads.meaning[head] == NEVER_SEEN:
                    self.heads.meaning[head] = self._metric(next(iter(sample.values), ""))
                if self.labels.meaning[entry] != NEVER_SEEN:
                    continue
                if MEASUREMENT in sample.labels:  # names mean something else under it
                    self.labels.meaning[entry] = REFERENCE
                elif record.headers or not sample.labels:
                    self.labels.meaning[entry] = ask.label_set(record, sample)
                else:
                    alike.setdefault(tuple(sample.labels), []).append((entry, tuple(sample.labels.values())))
        for names, rows in alike.items():
            numbers, values = zip(*rows, strict=True)
            self.labels.meaning[list(numbers)] = ask.label_sets("", names, list(zip(*values, strict=True)))

    @staticmethod
    def _first_new(known: RawLabels, number: NDArray[np.int32], kind: NDArray[np.int8]) -> NDArray[np.int64]:
        """Return the first point with a value of each entry whose meaning is not known."""
        new = np.flatnonzero((known.meaning[number] == NEVER_SEEN) & (kind != ENDED))[::-1]
        first = np.full(len(known), -1)
        first[number[new]] = new  # of several the last counts, and they come from behind
        return first[first >= 0]

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
