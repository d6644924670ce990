"""How far every partition has come in event time, and who holds the others back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.watermark import watermark_advance
from service.ingest.contract import TopicPartition
from service.settings import IngestSettings


class Progress:
    """Clock and position of one partition."""

    def __init__(self, resume: dict[str, int] | None = None) -> None:
        saved = resume or {"watermark_ns": -1, "ahead_rows": 0, "ahead_ns": 0, "next_offset": -1}
        self.watermark_ns = np.array([saved["watermark_ns"]], np.int64)
        self.ahead_rows = np.array([saved["ahead_rows"]], np.int64)
        self.ahead_ns = np.array([saved["ahead_ns"]], np.int64)
        self.next_offset = saved["next_offset"]

    def snapshot(self) -> dict[str, int]:
        """Return the state as plain numbers."""
        return {
            "watermark_ns": int(self.watermark_ns[0]),
            "ahead_rows": int(self.ahead_rows[0]),
            "ahead_ns": int(self.ahead_ns[0]),
            "next_offset": self.next_offset,
        }


class Watermarks:
    """The watermark of each partition is data of that partition alone; only their minimum closes ticks.

    A row is late against its own partition, so no row that its partition accepts can come after its tick was closed
    by the minimum over all partitions.
    """

    def __init__(self, settings: IngestSettings, resume: list[list[Any]] | None) -> None:
        self._lateness_ns = int(settings.lateness_max_s * 1e9)
        self._jump_ns = int(settings.jump_max_s * 1e9)
        self._jump_rows = settings.jump_rows
        self._ahead_ns = int(settings.ahead_max_s * 1e9)
        self._progress = {TopicPartition(*name): Progress(saved) for name, saved in resume or []}
        # Those that count: a topic that is no longer read must not hold back the others.
        self._assigned = set(self._progress)

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Hold ticks back for these partitions, and for no others, from now on; none at all means not yet known."""
        self._assigned = set(partitions) or self._assigned
        for partition in partitions:
            self._progress.setdefault(partition, Progress())

    def advance(self, partition: TopicPartition, time_ns: NDArray[np.int64], next_offset: int) -> NDArray[np.bool_]:
        """Move the partition along its rows; return bool[n], which of them are late."""
        progress = self._progress.setdefault(partition, Progress())
        self._assigned.add(partition)
        late = np.empty(len(time_ns), np.bool_)
        watermark_advance(
            time_ns,
            self._lateness_ns,
            self._jump_ns,
            self._jump_rows,
            progress.watermark_ns,
            progress.ahead_rows,
            progress.ahead_ns,
            late,
        )
        progress.next_offset = next_offset
        return late

    def complete_until_ns(self, idle: Collection[TopicPartition]) -> int:
        """Return the event time up to which no more rows can come; -1 while a partition has said nothing yet.

        Idle partitions hold nothing back; when all are idle, the furthest one counts.
        """
        holding = [self._progress[name].watermark_ns[0] for name in self._assigned.difference(idle)]
        if holding:
            slowest = min(holding)
            return int(slowest) - self._lateness_ns if slowest >= 0 else -1
        furthest = max((p.watermark_ns[0] for p in self._progress.values()), default=-1)
        return int(furthest) - self._lateness_ns if furthest >= 0 else -1

    def ahead(self, idle: Collection[TopicPartition]) -> frozenset[TopicPartition]:
        """Return the partitions so far ahead of the slowest one that holds that they should wait for it."""
        holding = [self._progress[name].watermark_ns[0] for name in self._assigned.difference(idle)]
        slowest = min((wm for wm in holding if wm >= 0), default=None)
        if slowest is None:
            return frozenset()
        limit = slowest + self._ahead_ns
        return frozenset(name for name, p in self._progress.items() if p.watermark_ns[0] > limit)

    def all_but_slowest(self, idle: Collection[TopicPartition]) -> frozenset[TopicPartition]:
        """Return every partition except the slowest one that holds: what to pause when too many rows wait."""
        holding = {name: int(self._progress[name].watermark_ns[0]) for name in self._assigned.difference(idle)}
        if not holding:
            return frozenset()
        slowest = min(holding, key=lambda name: (holding[name], name))
        return frozenset(self._progress) - {slowest}

    def next_offsets(self) -> dict[TopicPartition, int]:
        """Return where to resume each partition that was read."""
        return {name: p.next_offset for name, p in self._progress.items() if p.next_offset >= 0}

    def next_offset(self, partition: TopicPartition) -> int | None:
        """Return where to resume a partition; None if it was never read."""
        progress = self._progress.get(partition)
        return progress.next_offset if progress is not None and progress.next_offset >= 0 else None

    def watermark_ns(self, partition: TopicPartition) -> int:
        """Return the newest believed event time of a partition, -1 before the first."""
        progress = self._progress.get(partition)
        return int(progress.watermark_ns[0]) if progress is not None else -1

    def newest_ns(self) -> int:
        """Return the newest believed event time of all, -1 before the first."""
        return int(max((p.watermark_ns[0] for p in self._progress.values()), default=-1))

    def snapshot(self) -> list[list[Any]]:
        """Return the state of all partitions, in order of their names."""
        return [[list(name), self._progress[name].snapshot()] for name in sorted(self._progress)]
