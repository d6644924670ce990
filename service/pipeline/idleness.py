"""Which partitions have nothing more to say for now, and hold nobody back."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.ingest.contract import Source, TopicPartition


@dataclass(slots=True)
class Idleness:
    """Since when each partition has been read to its end without anything new (monotonic seconds)."""

    after_s: float
    since_s: dict[TopicPartition, float] = field(default_factory=dict)
    ended_s: dict[TopicPartition, float] = field(default_factory=dict)

    def update(self, source: Source, busy: set[TopicPartition], now_s: float) -> frozenset[TopicPartition]:
        """Return the partitions that hold nothing back; those of a finite input as soon as they ended."""
        idle = set()
        for partition in source.assigned():
            ended = source.ended(partition)
            if ended:
                self.ended_s[partition] = now_s
            if partition in busy:
                self.since_s[partition] = now_s
            silent_s = now_s - self.since_s.setdefault(partition, now_s)
            # Records that say nothing of GPUs keep a log from ending for long, and hold nothing back either.
            lately = now_s - self.ended_s.get(partition, -self.after_s) < self.after_s
            if (ended and not source.live) or (silent_s >= self.after_s and lately):
                idle.add(partition)
        return frozenset(idle)
