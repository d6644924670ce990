"""Capture: records of topics, as they lie in the log, into a file that a replay reads."""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, cast

import structlog
import zstandard
from kafka import KafkaConsumer
from kafka.errors import KafkaError
from kafka.structs import TopicPartition as KafkaPartition

from service.clock import Clock
from service.errors import ConfigError, ConfigProblem, Unavailable
from service.ingest.contract import Corrupt, Record, TopicPartition
from service.ingest.kafka_client import built, client_arguments
from service.ingest.kafka_group import fetch_arguments
from service.ingest.kafka_public import Skips
from service.ingest.kafka_reading import Reading
from service.ingest.kafka_seam import reading_of
from service.ingest.records import Records
from service.settings import KafkaSettings

POLL_MS = 500
ASK_TIMEOUT_MS = 5_000
SILENCE_MAX_S = 30.0  # before the end and without a record for so long: the brokers are not there

_log = structlog.get_logger(__name__)


def capture(
    settings: KafkaSettings,
    topics: Sequence[str],
    out: Path,
    clock: Clock,
    *,
    records_max: int | None = None,
    start: str = "earliest",
    follow: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Write records of `topics` to `out` up to the log's present end, `records_max` or a stop; return how many.

    One line a record: partition, offset, timestamp, key_b64, value_b64, headers; topic too when there are several.
    `out` is compressed by its ending, .gz or .zst; "-" is stdout. Joins no group. Raises Unavailable and ConfigError.
    """
    if start not in {"earliest", "latest"}:
        raise ConfigError([ConfigProblem("--from", f"{start!r}; expected earliest or latest")])
    arguments = client_arguments(settings) | fetch_arguments(settings)
    try:
        consumer = built(KafkaConsumer, arguments)
        try:
            reading = _Logs(reading_of(consumer, settings, Skips()), topics, start, follow)
            with _opened(out) as file:
                return _copy(reading, file, clock, records_max, stopped)
        finally:
            consumer.close(autocommit=False)
    except (KafkaError, RuntimeError) as error:
        where = ",".join(settings.bootstrap_servers)
        raise Unavailable(f"Kafka at {where}: {type(error).__name__}: {error}") from error


class _Logs:
    """All partitions of the topics, from their start to the end that they had when this began."""

    def __init__(self, reading: Reading, topics: Sequence[str], start: str, follow: bool) -> None:
        consumer = reading.consumer
        self.with_topic = len(topics) > 1
        self.is_live = follow
        self._reading = reading
        partitions = [each for topic in topics for each in _partitions(consumer, topic)]
        consumer.assign(partitions)
        self._ends: dict[Any, int] = consumer.end_offsets(partitions, timeout_ms=ASK_TIMEOUT_MS)
        starts = self._ends
        if start == "earliest":
            starts = consumer.beginning_offsets(partitions, timeout_ms=ASK_TIMEOUT_MS)
        for partition, offset in starts.items():
            reading.begin(TopicPartition(*partition), offset)

    def is_done(self) -> bool:
        """Tell whether all was read that was there at the beginning, unless it goes on beyond."""
        positions = self._reading.positions
        return not self.is_live and all(positions[partition] >= end for partition, end in self._ends.items())

    def read(self) -> list[tuple[Any, Record]]:
        """Return the next records, each with its partition; what came after the beginning only when following."""
        found = []
        for partition, items in self._reading.poll(POLL_MS).items():
            for item in items:
                if isinstance(item, Corrupt):
                    _log.warning("corrupt records left out", **partition._asdict(), **item._asdict())
                    continue
                found += [
                    (partition, record)
                    for record in Records([item])
                    if self.is_live or record.offset < self._ends[partition]
                ]
        return found


def _partitions(consumer: Any, topic: str) -> list[Any]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise Unavailable(f"topic {topic}: expected a topic that exists and may be read")
    return [KafkaPartition(topic, number) for number in sorted(numbers)]


def _copy(reading: _Logs, file: IO[bytes], clock: Clock, records_max: int | None, stopped: Callable[[], bool]) -> int:
    count = 0
    heard_s = clock.monotonic_s()
    while not reading.is_done() and not stopped() and count != records_max:
        left = None if records_max is None else records_max - count
        records = reading.read()[:left]
        for partition, record in records:
            file.write(_line(partition, record, reading.with_topic))
        count += len(records)
        if records:
            heard_s = clock.monotonic_s()
        elif not reading.is_live and clock.monotonic_s() - heard_s > SILENCE_MAX_S:
            raise Unavailable(f"no record in {SILENCE_MAX_S:.0f} s, before the end of the log")
    return count


def _line(partition: Any, record: Record, with_topic: bool) -> bytes:
    place = {"topic": partition.topic} if with_topic else {}
    fields = place | {
        "partition": partition.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key_b64": _b64(record.key),
        "value_b64": _b64(record.value),
        "headers": [[name, _b64(value)] for name, value in record.headers],
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _b64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _opened(path: Path) -> Any:
    if str(path) == "-":
        return nullcontext(sys.stdout.buffer)
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "wb")
        if path.suffix == ".zst":
            return cast("Any", zstandard.open(path, "wb"))
        return path.open("wb")
    except OSError as error:
        raise ConfigError([ConfigProblem("--out", f"{path} cannot be written: {error.strerror}")]) from error
