"""Capture: records of topics, as they lie in the log, into a file that a replay reads."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, cast

import zstandard

from service.clock import Clock
from service.errors import ConfigError, ConfigProblem, Unavailable
from service.ingest.contract import Record, RecordBatch, TopicPartition
from service.ingest.kafka_source import KafkaSource
from service.settings import KafkaSettings

POLL_S = 0.5
SILENCE_S = 30.0  # nothing assigned or answered for so long: the topic is not there, or the brokers are not


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
    """Write records of `topics` to `out` until the end of the log, `records_max` or a stop; return how many.

    One line a record: partition, offset, timestamp, key_b64, value_b64, headers; topic too when there are several.
    Reads as a group of its own, commits nothing, and leaves the service's group alone.
    """
    if start not in ("earliest", "latest"):
        raise ConfigError([ConfigProblem("--from", f"{start!r}; expected earliest or latest")])
    own = {"topics": list(topics), "group_id": f"{settings.group_id}-capture", "start": start, "group_instance_id": ""}
    source = KafkaSource(settings.model_copy(update=own), clock)
    count = 0
    sought: frozenset[TopicPartition] = frozenset()
    heard_s = clock.monotonic_s()
    try:
        with _opened(out) as file:
            while not stopped() and (records_max is None or count < records_max):
                for partition in source.assigned() - sought:
                    source.seek(partition, None)
                sought = source.assigned()
                batches = _poll(source, clock.monotonic_s() - heard_s)
                if batches or source.assigned():
                    heard_s = clock.monotonic_s()
                for batch in batches:
                    left = None if records_max is None else records_max - count
                    count += _write(file, batch, len(topics) > 1, left)
                assigned = source.assigned()
                if not batches and not follow and assigned and all(map(source.ended, assigned)):
                    break
    finally:
        source.close()
    return count


def _poll(source: KafkaSource, silent_s: float) -> list[RecordBatch]:
    try:
        return source.poll(POLL_S, frozenset())
    except Unavailable:
        if silent_s > SILENCE_S:
            raise
        return []


def _write(file: IO[bytes], batch: RecordBatch, with_topic: bool, left: int | None) -> int:
    records = batch.records if left is None else batch.records[:left]
    for record in records:
        line = ({"topic": batch.topic} if with_topic else {}) | {"partition": batch.partition} | _fields(record)
        file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    return len(records)


def _fields(record: Record) -> dict[str, object]:
    return {
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key_b64": _b64(record.key),
        "value_b64": _b64(record.value),
        "headers": [[name, _b64(value)] for name, value in record.headers],
    }


def _b64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _opened(path: Path) -> IO[bytes]:
    """Open for writing, compressed by the name's ending."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "wb"))
    if path.suffix == ".zst":
        raw = path.open("wb")
        writer = zstandard.ZstdCompressor().stream_writer(raw)
        return cast("IO[bytes]", io.BufferedWriter(cast("io.RawIOBase", writer)))
    return path.open("wb")
