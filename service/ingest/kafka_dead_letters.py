"""DeadLetterTopic: rejected records as JSON in a topic, acknowledged by all replicas before an offset may pass them."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from service.clock import Clock
from service.errors import Unavailable
from service.ingest.contract import REASONS
from service.ingest.kafka_client import Backoff, built, client_arguments
from service.ingest.letters import Letters, Room
from service.settings import DeadLetterSettings, KafkaSettings

SEND_TIMEOUT_MS = 10_000
FLUSH_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 1.0
UNFLUSHED_MAX = 10_000
UNFLUSHED_BYTES_MAX = 32 << 20
VALUE_BYTES_MAX = 512 << 10  # in base64 it fits into the 1 MiB that a broker takes unless told otherwise

_log = structlog.get_logger(__name__)


class _Message(NamedTuple):
    """A letter as it is sent: what it was made from may be gone."""

    key: bytes
    value: bytes
    reason: bytes


class DeadLetterTopic:
    """Letters of `settings.topic`, key `topic-partition-offset`, header `reason`; at least once, the key tells repeats.

    The topic must exist. Whatever was not acknowledged when a flush failed is kept, and sent again by the next flush
    through a new producer: the old one may hold an error that it will never get over.
    """

    def __init__(self, kafka: KafkaSettings, settings: DeadLetterSettings, clock: Clock) -> None:
        self._where = f"dead letter topic {settings.topic} at {','.join(kafka.bootstrap_servers)}"
        self._settings = settings
        self._arguments = client_arguments(kafka) | _producer_arguments()
        self._backoff = Backoff(clock)
        self._producer: Any = None
        self._unsent: deque[_Message] = deque()
        self._sent: deque[tuple[_Message, Any]] = deque()
        self._unflushed_bytes = 0

    def write(self, letters: Letters) -> None:
        """Take all the letters, or none and raise Unavailable: before more are taken the broker has to answer for many.

        What waits is bounded by UNFLUSHED_MAX letters or UNFLUSHED_BYTES_MAX, and those of one batch on top.
        """
        if len(self._unsent) + len(self._sent) >= UNFLUSHED_MAX or self._unflushed_bytes >= UNFLUSHED_BYTES_MAX:
            self.flush()
        place = f"{letters.topic}-{letters.partition}-"
        lines = letters.lines(min(self._settings.value_bytes_max, VALUE_BYTES_MAX))
        for offset, reason, line in zip(letters.offset.tolist(), letters.reason.tolist(), lines, strict=True):
            self._unsent.append(_Message(f"{place}{offset}".encode(), line.encode("ascii"), REASONS[reason].encode()))
            self._unflushed_bytes += len(line)

    def room(self) -> Room:
        """Return that the topic is the broker's to limit."""
        return Room()

    def flush(self) -> int:
        """Send what was not sent and wait for the acknowledgements. Returns 0; raises Unavailable."""
        if not self._unsent and not self._sent:
            return 0
        try:
            self._send()
            self._producer.flush(timeout=FLUSH_TIMEOUT_S)
            for _, future in self._sent:
                future.get(timeout=0)
        except (KafkaError, OSError, RuntimeError) as error:
            self._start_over()
            raise Unavailable(
                f"{self._where}: {type(error).__name__}: {error}",
                retry_after_s=self._backoff.grow(),
            ) from error
        self._sent.clear()
        self._unflushed_bytes = 0
        self._backoff.reset()
        return 0

    def close(self) -> None:
        """Flush and leave."""
        try:
            self.flush()
        finally:
            self._drop_producer()

    def _send(self) -> None:
        if self._producer is None:
            self._backoff.check(self._where)
            self._producer = built(KafkaProducer, self._arguments)
        while self._unsent:
            message = self._unsent[0]
            future = self._producer.send(
                self._settings.topic, key=message.key, value=message.value, headers=[("reason", message.reason)]
            )
            self._sent.append((message, future))
            self._unsent.popleft()

    def _start_over(self) -> None:
        self._unsent.extendleft(message for message, future in reversed(self._sent) if not future.succeeded())
        self._sent.clear()
        self._drop_producer()

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=CLOSE_TIMEOUT_S)
        except (KafkaError, OSError, RuntimeError) as error:
            _log.warning("kafka producer did not close in order", error=repr(error))


def _producer_arguments() -> dict[str, Any]:
    """Every setting that idempotence rests on by name: left to chance, one of them would turn it off with a warning."""
    return {
        "enable_idempotence": True,
        "acks": "all",
        "max_in_flight_requests_per_connection": 5,
        "delivery_timeout_ms": SEND_TIMEOUT_MS,
        "request_timeout_ms": SEND_TIMEOUT_MS // 2,
        "max_block_ms": SEND_TIMEOUT_MS // 2,
        "linger_ms": 5,
        "compression_type": "gzip",
        "max_request_size": 4 << 20,
    }
