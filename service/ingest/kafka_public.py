"""Records one by one through the client's public interface: slow, for when its inside is not what our seam relies on.

Whatever the client cannot unpack it raises, without a place, and from then on its poll spins for ever: behind such an
answer lies a dead generator that it goes on asking, until it finds the position to be another one. So a second consumer,
without a group, looks for the place, and the first lets go of its answers and steps over it. Where no place is found the
first consumer is given up: then nobody knows what ails it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from kafka import KafkaConsumer
from kafka.errors import (
    CorruptRecordError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)
from kafka.structs import TopicPartition as KafkaPartition

from service.ingest.contract import Corrupt, Record, TopicPartition
from service.ingest.kafka_client import built, client_arguments
from service.ingest.kafka_codecs import EXPANDED_BYTES_MAX
from service.ingest.kafka_fetch import RawBatches
from service.ingest.kafka_group import at_once, fetch_arguments
from service.ingest.kafka_reading import Reading
from service.ingest.records import RecordBlock, block_of
from service.settings import KafkaSettings

HANDED_BYTES_MAX = EXPANDED_BYTES_MAX  # of one partition at once, as on the raw path; a single record may be larger
SKIPS_MAX = 1_000  # remembered over rebuilds; one that was dropped is found again
PROBE_WAIT_MS = 2_000
ASK_TIMEOUT_MS = 5_000
BATCH_POLLS_MAX = 5  # the same bytes have to come twice
_UNPACKING = (KafkaError, CorruptRecordError, UnsupportedCodecError)

_log = structlog.get_logger(__name__)


class Unreadable(KafkaError):  # type: ignore[misc]
    """The client raised while it unpacked records, and no record that can be named is the reason; it may not be asked again."""


class Skips:
    """The stretches that were found unreadable. They outlive the consumer that met them."""

    def __init__(self) -> None:
        self._known: deque[tuple[TopicPartition, Corrupt]] = deque(maxlen=SKIPS_MAX)

    def note(self, partition: TopicPartition, corrupt: Corrupt) -> None:
        """Remember to step over it."""
        self._known.append((partition, corrupt))

    def at(self, partition: TopicPartition, offset: int) -> Corrupt | None:
        """Return what of a stretch lies at `offset` and after it."""
        for place, corrupt in self._known:
            if place == partition and corrupt.first_offset <= offset < corrupt.next_offset:
                return corrupt._replace(first_offset=offset)
        return None


class PublicRecords(Reading):
    """Reads through `consumer.poll()` as anybody may. Keeps its promises, but for bounded decompression."""

    def __init__(
        self, consumer: Any, settings: KafkaSettings, skips: Skips, knows_batches: Callable[[], bool] = lambda: False
    ) -> None:
        """`knows_batches` tells whether the seam may be used on a second consumer, to see where a bad batch ends."""
        super().__init__(consumer)
        self._settings = settings
        self._skips = skips
        self._knows_batches = knows_batches

    def poll(self, timeout_ms: int) -> Mapping[Any, list[RecordBlock | Corrupt]]:
        """Return what was fetched. Raises Unreadable, after which this consumer must be closed."""
        stepped = self._step_over_known()
        if stepped:
            return stepped
        try:
            polled = self.consumer.poll(timeout_ms=timeout_ms)
        except (OffsetOutOfRangeError, LogTruncationError):
            raise
        except Exception as error:  # unpacking may raise anything; what anything else raised goes on
            if not _while_unpacking(error):
                raise
            return self._over_what_raised(error)
        return self._taken(polled)

    def _over_what_raised(self, error: Exception) -> dict[Any, list[RecordBlock | Corrupt]]:
        """Step over what cannot be read at the positions; if all can be, raise: never something retriable."""
        what = f"{type(error).__name__}: {error}"
        try:
            found = self._locate(what)
            if found:
                self._let_go_of_answers()
        except (KafkaError, OSError, RuntimeError) as failed:
            trouble = f"{what}; looking for the place: {type(failed).__name__}: {failed}"
            raise Unreadable(trouble) from error
        if not found:
            raise Unreadable(f"{what}; read again, it is not so") from error
        return self._step_over_known()

    def _let_go_of_answers(self) -> None:
        """Make the client drop all answers that it has, the dead one among them: none is for the position after this one.

        What this poll may bring for those positions, be it an error, is dropped too when we return to where we are.
        """
        reading = [
            partition for partition in self.positions if KafkaPartition(*partition) not in self.consumer.paused()
        ]
        for partition in reading:
            at_once(self.consumer.seek, partition, self.positions[partition] + 1)
        try:
            self.consumer.poll(timeout_ms=0)
        except (OffsetOutOfRangeError, LogTruncationError):
            pass
        except Exception as error:  # unpacking may raise anything; what anything else raised goes on
            if not _while_unpacking(error):
                raise
        for partition in reading:
            at_once(self.consumer.seek, partition, self.positions[partition])

    def _step_over_known(self) -> dict[Any, list[RecordBlock | Corrupt]]:
        stepped: dict[Any, list[RecordBlock | Corrupt]] = {}
        paused = self.consumer.paused()
        for partition, offset in list(self.positions.items()):
            corrupt = self._skips.at(partition, offset)
            if corrupt is not None and partition not in paused:
                self.begin(partition, corrupt.next_offset)
                stepped[partition] = [corrupt]
        return stepped

    def _taken(self, polled: Mapping[Any, Sequence[Any]]) -> dict[Any, list[RecordBlock | Corrupt]]:
        taken: dict[Any, list[RecordBlock | Corrupt]] = {}
        for partition in list(self.positions):
            there = KafkaPartition(*partition)
            if there in polled:
                block = self._block(partition, polled[there])
                taken[partition] = [block]
                self.positions[partition] = int(block.offset[-1]) + 1
            self.positions[partition] = max(self.positions[partition], self._position(there))
        return taken

    def _position(self, there: Any) -> int:
        """Return the client's position, which also passes what holds no records; 0 where it does not tell.

        It raises what the next poll is for, a truncated log above all. What was polled is not lost for that.
        """
        try:
            return int(self.consumer.position(there, timeout_ms=0) or 0)
        except KafkaError:
            return 0

    def _block(self, partition: TopicPartition, found: Sequence[Any]) -> RecordBlock:
        records = [_record(each) for each in found]
        count = _fitting(records)
        if count < len(records):
            self.begin(partition, records[count].offset)
        return block_of(records[:count])

    def _locate(self, what: str) -> int:
        """Take note of what cannot be read at the positions, and return how much. Paused partitions were not asked for."""
        found = 0
        paused = self.consumer.paused()
        with _Probe(self._settings) as probe:
            for partition, offset in self.positions.items():
                there = KafkaPartition(*partition)
                if there in paused or offset >= probe.end(there) or probe.reads(there, offset):
                    continue
                corrupt = probe.batch_at(there, offset, what) if self._knows_batches() else None
                corrupt = corrupt or _unreadable_at(probe, there, offset, what)
                self._skips.note(partition, corrupt)
                found += 1
                _log.error("records cannot be unpacked", **partition._asdict(), **corrupt._asdict())
        return found


class _Probe:
    """Tells whether something can be read at a place, with a fresh consumer after each that raised."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._build: Callable[[], Any] = lambda: built(
            KafkaConsumer, client_arguments(settings) | fetch_arguments(settings)
        )
        self._consumer: Any = None

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the consumer up; the next question gets another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False)

    def consumer(self) -> Any:
        """Return a consumer that has not raised."""
        if self._consumer is None:
            self._consumer = self._build()
        return self._consumer

    def end(self, there: Any) -> int:
        """Return where the log ends."""
        return int(self.consumer().end_offsets([there], timeout_ms=ASK_TIMEOUT_MS)[there])

    def reads(self, there: Any, offset: int) -> bool:
        """Tell whether what lies at `offset` is unpacked; where there is nothing, that is so."""
        consumer = self.consumer()
        consumer.assign([there])
        consumer.seek(there, offset)
        try:
            consumer.poll(timeout_ms=PROBE_WAIT_MS, max_records=1)
        except Exception as error:  # unpacking may raise anything; what anything else raised goes on
            self.close()
            if not _while_unpacking(error):
                raise
            return False
        return True

    def batch_at(self, there: Any, offset: int, detail: str) -> Corrupt | None:
        """Return the rest of the batch that `offset` lies in, from the batch's own header, or None if that can be read."""
        self.close()
        reading = RawBatches(self.consumer())
        self.consumer().assign([there])
        reading.begin(TopicPartition(*there), offset)
        try:
            for _ in range(BATCH_POLLS_MAX):
                items = reading.poll(PROBE_WAIT_MS).get(there)
                if items:
                    first = items[0]
                    if isinstance(first, Corrupt) and first.first_offset == offset:
                        return first._replace(detail=detail)
                    return None
        finally:
            self.close()
        return None


