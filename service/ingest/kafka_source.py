"""KafkaSource: the telemetry topics as a Source, read as a member of their group, with every trouble of the log named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import structlog
from kafka import KafkaConsumer
from kafka.errors import (
    FencedInstanceIdError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    OffsetOutOfRangeError,
    RetriableError,
)
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as KafkaPartition

from service.clock import Clock
from service.errors import Unavailable
from service.ingest.contract import Corrupt, Gap, RecordBatch, TopicPartition
from service.ingest.kafka_client import Backoff, built, client_arguments
from service.ingest.kafka_gaps import ASK_TIMEOUT_MS, out_of_range, truncated
from service.ingest.kafka_group import FencedMember, Membership, at_once, group_arguments, joined
from service.ingest.kafka_public import Skips
from service.ingest.kafka_reading import Reading
from service.ingest.kafka_seam import raw_problem, reading_of
from service.ingest.records import RecordBlock, Records
from service.settings import KafkaSettings

ASK_ENDS_EVERY_S = 2.0
TOPIC_TIMEOUT_MS = 3_000
ASSIGNED_WAIT_S = 0.05  # nothing can come before the caller has sought what was assigned meanwhile
SILENCE_MAX_S = 5.0  # without any answer for so long the brokers count as unavailable
REBUILD_AFTER_S = 60.0  # a client never looks at its bootstrap addresses again; a new one does
CLOSE_TIMEOUT_MS = 5_000

_log = structlog.get_logger(__name__)


class KafkaSource:
    """Reads the topics of `settings` as a member of their group; connects at the first poll.

    Positions are ours: the group's committed offsets are written for lag tools and never read. A partition that was
    revoked or lost is missing from the next `assigned()`, even if it came back meanwhile, so that its state is dropped.
    Where the configured beginning was asked for, an empty batch tells the offset that it turned out to be.
    """

    live: ClassVar[bool] = True

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._arguments = client_arguments(settings) | group_arguments(settings)
        self._consumer: Any = None
        self._subscribed = False
        self._membership = Membership()
        self._reads_raw = raw_problem(settings) is None
        self._reading: Reading | None = None
        self._skips = Skips()
        self._wanted: dict[TopicPartition, int | None] = {}
        self._handed: dict[TopicPartition, int] = {}  # next offset as the caller knows it; -1: not told yet
        self._ends: dict[TopicPartition, int] = {}
        self._gaps: list[Gap] = []
        self._heard_s = clock.monotonic_s()
        self._ask_at_s = self._heard_s
        self._backoff = Backoff(clock)
        self._fenced = False

    def reads_raw(self) -> bool:
        """Tell whether batches are read whole rather than record by record."""
        return self._reads_raw

    def assigned(self) -> frozenset[TopicPartition]:
        """Return the partitions that are ours now; one that was taken away meanwhile is missing until the next poll."""
        self._forget(self._membership.update())
        return self._membership.report()

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        """Start `partition` at `offset`, or for None at `settings.start`; takes effect at the next poll."""
        self._forget([partition])
        self._wanted[partition] = offset

    def poll(self, timeout_s: float, paused: frozenset[TopicPartition]) -> list[RecordBatch]:
        """Return batches of unpaused partitions. Raises Unavailable, or FencedMember when this process must end."""
        if self._fenced:
            raise self._fenced_member()
        self._membership.begin_poll()
        reading = self._connected()
        try:
            fetched = self._fetch(reading, timeout_s, paused)
        except (KafkaError, OSError, RuntimeError) as error:
            # RuntimeError and OSError: the client's IO loop has died, after which every call raises what killed it.
            raise self._trouble(error) from error
        self._forget(self._membership.update())
        return self._batches(reading, fetched)

    def ended(self, partition: TopicPartition) -> bool:
        """Tell whether everything below the end, as a broker gave it in the last seconds, was handed over."""
        end = self._ends.get(partition)
        return end is not None and self._handed.get(partition, -1) >= end

    def behind(self, partition: TopicPartition) -> int | None:
        """Return the lag against the end that a broker gave in the last seconds."""
        end, handed = self._ends.get(partition), self._handed.get(partition, -1)
        return None if end is None or handed < 0 else max(end - handed, 0)

    def gaps(self) -> list[Gap]:
        """Return the gaps found since the last call."""
        found, self._gaps = self._gaps, []
        return found

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Send the offsets of partitions that are ours, without waiting for the answer."""
        offsets = {
            KafkaPartition(*partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in next_offsets.items()
            if partition in self._handed
        }
        if self._consumer is None or not offsets:
            return
        try:
            self._consumer.commit_async(offsets, callback=self._committed)
        except (KafkaError, OSError, RuntimeError) as error:
            self._committed(offsets, error)

    def close(self) -> None:
        """Leave the group."""
        consumer, self._consumer = self._consumer, None
        self._subscribed = False
        if consumer is None:
            return
        try:
            consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)
        except (KafkaError, OSError, RuntimeError) as error:
            _log.warning("kafka consumer did not close in order", error=repr(error))

    def _connected(self) -> Reading:
        """Return what reads from a consumer that has joined or is joining the group."""
        if self._consumer is None:
            self._backoff.check(f"Kafka at {self._where()}")
        try:
            if self._consumer is None or self._reading is None:
                self._consumer = built(KafkaConsumer, self._arguments)
                self._reading = reading_of(self._consumer, self._settings, self._skips)
            if not self._subscribed:
                self._subscribe(self._consumer)
        except (KafkaError, OSError, RuntimeError) as error:
            raise self._trouble(error) from error
        return self._reading

    def _subscribe(self, consumer: Any) -> None:
        for topic in self._settings.topics:
            try:
                consumer.end_offsets([KafkaPartition(topic, 0)], timeout_ms=TOPIC_TIMEOUT_MS)
            except KafkaTimeoutError as error:
                raise Unavailable(f"topic {topic} at {self._where()}: expected a topic with a leader") from error
        self._heard()
        consumer.subscribe(list(self._settings.topics), listener=self._membership.listener(consumer))
        self._subscribed = True

    def _fetch(self, reading: Reading, timeout_s: float, paused: frozenset[TopicPartition]) -> Mapping[Any, Any]:
        consumer = reading.consumer
        try:
            if not joined(consumer):
                return {}
            self._forget(self._membership.update())
            self._start_wanted(reading)
            self._ask_ends(consumer)
            self._pause(consumer, paused)
            wait_s = timeout_s if self._handed else min(timeout_s, ASSIGNED_WAIT_S)
            fetched = reading.poll(max(0, int(wait_s * 1000)))
        except OffsetOutOfRangeError as error:
            for gap in out_of_range(consumer, error.args[0]):
                self._step_over(reading, gap)
        except LogTruncationError as error:
            for gap in truncated(consumer, error.divergent_offsets, reading.positions):
                self._step_over(reading, gap)
        else:
            if fetched:
                self._heard()
            return fetched
        return {}

    def _start_wanted(self, reading: Reading) -> None:
        starting = sorted(self._membership.current & self._wanted.keys())
        if not starting:
            return
        from_start = [KafkaPartition(*partition) for partition in starting if self._wanted[partition] is None]
        starts: dict[KafkaPartition, int] = {}
        if from_start:
            consumer = reading.consumer
            ask = consumer.end_offsets if self._settings.start == "latest" else consumer.beginning_offsets
            starts = ask(from_start, timeout_ms=ASK_TIMEOUT_MS)
        for partition in starting:
            offset = self._wanted.pop(partition)
            begin = starts[KafkaPartition(*partition)] if offset is None else offset
            reading.begin(partition, begin)
            self._handed[partition] = -1 if offset is None else begin
        self._ask_at_s = self._clock.monotonic_s()

    def _ask_ends(self, consumer: Any) -> None:
        """Ask where the logs end. Fetches can't tell: a broker that is down and one without news are equally silent."""
        now_s = self._clock.monotonic_s()
        if not self._handed or now_s < self._ask_at_s:
            return
        self._ask_at_s = now_s + ASK_ENDS_EVERY_S
        partitions = [KafkaPartition(*partition) for partition in self._handed]
        try:
            ends = consumer.end_offsets(partitions, timeout_ms=ASK_TIMEOUT_MS)
        except RetriableError:
            self._ends.clear()
            if now_s - self._heard_s > SILENCE_MAX_S:
                raise
            return
        self._ends = {TopicPartition(*partition): end for partition, end in ends.items()}
        self._heard()

    def _pause(self, consumer: Any, paused: frozenset[TopicPartition]) -> None:
        for partition in consumer.assignment():
            ours = TopicPartition(*partition)
            at_once(consumer.resume if ours in self._handed and ours not in paused else consumer.pause, ours)

    def _step_over(self, reading: Reading, gap: Gap) -> None:
        partition = TopicPartition(gap.topic, gap.partition)
        if partition not in self._handed:
            return
        reading.begin(partition, gap.next_offset)
        self._gaps.append(gap)
        _log.error("gap in the log", **gap._asdict())

    def _batches(self, reading: Reading, fetched: Mapping[Any, Any]) -> list[RecordBatch]:
        batches = []
        for partition, handed in self._handed.items():
            items: list[RecordBlock | Corrupt] = fetched.get(partition, [])
            next_offset = reading.positions[partition]
            if not items and next_offset == handed:
                continue
            corrupt = [item for item in items if isinstance(item, Corrupt)]
            records = Records([item for item in items if isinstance(item, RecordBlock)])
            batches.append(RecordBatch(*partition, next_offset, records, corrupt))
            self._handed[partition] = next_offset
        return batches

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            if self._reading is not None:
                self._reading.forget(partition)
            for known in (self._wanted, self._handed, self._ends):
                known.pop(partition, None)

    def _heard(self) -> None:
        self._heard_s = self._clock.monotonic_s()
        self._backoff.reset()

    def _trouble(self, error: Exception) -> Exception:
        """Turn a client's error into what the loop understands; drop a client that will not get over it by itself."""
        if isinstance(error, FencedInstanceIdError):
            return self._fenced_member()
        lasting = self._clock.monotonic_s() - self._heard_s > REBUILD_AFTER_S
        what = f"Kafka at {self._where()}: {type(error).__name__}: {error}"
        if isinstance(error, RetriableError) and not lasting and self._consumer is not None:
            return Unavailable(what)
        self.close()
        self._forget(self._membership.lose_all())
        self._heard_s = self._clock.monotonic_s()
        return Unavailable(what, retry_after_s=self._backoff.grow())

    def _committed(self, offsets: Mapping[Any, Any], answer: object) -> None:
        if isinstance(answer, FencedInstanceIdError):
            self._fenced = True
        if isinstance(answer, Exception):
            _log.warning("offset commit failed", error=repr(answer))

    def _fenced_member(self) -> FencedMember:
        return FencedMember(f"group_instance_id {self._settings.group_instance_id} is used by another process")

    def _where(self) -> str:
        return ",".join(self._settings.bootstrap_servers)
