"""The saver: makes one checkpoint at a time durable, on a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from service.clock import Clock
from service.ingest.contract import TopicPartition
from service.pipeline.checkpoint import Checkpoint, CheckpointStore
from service.pipeline.cut import Cut


@dataclass(frozen=True, slots=True)
class Saved:
    """A durable checkpoint: offsets it covers, wall time of its instant, and how long it took."""

    next_offsets: Mapping[TopicPartition, int]
    taken_ns: int
    seconds: float


class Saver:
    """Begins a checkpoint, says whether the state that it reads may change, and hands the outcome back once."""

    def __init__(self, store: CheckpointStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._running: tuple[Cut, Future[Saved]] | None = None

    def begin(self, cut: Cut, extras: Mapping[str, Any], next_offsets: Mapping[TopicPartition, int]) -> None:
        """Start to write a cut. The one before must have been taken."""
        assert self._running is None, "at most one checkpoint is in flight"
        self._running = cut, self._thread.submit(self._save, cut, extras, next_offsets)

    def _save(self, cut: Cut, extras: Mapping[str, Any], next_offsets: Mapping[TopicPartition, int]) -> Saved:
        taken_ns, begun_s = self._clock.now_ns(), self._clock.monotonic_s()
        try:
            self._store.save(Checkpoint(cut.state, extras, cut.read, cut.texts))
        finally:
            cut.close()
        return Saved(next_offsets, taken_ns, self._clock.monotonic_s() - begun_s)

    def busy(self) -> bool:
        """Tell whether a checkpoint was begun and its outcome was not taken yet."""
        return self._running is not None

    def release(self) -> bool:
        """Tell whether ticks may change the state; asking brings it nearer."""
        return self._running is None or self._running[0].release()

    def outcome(self, wait: bool) -> Saved | None:
        """Return the checkpoint that has become durable, None while there is none. Raises Unavailable if it failed."""
        if self._running is None or not (wait or self._running[1].done()):
            return None
        _, future = self._running
        try:
            return future.result()
        finally:
            self._running = None

    def close(self) -> None:
        """Wait for the thread to end."""
        self._thread.shutdown()
