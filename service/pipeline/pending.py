"""Rows that wait for their tick to be complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.batch import EventBatch
from detectors.columns import COLUMNS
from detectors.label_texts import label_pieces, labels_of
from detectors.labels import LabelSet, LabelSets
from detectors.state import Array, Pieces, Snapshot, pieces_of
from service.ingest.contract import TopicPartition


class Chunk(NamedTuple):
    """Rows of one tick from one batch: label_set int32[n], time_ns int64[n], columns float64[n] by name."""

    label_set: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]]


class Pending:
    """Chunks by tick and partition. `rows` is how many rows wait."""

    def __init__(self, tick_ns: int, label_sets: LabelSets, resume: Snapshot | None) -> None:
        self._tick_ns = tick_ns
        self._label_sets = label_sets
        self._ticks: dict[int, dict[TopicPartition, list[Chunk]]] = {}
        self.rows = 0
        if resume is not None:
            self._resume(resume)

    def _resume(self, saved: Snapshot) -> None:
        ids = list(map(self._label_sets.intern, labels_of(saved["labels"])))
        label_set = np.array(ids, np.int32)[saved["label_set"]]
        names = [column.name for column in COLUMNS if f"columns.{column.name}" in saved]
        for p, name in enumerate(zip(saved["topics"].tolist(), saved["partitions"].tolist(), strict=True)):
            own = saved["partition_index"] == p
            columns = {column: saved[f"columns.{column}"][own] for column in names}
            self.add(TopicPartition(*name), Chunk(label_set[own], saved["time_ns"][own], columns))

    def add_batch(self, batch: EventBatch, accepted: NDArray[np.bool_]) -> None:
        """Keep the accepted rows of a batch."""
        chunk = Chunk(batch.label_set, batch.event_time_ns, batch.columns)
        if not accepted.all():
            chunk = _rows(chunk, accepted)
        self.add(TopicPartition(batch.topic, batch.partition), chunk)

    def add(self, partition: TopicPartition, chunk: Chunk) -> None:
        """Keep copies of rows of one partition; they may belong to several ticks."""
        ticks = chunk.time_ns // self._tick_ns
        if (ticks[1:] < ticks[:-1]).any():
            order = _order(ticks)
            ticks, chunk = ticks[order], _rows(chunk, order)
        starts = [0, *(np.flatnonzero(ticks[1:] != ticks[:-1]) + 1).tolist()] if len(ticks) else []
        for start, end in zip(starts, [*starts[1:], len(ticks)], strict=False):
            part = _rows(chunk, slice(start, end))
            # A column without a value must not linger: a snapshot holds just what the rows hold.
            columns = {name: column.copy() for name, column in part.columns.items() if _has_value(column)}
            part = Chunk(part.label_set.copy(), part.time_ns.copy(), columns)
            self._ticks.setdefault(int(ticks[start]), {}).setdefault(partition, []).append(part)
        self.rows += len(ticks)

    def first_tick(self) -> int | None:
        """Return the earliest tick that has rows."""
        return min(self._ticks, default=None)

    def last_tick(self) -> int | None:
        """Return the latest tick that has rows."""
        return max(self._ticks, default=None)

    def take(self, tick: int) -> list[Chunk]:
        """Hand over the rows of a tick."""
        chunks = [chunk for parts in self._ticks.pop(tick, {}).values() for chunk in parts]
        self.rows -= sum(len(chunk.time_ns) for chunk in chunks)
        return chunks

    def label_sets(self) -> NDArray[np.bool_]:
        """Return bool[label sets]: a waiting row has it."""
        waiting = np.zeros(len(self._label_sets), np.bool_)
        for parts in self._ticks.values():
            for chunks in parts.values():
                for chunk in chunks:
                    waiting[chunk.label_set] = True
        return waiting

    def frozen(self) -> Waiting:
        """Return the rows that wait now. Chunks are never written to, so that only the lists of them are copied."""
        parts: dict[TopicPartition, list[Chunk]] = {}
        for tick in sorted(self._ticks):
            for name, chunks in self._ticks[tick].items():
                parts.setdefault(name, []).extend(chunks)
        return Waiting(dict(sorted(parts.items())), self._label_sets.frozen())


class Waiting(NamedTuple):
    """The rows that waited at one instant, by partition, in order of tick and log."""

    parts: Mapping[TopicPartition, list[Chunk]]
    label_sets: Sequence[LabelSet]

    def arrays(self) -> dict[str, Array | Pieces]:
        """Return the rows as arrays, most of them in pieces: the same rows give the same bytes, however they were cut."""
        chunks = [chunk for part in self.parts.values() for chunk in part]
        counts = [sum(len(chunk.time_ns) for chunk in part) for part in self.parts.values()]
        label_set = np.concatenate([np.empty(0, np.int32), *(c.label_set for c in chunks)])
        used, first = np.unique(label_set, return_index=True)
        used = used[np.argsort(first)]
        rank = np.zeros(int(used.max(initial=0)) + 1, np.int32)
        rank[used] = np.arange(len(used))
        saved: dict[str, Array | Pieces] = {
            "topics": np.array([name.topic for name in self.parts], np.str_),
            "partitions": np.array([name.partition for name in self.parts], np.int64),
            "labels": label_pieces(self.label_sets[i] for i in used.tolist()),
            "partition_index": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            "label_set": pieces_of(np.int32, (rank[c.label_set] for c in chunks)),
            "time_ns": pieces_of(np.int64, (c.time_ns for c in chunks)),
        }
        for column in COLUMNS:
            if any(column.name in chunk.columns for chunk in chunks):
                saved[f"columns.{column.name}"] = pieces_of(np.float64, _column(chunks, column.name))
        return saved


def _column(chunks: Sequence[Chunk], name: str) -> Iterator[NDArray[np.float64]]:
    """Yield a column of each chunk, NaN where it has none."""
    for chunk in chunks:
        column = chunk.columns.get(name)
        yield np.full(len(chunk.time_ns), np.nan) if column is None else column


def _rows(chunk: Chunk, rows: NDArray[Any] | slice) -> Chunk:
    columns = {name: column[rows] for name, column in chunk.columns.items()}
    return Chunk(chunk.label_set[rows], chunk.time_ns[rows], columns)


def _order(ticks: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the order of rows by tick, those of one tick as they came; by radix where they span few ticks."""
    since_first = ticks - ticks.min()
    if since_first.max() < 1 << 16:
        return np.argsort(since_first.astype(np.uint16), kind="stable")
    return np.argsort(ticks, kind="stable")


def _has_value(column: NDArray[np.float64]) -> bool:
    """Tell whether any value is not NaN; the first one mostly settles it."""
    return bool(column[0] == column[0]) or not np.isnan(column).all()
