"""Decoding ahead: the batches of one poll are decoded while the loop folds those of the poll before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from service.ingest.contract import RecordBatch, TopicPartition
from service.ingest.decode import Decoded


class Underway(NamedTuple):
    """A batch, what becomes of it, and with which poll it came."""

    batch: RecordBatch
    decoded: Future[Decoded]
    poll: int


class DecodingAhead:
    """Batches go in and come out in order, decoded; at most those of the newest poll are still underway.

    One thread, since decoders learn from what they read; its kernels hold no lock, so that it works beside the loop. What
    a poll may return bounds the memory. On a single core nothing is gained by a thread, and decoding happens at once.
    """

    def __init__(self, threaded: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "decode") if threaded else None
        self._underway: deque[Underway] = deque()
        self._poll = 0

    def put(self, batches: Sequence[RecordBatch], decode: Callable[[RecordBatch], Decoded]) -> None:
        """Begin to decode the batches of a poll."""
        self._poll += 1
        self._underway.extend(Underway(batch, self._begin(batch, decode), self._poll) for batch in batches)

    def take(self, everything: bool) -> list[tuple[RecordBatch, Decoded]]:
        """Return what came before the newest poll, or everything, waiting until it is decoded."""
        ready = []
        while self._underway and (everything or self._thread is None or self._underway[0].poll < self._poll):
            first = self._underway.popleft()
            ready.append((first.batch, first.decoded.result()))
        return ready

    def partitions(self) -> frozenset[TopicPartition]:
        """Return the partitions of which something is underway."""
        return frozenset(TopicPartition(each.batch.topic, each.batch.partition) for each in self._underway)

    def close(self) -> None:
        """Let go of what is underway; nothing of it was taken in."""
        self._underway.clear()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _begin(self, batch: RecordBatch, decode: Callable[[RecordBatch], Decoded]) -> Future[Decoded]:
        if self._thread is not None:
            return self._thread.submit(decode, batch)
        done: Future[Decoded] = Future()
        done.set_result(decode(batch))
        return done
