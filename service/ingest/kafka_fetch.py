"""The one seam in kafka-python: what its fetcher builds from each answer, replaced by a reader that cannot stall.

`Fetcher._parse_fetched_data` constructs `self.PartitionRecords(...)` and calls `take` on it. That attribute is private;
the version is pinned, and kafka_seam tries it out at the start: a client that has changed is read another way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from service.ingest.contract import Corrupt, TopicPartition
from service.ingest.kafka_batches import AbortedTransaction, BatchReader
from service.ingest.kafka_buffers import Buffers
from service.ingest.kafka_reading import Reading
from service.ingest.records import RecordBlock

BYTES_PER_RECORD = 1 << 10  # larger records count as several, so that a limit in records bounds memory too


class FetchLedger:
    """How far each partition was read, and which trouble was met once: shared by all fetches of one consumer."""

    def __init__(self, end_of: Callable[[Any], int | None]) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self.unreadable: dict[TopicPartition, int] = {}
        self.buffers = Buffers()
        self._end_of = end_of
        self._suspects: dict[TopicPartition, int] = {}

    def end_of(self, partition: Any) -> int | None:
        """Return the high watermark that came with the fetch."""
        return self._end_of(partition)

    def is_confirmed(self, partition: TopicPartition, offset: int) -> bool:
        """Tell whether the bytes at `offset` were found bad before: once may have been the wire, twice is the log."""
        if self._suspects.pop(partition, None) == offset:
            return True
        self._suspects[partition] = offset
        return False

    def forget(self, partition: TopicPartition) -> None:
        """Drop what is known of a partition that is not ours any more, or will be read from elsewhere."""
        self.positions.pop(partition, None)
        self.unreadable.pop(partition, None)
        self._suspects.pop(partition, None)


class Taken(list[RecordBlock | Corrupt]):
    """What a fetch handed over. Its length is what the fetcher subtracts from max_poll_records: records, not blocks.

    Where a reader stopped before the end of its bytes the length is all that was asked for, so that this poll ends.
    """

    at_least = 0

    def __len__(self) -> int:
        records = sum(1 if isinstance(item, Corrupt) else len(item.offset) for item in self)
        size = sum(item.size() for item in self if isinstance(item, RecordBlock))
        return max(records, size // BYTES_PER_RECORD, self.at_least if records else 0)


class FetchedRecords:
    """Stands in for kafka-python's PartitionRecords; the attributes are those that its fetcher reads."""

    def __init__(self, ledger: FetchLedger, fetch_offset: int, tp: Any, records: Any, **settings: Any) -> None:
        self.topic_partition = tp
        self.fetch_offset = fetch_offset
        self.next_fetch_offset = fetch_offset
        self.leader_epoch = -1
        self.records_read = 0
        self.bytes_read = records.size_in_bytes()
        self._ledger = ledger
        self._aborted = _aborted(settings.get("aborted_transactions"))
        self._on_drain = settings.get("on_drain")
        self._fetched: Any = records
        self._reader: BatchReader | None = None
        if self.bytes_read and not records.has_next():
            # The fetcher gives up on such an answer with an exception that does not name the partition.
            ledger.unreadable[TopicPartition(*tp)] = fetch_offset

    def __bool__(self) -> bool:
        return self._fetched is not None

    def take(self, records_max: int) -> Taken:
        """Return the next items, and move on or drain: a fetch that did neither would be asked for ever."""
        partition = TopicPartition(*self.topic_partition)
        if self._reader is None:
            # Built late: only now does the consumer know the high watermark of this very answer.
            end = self._ledger.end_of(self.topic_partition)
            self._reader = BatchReader(
                self._fetched._buffer, self.fetch_offset, self._aborted, end, self._ledger.buffers
            )
        items = Taken(self._reader.read(records_max))
        position = self._reader.position
        if items and isinstance(items[-1], Corrupt):
            corrupt = items[-1]
            if not self._ledger.is_confirmed(partition, corrupt.first_offset):
                items.pop()
                position = corrupt.first_offset
        self.leader_epoch = self._reader.leader_epoch
        self.next_fetch_offset = self._ledger.positions[partition] = position
        self.records_read += len(items)
        if self._reader.done:
            self.drain()
        else:
            items.at_least = records_max
        return items

    def drain(self) -> None:
        """Let go of the bytes; the partition may be fetched again."""
        if self._fetched is not None:
            self._fetched = self._reader = None
            if self._on_drain is not None:
                self._on_drain(self)


