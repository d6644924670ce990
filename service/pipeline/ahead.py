"""Decoding ahead: the batches of a few polls are decoded while the loop folds those of polls before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from service.ingest.contract import RecordBatch, TopicPartition
from service.ingest.decode import Decoded

# Ticks come in bursts, once every partition has come so far: with one poll underway the loop waited for the decoder between
# them, and the decoder for the loop during them. A poll is a few MiB, see BatchReader.
POLLS_MAX = 2


class Underway(NamedTuple):
    """A batch, what becomes of it, and with which poll it came."""

    batch: RecordBatch
    decoded: Future[Decoded]
    poll: int


class DecodingAhead:
    """Batches go in and come out in order, decoded; those of the newest POLLS_MAX polls may still be underway.

    One thread, since decoders learn from what they read; its kernels hold no lock, so that it works beside the loop. What
    polls may return bounds the memory. On a single core nothing is gained by a thread, and decoding happens at once.
    """

    def __init__(self, threaded: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "decode") if threaded else None
        self._underway: deque[Underway] = deque()
        self._poll = 0
        self._fed = False  # whether the newest poll brought anything

    def put(self, batches: Sequence[RecordBatch], decode: Callable[[RecordBatch], Decoded]) -> None:
        """Begin to decode the batches of a poll."""
        self._poll += 1
        self._fed = bool(batches)
        self._underway.extend(Underway(batch, self._begin(batch, decode), self._poll) for batch in batches)

    def take(self, everything: bool) -> list[tuple[RecordBatch, Decoded]]:
        """Return what is decoded, or everything; waits for what came too long ago, and for something if no more came."""
        ready: list[tuple[RecordBatch, Decoded]] = []
        while self._underway:
            first = self._underway[0]
            waits = everything or self._poll - first.poll >= POLLS_MAX or not (self._fed or ready)
            if not (waits or first.decoded.done()):
                break
            self._underway.popleft()
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
