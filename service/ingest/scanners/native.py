"""The scanner of native JSON: a table of the keys that occur, and of the labels under which GPUs report."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.columns import COLUMNS
from kernels.interned import NEVER_SEEN
from kernels.native import (
    IGNORED_NAME,
    KEY_WORDS,
    KEYS_MAX,
    LABEL,
    MEASUREMENT,
    OUT,
    TIME,
    UNKNOWN_NAME,
    native_scan,
)
from kernels.points import rows_repeated
from service.ingest.contract import Record
from service.ingest.fields import FieldTable
from service.ingest.formats.native import LABELS
from service.ingest.plain_labels import plain_groups
from service.ingest.reading import json_document
from service.ingest.records import Records
from service.ingest.scanners.contract import Ask, Bounds, Scanned
from service.ingest.scanners.raw_labels import REFERENCE, RawLabels, resolve

IDENTITY = frozenset(("uuid", "gpu"))  # without text for either the reference has something to say
ROW_BYTES_MIN = 22  # {"ts":1,"gpu":1,"sm":1}
ARRAY_ROWS_MAX = 1 << 16  # rows of arrays at once, beyond one for each record; the reference reads the others
# By these the reference takes a record for one of another format: they are never learned as keys.
FOREIGN_KEYS = frozenset(
    {
        "labels",
        "value",
        "timestamp",
        "fields",
        "metrics",
        "kind",
        "dsnames",
        "dstypes",
        "resourceMetrics",
        "resource_metrics",
    }
)


class NativeScanner:
    """Knows the keys that occurred so far; their order is predicted from the record before."""

    format: ClassVar[str] = "native"
    learns: ClassVar[bool] = True

    def __init__(self, fields: FieldTable, bounds: Bounds) -> None:
        self._lookup = fields.lookup("native")
        self._bounds = bounds
        self._labels = RawLabels()
        self._names: dict[str, int] = {}
        self._columns: list[int] = []
        self._words = np.zeros((KEYS_MAX, KEY_WORDS), np.uint64)
        self._masks = np.zeros((KEYS_MAX, KEY_WORDS), np.uint64)
        self._size = np.zeros(KEYS_MAX, np.int64)
        self._kind = np.zeros(KEYS_MAX, np.int8)
        self._row = np.zeros(KEYS_MAX, np.int64)
        self._factor = np.zeros((KEYS_MAX, 4))
        self._next = np.full(KEYS_MAX + 1, -1, np.int64)
        self._found = np.zeros(OUT, np.int64)
        self._scratch = np.empty((0, 0))

    def scan(self, records: Records, ask: Ask) -> Scanned:
        n = len(records)
        room = min(records.value_bytes() // ROW_BYTES_MIN + 1, n + ARRAY_ROWS_MAX)
        plain = np.zeros(n, np.bool_)
        record, entry, unknown = (np.empty(room, np.int32) for _ in range(3))
        time_ns = np.empty(room, np.int64)
        values = self._room_for(room)
        bounds = self._bounds
        count = np.zeros(1, np.int64)
        reading = True
        while reading:
            native_scan(
                records.data, records.span, records.timestamp_ms,
                len(self._names), self._words, self._masks, self._size, self._kind, self._row, self._factor,
                bounds.earliest_ns, bounds.latest_ns, bounds.future_ns, bounds.record_bytes_max, bounds.record_samples_max,
                self._next, *self._labels.arrays(n), self._labels.parts, self._found,
                plain, record, entry, time_ns, values, unknown, count,
            )  # fmt: skip
            reading = self._labels.made_room()
        rows = int(count[0])
        record, time_ns = record[:rows], time_ns[:rows]
        self._resolve_plain(entry[:rows], ask)
        label_set = resolve(self._labels, records, record, entry[:rows], ask)
        unusable = label_set < 0
        if rows > np.count_nonzero(plain) or n == 0:  # of nothing too: a warm-up compiles what arrays will need
            rows_repeated(record, label_set, time_ns, np.full(label_set.max(initial=0) + 1, -1), unusable)
        kept: slice | NDArray[np.int64] = slice(0, rows)
        if unusable.any():
            plain[record[unusable]] = False
            kept = np.flatnonzero(plain[record])
        columns = {
            COLUMNS[column].name: values[row, kept].copy()
            for column, row in sorted((column, row) for row, column in enumerate(self._columns))
        }
        counts = {"accepted": int(np.count_nonzero(plain)), "unknown_metric": int(unknown[kept].sum())}
        return Scanned(plain, record[kept], label_set[kept], time_ns[kept], columns, counts)

    def _resolve_plain(self, entry: NDArray[np.int32], ask: Ask) -> None:
        """Find out what new labels mean where they are plain text, many at once: a fleet arrives in one batch."""
        meaning = self._labels.meaning
        fresh = np.unique(entry[meaning[entry] == NEVER_SEEN])
        if not len(fresh):
            return
        names = list(self._names)
        for group in plain_groups(*self._labels.contents(fresh), FOREIGN_KEYS):
            known = [names[key] if key < len(names) else "" for key in group.keys]
            # A UUID that is the number 0 is none.
            zero = "uuid" in known and "0" in group.columns[known.index("uuid")]
            if all(known) and IDENTITY.intersection(known) and not zero:
                label_set = np.array(ask.label_sets(self.format, known, group.columns), np.int32)
                meaning[fresh[group.entry]] = np.where(label_set >= 0, label_set, REFERENCE)

    def _room_for(self, rows: int) -> NDArray[np.float64]:
        if self._scratch.shape[0] != len(self._columns) or self._scratch.shape[1] < rows:
            self._scratch = np.empty((len(self._columns), rows))
        return self._scratch

    def learn(self, record: Record) -> bool:
        known = len(self._names)
        document = json_document(record.value or b"")
        for row in document if isinstance(document, list) else (document,):
            for name in row:
                self._learn_key(name)
        return len(self._names) > known

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget labels that mean others than these label sets."""
        self._labels.forget(used)

    def _learn_key(self, name: str) -> None:
        text = b'"' + name.encode() + b'":'
        if name in self._names or len(self._names) >= KEYS_MAX or len(text) > 8 * KEY_WORDS:
            return
        if name in FOREIGN_KEYS or not name.isascii() or not name.isprintable() or set(name) & {'"', "\\"}:
            return
        metric = self._lookup[name]
        if isinstance(metric, list) or (metric is not None and metric.suspect_from < np.inf):
            return
        key = self._names[name] = len(self._names)
        self._words[key], self._masks[key] = _words(text)
        self._size[key] = len(text)
        if name == "ts":
            self._kind[key] = TIME
        elif name in LABELS:
            self._kind[key] = LABEL
        elif metric is not None and metric.column >= 0:
            self._kind[key] = MEASUREMENT
            self._row[key] = self._row_of(metric.column)
            self._factor[key] = metric.multiply, metric.divide, metric.lowest, metric.highest
        else:
            self._kind[key] = UNKNOWN_NAME if metric is None else IGNORED_NAME

    def _row_of(self, column: int) -> int:
        if column not in self._columns:
            self._columns.append(column)
        return self._columns.index(column)


def _words(text: bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return text as words, and masks that cover its bytes."""
    padded = np.frombuffer(text.ljust(8 * KEY_WORDS, b"\0"), "<u8")
    mask = np.frombuffer((b"\xff" * len(text)).ljust(8 * KEY_WORDS, b"\0"), "<u8")
    return padded.astype(np.uint64), mask.astype(np.uint64)