class RawBatches(Reading):
    """Reads whole batches through the seam."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        super().__init__(consumer)
        self._ledger = install(consumer)
        self.positions = self._ledger.positions

    def forget(self, partition: TopicPartition) -> None:
        """Drop what is known of a partition that is not ours any more, or will be read from elsewhere."""
        self._ledger.forget(partition)

    def poll(self, timeout_ms: int) -> Mapping[Any, list[RecordBlock | Corrupt]]:
        """Return what was fetched; an answer without a whole batch is stepped past when it comes twice."""
        self._ledger.buffers.turn_over_when_large()
        try:
            return self._at_hand() or self._awaited(timeout_ms)
        except (OffsetOutOfRangeError, LogTruncationError):
            raise
        except KafkaError:
            if not self._ledger.unreadable:
                raise
            return self._step_past_unreadable()

    def _at_hand(self) -> Mapping[Any, list[RecordBlock | Corrupt]]:
        """Return what was fetched before.

        3.0.12 gives up on a poll, and waits for news, when the records in line turn out to be at their end, however many
        others are parked behind them.
        """
        for _ in range(release_parked(self.consumer)):
            fetched = self._awaited(timeout_ms=0)
            if fetched or not release_parked(self.consumer):
                return fetched
        return {}

    def _awaited(self, timeout_ms: int) -> Mapping[Any, list[RecordBlock | Corrupt]]:
        fetched: Mapping[Any, list[RecordBlock | Corrupt]] = self.consumer.poll(timeout_ms=timeout_ms)
        return fetched

    def _step_past_unreadable(self) -> dict[Any, list[RecordBlock | Corrupt]]:
        stepped: dict[Any, list[RecordBlock | Corrupt]] = {}
        for partition, offset in self._ledger.unreadable.items():
            if partition in self.positions and self._ledger.is_confirmed(partition, offset):
                self.begin(partition, offset + 1)
                stepped[partition] = [Corrupt(offset, offset + 1, "batch length beyond the bytes fetched")]
        self._ledger.unreadable.clear()
        return stepped


def install(consumer: KafkaConsumer) -> FetchLedger:
    """Make `consumer.poll()` return RecordBlock and Corrupt items, and return the ledger of its positions."""
    ledger = FetchLedger(consumer.highwater)
    consumer._fetcher.PartitionRecords = partial(FetchedRecords, ledger)
    return ledger


def release_parked(consumer: KafkaConsumer) -> int:
    """Let records that were parked while their partition was paused be handed over again; return how many are at hand.

    3.0.12 takes them back only while its slot for the records in line is None. It leaves a drained, merely false object
    there, and parks the records of a partition that has been paused since only after it has looked for parked ones: a
    poll then finds nothing to hand over and nothing to wait for, and sleeps for 100 ms.
    """
    fetcher, is_paused = consumer._fetcher, consumer._subscription.is_paused
    in_line = fetcher._next_partition_records
    if in_line and is_paused(in_line.topic_partition):
        fetcher._paused_partition_records[in_line.topic_partition] = in_line
        in_line = None
    if not in_line:
        fetcher._next_partition_records = None
    parked = sum(not is_paused(partition) for partition in fetcher._paused_partition_records)
    return parked + bool(in_line)


def _aborted(transactions: Sequence[Any] | None) -> list[AbortedTransaction]:
    return [AbortedTransaction(each.producer_id, each.first_offset) for each in transactions or ()]
