"""The seam tried out: a golden log read by our reader and by the client's own, before either reads for anybody."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count, zip_longest
from types import SimpleNamespace
from typing import Any, cast

import structlog
from crc32c import crc32c
from kafka import KafkaConsumer
from kafka.consumer.fetcher import CompletedFetch, Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.protocol.consumer import FetchResponse
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.structs import TopicPartition as KafkaPartition

from service.ingest.contract import Corrupt, Record, TopicPartition
from service.ingest.kafka_batches import CONTROL, CRC_FROM, TRANSACTIONAL
from service.ingest.kafka_fetch import RawBatches
from service.ingest.kafka_public import PublicRecords, Skips
from service.ingest.kafka_reading import Reading
from service.ingest.kafka_sockets import read_more_at_once
from service.ingest.records import Records
from service.settings import KafkaSettings

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PARTITION = TopicPartition("golden", 0)
FIRST, START, END = 100, 102, 113  # of the golden log; a fetch may start amid a batch
AT_ONCE = 2  # no batch is taken in one go
POLLS_MAX = 20
PRODUCER = 7
ATTRIBUTES_AT = 21

_log = structlog.get_logger(__name__)


def reading_of(consumer: Any, settings: KafkaSettings, skips: Skips) -> Reading:
    """Return what reads from `consumer`: whole batches where that is wanted and works, else record by record."""
    problem = raw_problem(settings)
    if problem is None:
        read_more_at_once()
        return RawBatches(consumer)
    _say(problem)
    return PublicRecords(consumer, settings, skips, lambda: seam_problem() is None)


def raw_problem(settings: KafkaSettings) -> str | None:
    """Return why record batches are not read whole, or None."""
    return seam_problem() if settings.raw_batches == "auto" else "source.kafka.raw_batches is off"


@cache
def _say(problem: str) -> None:
    """Log it, once a process and not with each consumer."""
    _log.warning("records are read one by one, many times slower than whole batches", reason=problem)


@cache
def seam_problem() -> str | None:
    """Return the first difference between our reader and the client's own, or None; found once a process.

    A client that has changed inside may fail in any way.
    """
    try:
        return next(_differences(), None)
    except Exception as error:  # whatever it is, records are then read without the seam
        return f"the client is not built as expected: {type(error).__name__}: {error}"


def _differences() -> Iterator[str]:
    for name in ("_fetcher", "_subscription"):
        if not _sets(KafkaConsumer.__init__, name):
            yield f"KafkaConsumer has no {name}"
    for name, codec in CODECS.items():
        log = _golden(codec)
        theirs, ours = _read_by_client(log), _read_by_us(log)
        if theirs[0] != ours[0]:
            yield f"{name}: records {_first_difference(theirs[0], ours[0])}"
        if theirs[1] != ours[1]:
            yield f"{name}: positions {_first_difference(theirs[1], ours[1])}"
        if not theirs[0] or theirs[1][-1] != END:
            yield f"{name}: the client ends at {theirs[1][-1:]} after {len(theirs[0])} records, expected {END}"
        # Parking hands nothing over twice and loses nothing.
        if _read_by_us(log, pausing=True)[0] != ours[0]:
            yield f"{name}: records that were parked while their partition was paused are not those that come otherwise"


def _sets(function: Callable[..., Any], name: str) -> bool:
    return name in function.__code__.co_names


def _first_difference(theirs: Sequence[object], ours: Sequence[object]) -> str:
    pairs = enumerate(zip_longest(theirs, ours, fillvalue="nothing"))
    return next(f"differ at {i}: the client's {a!r}, ours {b!r}" for i, (a, b) in pairs if a != b)


def _read_by_client(log: bytes) -> tuple[list[Record], list[int]]:
    consumer = _consumer(log)
    records: list[Record] = []
    positions = []
    for _ in _until_drained(consumer):
        for found in consumer._fetcher.fetched_records(AT_ONCE)[0].values():
            records += [
                Record(each.offset, each.timestamp, each.key, each.value, tuple(each.headers)) for each in found
            ]
        positions.append(_position(consumer))
    return records, sorted(set(positions))


def _read_by_us(log: bytes, *, pausing: bool = False) -> tuple[list[Record | Corrupt], list[int]]:
    consumer = _consumer(log)
    reading = RawBatches(consumer)
    reading.positions[PARTITION] = START
    there = KafkaPartition(*PARTITION)
    records: list[Record | Corrupt] = []
    positions = []
    for turn in _until_drained(consumer):
        if pausing and turn % 2:
            consumer._subscription.pause(there)
            if reading.poll(0):
                raise ValueError("a paused partition was handed over")
            consumer._subscription.resume(there)
        for found in reading.poll(0).values():
            for item in found:
                if isinstance(item, Corrupt):
                    records.append(item)  # unlike anything that the client gives
                else:
                    records += [each._replace(headers=tuple(each.headers)) for each in Records([item])]
        if reading.positions[PARTITION] != _position(consumer):
            raise ValueError(f"at {_position(consumer)} the ledger says {reading.positions[PARTITION]}")
        positions.append(_position(consumer))
    return records, sorted(set(positions))


def _until_drained(consumer: Any) -> Iterator[int]:
    """Yield numbers until everything was handed over; a reader that does not end is one that differs."""
    fetcher = consumer._fetcher
    for turn in count():
        yield turn
        if not (fetcher._completed_fetches or fetcher._next_partition_records or fetcher._paused_partition_records):
            return
        if turn > POLLS_MAX:
            raise ValueError(f"not drained after {turn} polls")


def _position(consumer: Any) -> int:
    return int(consumer._subscription.assignment[KafkaPartition(*PARTITION)].position.offset)


def _consumer(log: bytes) -> Any:
    """Return as much of a consumer as the seam knows of, with an answer that has just arrived, and no network."""
    there = KafkaPartition(*PARTITION)
    subscription = SubscriptionState("none")
    subscription.assign_from_user([there])
    subscription.seek(there, START)
    network = SimpleNamespace(_manager=SimpleNamespace(_net=None))
    fetcher = Fetcher(network, subscription, isolation_level="read_committed", check_crcs=True)
    answer = FetchResponse.FetchableTopicResponse.PartitionData
    aborted = answer.AbortedTransaction(producer_id=PRODUCER, first_offset=FIRST + 5)
    arrived = answer(high_watermark=END, aborted_transactions=[aborted], records=log)
    fetcher._completed_fetches.append(CompletedFetch(there, START, 16, arrived, None))
    # The real class, unborn: its constructor would look for a broker.
    consumer = KafkaConsumer.__new__(KafkaConsumer)
    consumer._fetcher, consumer._subscription, consumer._closed = fetcher, subscription, True
    consumer.poll = lambda **_: fetcher.fetched_records(AT_ONCE)[0]
    return consumer


def _golden(codec: int) -> bytes:
    """Return a log with what a log may hold: END - FIRST offsets, of which START and later are asked for."""
    headers = [("a", b"1"), ("a", b""), ("é", b"\x00\xff")]
    return b"".join(
        (
            _batch(FIRST, codec, [b"x" * 300, b"0", b"1", None, b""], headers),
            _batch(FIRST + 5, codec, [b"aborted"] * 2, [], PRODUCER),
            _marker(FIRST + 7, kind=0),
            _batch(FIRST + 8, codec, [b"committed"] * 3, headers, PRODUCER),
            _marker(FIRST + 11, kind=1),
            _batch(FIRST + 12, codec, [b"last"], headers),
        )
    )


def _batch(
    base: int, codec: int, values: list[bytes | None], headers: list[tuple[str, bytes]], producer: int = -1
) -> bytes:
    builder = MemoryRecordsBuilder(2, codec, 1 << 20)
    if producer >= 0:
        builder.set_producer_state(producer, 0, 0, True)
    for i, value in enumerate(values):
        builder.append(timestamp=1_000 + 3 * i, key=b"key-%d" % i if i else None, value=value, headers=headers)
    builder.close()
    # The builder counts from 0; the base lies outside the checksum.
    return struct.pack(">q", base) + bytes(cast("bytearray", builder.buffer())[8:])


def _marker(base: int, kind: int) -> bytes:
    """Return a control batch, which no producer can write: 0 aborts, 1 commits."""
    builder = MemoryRecordsBuilder(2, 0, 1 << 20)
    builder.set_producer_state(PRODUCER, 0, 0, True)
    builder.append(timestamp=1, key=struct.pack(">hh", 0, kind), value=bytes(6), headers=[])
    builder.close()
    raw = bytearray(struct.pack(">q", base) + bytes(builder.buffer()[8:]))
    struct.pack_into(">h", raw, ATTRIBUTES_AT, TRANSACTIONAL | CONTROL)
    struct.pack_into(">I", raw, CRC_FROM - 4, crc32c(bytes(raw[CRC_FROM:])))
    return bytes(raw)
