"""Writing a simulated fleet in any wire format: to a Kafka topic, to NDJSON, or to a capture file."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from kafka import KafkaProducer
from kafka.errors import KafkaError

from service.clock import Clock
from service.errors import Unavailable
from service.ingest.kafka_client import built, client_arguments
from service.ingest.simulate.dcgm import Scrape
from service.ingest.simulate.encode import ENCODERS, VARIANTS, Encoder, Message
from service.ingest.simulate.plan import SECOND
from service.ingest.simulate.shard import NodeRows, Shard, SimulatedRow
from service.ingest.simulate.source import SimulateSource
from service.settings import KafkaSettings, SimulateSettings

PRODUCE_FORMATS: Final = (*ENCODERS, *VARIANTS)
MAX_BLOCK_MS: Final = 5_000  # a topic that does not exist, or brokers that take nothing, are told after so long


def ending_now(settings: SimulateSettings, clock: Clock, scenario: str) -> SimulateSource:
    """Return a simulation of `settings.duration_s` that ends now, at its beginning.

    Written at once, one that began now would lie in the future, and brokers refuse records more than an hour ahead
    of their own time (message.timestamp.after.max.ms).
    """
    source = SimulateSource(settings, clock, scenario, clock.now_ns() - round(settings.duration_s * SECOND))
    for partition in source.assigned():
        source.seek(partition, None)
    return source


class Emission(NamedTuple):
    """A message and the number of the partition whose nodes it comes from; a real topic may partition otherwise."""

    partition: int
    message: Message


class Sink(Protocol):
    """Where messages go."""

    def write(self, emission: Emission) -> None:
        """Take one message. Raises Unavailable when the other side does not."""
        ...

    def close(self) -> None:
        """Return once everything taken is written. Raises Unavailable otherwise."""
        ...


def produce(source: SimulateSource, format_name: str, sink: Sink, progress: Callable[[int], None]) -> int:
    """Write `source` from its beginning to its end, at its pace, close both, and return how many messages that took.

    `progress` is told the number of messages after every step. Raises ValueError on an unknown format.
    """
    written = 0
    try:
        for batch in emissions(source, format_name):
            for emission in batch:
                sink.write(emission)
            written += len(batch)
            progress(written)
    finally:
        source.close()
        sink.close()
    return written


def emissions(source: SimulateSource, format_name: str) -> Iterator[list[Emission]]:
    """Yield the messages of one step after the other, late ones in the step in which they arrive."""
    if format_name == "native":
        yield from _native(source)
        return
    encoder = ENCODERS.get(format_name) or VARIANTS.get(format_name)
    if encoder is None:
        raise ValueError(f"format: expected one of {', '.join(PRODUCE_FORMATS)}, got {format_name!r}")
    agents = [_Agent(shard, encoder) for shard in source.shards]
    for step in source.steps():
        yield [Emission(p, message) for p, agent in enumerate(agents) for message in agent.messages(step)]


def _native(source: SimulateSource) -> Iterator[list[Emission]]:
    for step in source.steps():
        yield [
            Emission(p, Message(line.timestamp_ms, line.key, line.value))
            for p, shard in enumerate(source.shards)
            for line in shard.lines(step)
        ]


class _Agent:
    """Scrapes the exporters of one partition: knows what it saw last, so that it can say which series ended."""

    def __init__(self, shard: Shard, encoder: Encoder) -> None:
        self._shard, self._encoder = shard, encoder
        self._seen: dict[int, dict[str, SimulatedRow]] = {}
        self._held: list[Message] = []

    def messages(self, step: int) -> list[Message]:
        """Return what reaches the log during `step`."""
        arriving: list[Message] = []
        late, self._held = self._held, []
        for served in self._shard.node_rows(step):
            messages = self._encoder(self._scrape(served))
            if served.trouble == "duplicated":
                messages *= 2
            if served.trouble == "reordered" and self._shard.delay_steps > 0:
                self._held.extend(messages[step % 2 :: 2])
                messages = messages[1 - step % 2 :: 2]
            arriving.extend(messages)
        return arriving + late

    def _scrape(self, served: NodeRows) -> Scrape:
        now = {row.labels.entity_key(): row for row in served.rows}
        before = self._seen.get(served.node.index, {})
        ended = [row for key, row in before.items() if key not in now or now[key].labels != row.labels]
        self._seen[served.node.index] = now
        return Scrape(served.node, served.event_time_ns, served.rows, ended)


class KafkaSink:
    """A topic. Every message is acknowledged by all replicas in sync before `close` returns."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        own = {"acks": "all", "linger_ms": 50, "compression_type": "lz4", "retries": 10, "max_block_ms": MAX_BLOCK_MS}
        self._topic = topic
        try:
            self._producer = built(KafkaProducer, client_arguments(settings) | own)
        except KafkaError as error:
            raise Unavailable(f"Kafka at {', '.join(settings.bootstrap_servers)}: {error!r}") from error
        self._failures: list[Exception] = []

    def write(self, emission: Emission) -> None:
        """Hand the message to the producer; waits while its buffer is full."""
        message = emission.message
        if self._failures:
            raise Unavailable(f"topic {self._topic}: {self._failures[0]!r}")
        try:
            sent = self._producer.send(
                self._topic, message.value, message.key, list(message.headers), timestamp_ms=message.timestamp_ms
            )
        except KafkaError as error:
            raise Unavailable(f"topic {self._topic}: {error!r}") from error
        sent.add_errback(self._failures.append)

    def close(self) -> None:
        """Wait for the acknowledgements and leave."""
        try:
            self._producer.flush()
        except KafkaError as error:
            self._failures.append(error)
        self._producer.close()
        if self._failures:
            raise Unavailable(f"topic {self._topic}: {self._failures[0]!r}")


class FileSink:
    """A file: bare values line by line (not for protobuf), or captures with partition, offset, key and headers; .gz packs."""

    def __init__(self, path: Path, capture: bool) -> None:
        self._capture = capture
        self._offsets: dict[int, int] = {}
        raw = path.open("wb")
        # No name and no time in the gzip header: the same seed gives the same file.
        self._file: io.BufferedIOBase | gzip.GzipFile = raw
        if path.suffix == ".gz":
            self._file = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
        self._raw = raw

    def write(self, emission: Emission) -> None:
        """Append one line."""
        value = self._captured(emission) if self._capture else emission.message.value
        self._file.write(value if value.endswith(b"\n") else value + b"\n")

    def _captured(self, emission: Emission) -> bytes:
        partition, message = emission
        offset = self._offsets.get(partition, 0)
        self._offsets[partition] = offset + 1
        document = {
            "partition": partition,
            "offset": offset,
            "timestamp": message.timestamp_ms,
            "key_b64": None if message.key is None else base64.b64encode(message.key).decode(),
            "value_b64": base64.b64encode(message.value).decode(),
            "headers": [[name, base64.b64encode(value).decode()] for name, value in message.headers],
        }
        return json.dumps(document).encode()

    def close(self) -> None:
        """Write what is buffered."""
        self._file.close()
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