def _while_unpacking(error: Exception) -> bool:
    """Tell whether records were the trouble: decompressors raise what they like, MemoryError included."""
    return not isinstance(error, KafkaError) or type(error) in _UNPACKING


def _unreadable_at(probe: _Probe, there: Any, offset: int, detail: str) -> Corrupt:
    """Return the stretch that cannot be read from `offset` on, which cannot be, found in steps that double and then halve.

    For a client whose inside is not known: a batch may hold a million offsets, so they are not tried one by one. The
    price: readable records between two bad batches may be stepped over with them, named in the Corrupt; nothing is ever
    left out without a name.
    """
    end = probe.end(there)
    bad, good, step = offset, end, 1
    while bad + step < good:
        if probe.reads(there, bad + step):
            good = bad + step
        else:
            bad, step = bad + step, 2 * step
    while good - bad > 1:
        middle = (bad + good) // 2
        if probe.reads(there, middle):
            good = middle
        else:
            bad = middle
    return Corrupt(offset, good, detail)


def _record(each: Any) -> Record:
    # The raw path makes no difference between an empty header and none either.
    headers = [(name, value or b"") for name, value in each.headers]
    return Record(each.offset, each.timestamp, each.key, each.value, headers)


def _fitting(records: Sequence[Record]) -> int:
    """Return how many of the records may be handed over at once: at least one."""
    size = 0
    for count, record in enumerate(records):
        size += len(record.key or b"") + len(record.value or b"") + sum(len(v) for _, v in record.headers)
        if size > HANDED_BYTES_MAX and count:
            return count
    return len(records)
