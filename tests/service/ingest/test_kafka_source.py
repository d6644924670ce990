"""KafkaSource against a real broker: what a log may hold, what a group may do, and what may go wrong.

Every test that takes a `bench` runs on both paths, whole batches and record by record; where a promise can't be kept on
one of them, the test names its path and says what holds there instead.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest

from service.clock import SystemClock
from service.errors import Unavailable
from service.ingest import kafka_public, kafka_seam
from service.ingest.contract import Corrupt, Gap, Record, RecordBatch, TopicPartition
from service.ingest.kafka_codecs import EXPANDED_BYTES_MAX
from service.ingest.kafka_group import FencedMember
from service.ingest.kafka_source import KafkaSource
from service.settings import KafkaSasl, KafkaSettings
from tests.kafka.broker import PASSWORD, USER, Broker
from tests.kafka.fixtures import SOCKETS_LEFT, collected  # noqa: F401
from tests.kafka.topics import (
    Message,
    delete_before,
    flip,
    new_topic,
    numbered,
    topics,
    write,
    write_transaction,
)
from tests.service.ingest.source_contract import (
    NONE_PAUSED,
    PATIENCE_S,
    PROMISES,
    Make,
    from_start,
    opened,
    read_on,
    read_to_end,
    records,
)

pytestmark = [pytest.mark.kafka, SOCKETS_LEFT]


class Bench:
    """Makes sources of one broker, all on one path, and closes them after the test."""

    def __init__(self, broker: Broker, raw_batches: str) -> None:
        self.broker = broker
        self.raw_batches = raw_batches
        self.sources: list[KafkaSource] = []

    def source(self, *names: str, **settings: object) -> KafkaSource:
        chosen = {
            "bootstrap_servers": [self.broker.address],
            "group_id": f"group-{uuid4()}",
            "raw_batches": self.raw_batches,
        } | settings
        self.sources.append(KafkaSource(KafkaSettings(topics=list(names), **chosen), SystemClock()))  # type: ignore[arg-type]
        assert self.sources[-1].reads_raw() == (self.raw_batches == "auto")
        return self.sources[-1]

    def opened(self, *names: str, **settings: object) -> KafkaSource:
        source = opened(lambda: self.source(*names, **settings))
        assert isinstance(source, KafkaSource)
        return source

    def close(self) -> None:
        for source in self.sources:
            source.close()


BOTH_PATHS = pytest.mark.parametrize("path", ["auto", "off"], ids=["raw", "public"])


@pytest.fixture(params=["auto", "off"], ids=["raw", "public"])
def bench(broker: Broker, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(broker, request.param)
    yield bench
    bench.close()


@pytest.fixture
def raw_bench(broker: Broker) -> Iterator[Bench]:
    bench = Bench(broker, "auto")
    yield bench
    bench.close()


@pytest.fixture
def public_bench(broker: Broker) -> Iterator[Bench]:
    bench = Bench(broker, "off")
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def mixed(broker: Broker) -> str:
    """A topic with everything that advances offsets: plain and compressed batches, transactions, markers, tombstones."""
    topic = new_topic(broker, partitions=3)
    for partition in range(3):
        write(broker, topic, numbered(0, 40), partition)
        write_transaction(broker, topic, numbered(1000, 1010), commit=False, partition=partition)
        write(broker, topic, [Message(None, b"tombstone")], partition)
        write(broker, topic, numbered(40, 80), partition, compression_type="zstd")
        write_transaction(broker, topic, numbered(80, 90), commit=True, partition=partition)
    return topic


def whole(source: KafkaSource, offset: int | None = None) -> list[RecordBatch]:
    """Read the only partition from `offset` to its end."""
    (partition,) = source.assigned()
    return read_to_end(source, {partition: offset})[partition]


def values(batches: list[RecordBatch]) -> list[bytes | None]:
    return [record.value for record in records(batches)]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_kafka_keeps_the_promise_of_a_source(promise: Callable[[Make], None], bench: Bench, mixed: str) -> None:
    promise(lambda: bench.source(mixed, poll_records_max=25))


def test_reading_from_earliest_starts_with_the_first_record_and_from_latest_with_the_next_one(
    bench: Bench,
) -> None:
    topic = new_topic(bench.broker)
    write(bench.broker, topic, numbered(0, 5))
    earliest, latest = bench.opened(topic), bench.opened(topic, start="latest")
    assert values(whole(earliest)) == [b"0", b"1", b"2", b"3", b"4"]
    assert [(batch.next_offset, batch.records) for batch in whole(latest)] == [(5, [])]
    write(bench.broker, topic, numbered(5, 7))
    assert values(_poll_until(latest, records)) == [b"5", b"6"]


def test_the_offset_that_the_beginning_turned_out_to_be_is_told_before_any_record(
    bench: Bench,
) -> None:
    source = bench.opened(new_topic(bench.broker))
    assert [(batch.next_offset, batch.records) for batch in whole(source)] == [(0, [])]


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_is_read_from_its_middle_too(codec: str | None, bench: Bench) -> None:
    topic = new_topic(bench.broker)
    write(bench.broker, topic, numbered(0, 300), compression_type=codec)
    source = bench.opened(topic, poll_records_max=7)
    batches = whole(source, 123)
    assert values(batches) == [b"%d" % number for number in range(123, 300)]
    assert [len(batch.records) for batch in batches[:2]] == [7, 7]


def test_records_come_with_key_headers_and_timestamp_and_tombstones_without_a_value(
    bench: Bench,
) -> None:
    topic = new_topic(bench.broker)
    messages = [
        Message(b"plain", None, [], 1_767_960_000_001),
        Message(None, b"gone", [("a", b"1"), ("a", b""), ("é", b"\x00\xff")], 1_767_960_000_002),
    ]
    write(bench.broker, topic, messages)
    assert records(whole(bench.opened(topic))) == [
        Record(0, 1_767_960_000_001, None, b"plain", ()),
        Record(1, 1_767_960_000_002, b"gone", None, [("a", b"1"), ("a", b""), ("é", b"\x00\xff")]),
    ]


def test_aborted_transactions_and_markers_are_passed_and_their_offsets_count(bench: Bench) -> None:
    topic = new_topic(bench.broker)
    write_transaction(bench.broker, topic, numbered(0, 3), commit=False)  # offsets 0 to 2, marker 3
    write_transaction(bench.broker, topic, numbered(10, 12), commit=True)  # offsets 4 and 5, marker 6
    write_transaction(bench.broker, topic, numbered(20, 22), commit=False)  # offsets 7 and 8, marker 9
    source = bench.opened(topic)
    batches = whole(source)
    assert [(record.offset, record.value) for record in records(batches)] == [
        (4, b"10"),
        (5, b"11"),
    ]
    assert batches[-1].next_offset == 10
    assert source.ended(next(iter(source.assigned())))


def test_a_log_of_nothing_but_an_aborted_transaction_still_moves_on(bench: Bench) -> None:
    topic = new_topic(bench.broker)
    write_transaction(bench.broker, topic, numbered(0, 3), commit=False)
    batches = whole(bench.opened(topic))
    assert records(batches) == []
    assert batches[-1].next_offset == 4


def test_what_retention_took_is_a_gap_and_reading_goes_on_at_the_earliest(bench: Bench) -> None:
    topic = new_topic(bench.broker)
    write(bench.broker, topic, numbered(0, 10))
    delete_before(bench.broker, topic, 6)
    source = bench.opened(topic)
    batches = whole(source, 2)
    assert values(batches) == [b"6", b"7", b"8", b"9"]
    assert source.gaps() == [Gap(topic, 0, 2, 6, "retention")]
    assert source.gaps() == []


def test_a_log_shorter_than_our_position_is_a_gap_and_reading_goes_on_at_its_end(
    bench: Bench,
) -> None:
    topic = new_topic(bench.broker)
    write(bench.broker, topic, numbered(0, 10))
    source = bench.opened(topic)
    (partition,) = source.assigned()
    source.seek(partition, 500)
    assert [batch.next_offset for batch in _poll_until(source, len)] == [10]
    assert source.gaps() == [Gap(topic, 0, 500, 10, "truncation")]
    write(bench.broker, topic, numbered(10, 12))
    assert values(_poll_until(source, records)) == [b"10", b"11"]


def test_on_the_raw_path_a_corrupt_batch_is_named_and_its_neighbours_are_read(raw_bench: Bench) -> None:
    topic = _topic_with_a_corrupt_batch(raw_bench)
    source = raw_bench.opened(topic)
    batches = whole(source)
    assert values(batches) == NEIGHBOURS
    assert _corrupt(batches) == [Corrupt(10, 20, "checksum does not match")]
    assert batches[-1].next_offset == 30


@pytest.mark.parametrize("seam", [None, "the client differs"])
def test_on_the_public_path_a_corrupt_batch_is_named_without_a_rejoin_and_its_neighbours_are_read(
    public_bench: Bench, seam: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_seam, "seam_problem", lambda: seam)
    topic = _topic_with_a_corrupt_batch(public_bench)
    source = public_bench.opened(topic)
    batches, lost = _read_as_the_loop_does(source, {}, lambda found: found and found[-1].next_offset == 30)
    assert values(batches) == NEIGHBOURS
    assert [corrupt[:2] for corrupt in _corrupt(batches)] == [(10, 20)]
    assert "failed crc check" in _corrupt(batches)[0].detail
    assert lost == 0
    source.seek(*source.assigned(), 12)
    again = _poll_until(source, records)
    assert [corrupt[:2] for corrupt in _corrupt(again)] == [(12, 20)], "it is remembered"
    assert values(again) == NEIGHBOURS[10:]


def test_on_the_public_path_records_between_two_corrupt_batches_are_read_and_so_are_other_partitions(
    public_bench: Bench,
) -> None:
    """Looked for in steps that double, both batches would be one: the steps from 10 are 11, 13, 17, 25."""
    topic = new_topic(public_bench.broker, partitions=2)
    for first, end in ((0, 10), (10, 20), (20, 22), (22, 42), (42, 50)):
        write(public_bench.broker, topic, numbered(first, end))
        write(public_bench.broker, topic, numbered(first, end), partition=1)
    flip(public_bench.broker, topic, b"key-15")
    flip(public_bench.broker, topic, b"key-30")
    batches, lost = _read_as_the_loop_does(
        public_bench.opened(topic),
        {},
        lambda found: sum(batch.next_offset == 50 for batch in found) == 2,
    )
    assert [corrupt[:2] for corrupt in _corrupt(batches)] == [(10, 20), (22, 42)]
    good = [*range(10), *range(20, 22), *range(42, 50)]
    assert values([each for each in batches if each.partition == 0]) == [b"%d" % number for number in good]
    assert values([each for each in batches if each.partition == 1]) == [b"%d" % number for number in range(50)]
    assert lost == 0


NEIGHBOURS: list[bytes | None] = [b"%d" % number for number in (*range(10), *range(20, 30))]


def _topic_with_a_corrupt_batch(bench: Bench) -> str:
    topic = new_topic(bench.broker)
    for first in (0, 10, 20):
        write(bench.broker, topic, numbered(first, first + 10))
    flip(bench.broker, topic, b"key-15")
    return topic


def _corrupt(batches: list[RecordBatch]) -> list[Corrupt]:
    return [corrupt for batch in batches for corrupt in batch.corrupt]


def _read_as_the_loop_does(
    source: KafkaSource,
    positions: dict[TopicPartition, int],
    enough: Callable[[list[RecordBatch]], object],
) -> tuple[list[RecordBatch], int]:
    """Poll until enough was found, seeking what is newly shown to where it was; tell how often all was lost."""
    found: list[RecordBatch] = []
    sought: frozenset[TopicPartition] = frozenset()
    lost = 0
    deadline_s = time.monotonic() + PATIENCE_S
    while not enough(found):
        shown = source.assigned()
        for partition in shown - sought:
            source.seek(partition, positions.get(partition))
        lost += bool(sought and not shown)
        sought = shown
        with suppress(Unavailable):
            for batch in source.poll(0.2, NONE_PAUSED):
                found.append(batch)
                positions[TopicPartition(batch.topic, batch.partition)] = batch.next_offset
        assert time.monotonic() < deadline_s, f"found only {found}"
    return found, lost


def test_on_the_raw_path_a_last_batch_that_is_corrupt_does_not_hold_up_what_comes_later(raw_bench: Bench) -> None:
    topic = new_topic(raw_bench.broker)
    write(raw_bench.broker, topic, numbered(0, 10))
    flip(raw_bench.broker, topic, b"key-9")
    source = raw_bench.opened(topic)
    assert [corrupt[:2] for corrupt in _corrupt(whole(source))] == [(0, 10)]
    write(raw_bench.broker, topic, numbered(10, 11))
    assert values(_poll_until(source, records)) == [b"10"]


def test_on_the_public_path_a_last_batch_that_is_corrupt_does_not_hold_up_what_comes_later(
    public_bench: Bench,
) -> None:
    topic = new_topic(public_bench.broker)
    write(public_bench.broker, topic, numbered(0, 10))
    flip(public_bench.broker, topic, b"key-9")
    source = public_bench.opened(topic)
    batches, lost = _read_as_the_loop_does(source, {}, _corrupt)
    assert [corrupt[:2] for corrupt in _corrupt(batches)] == [(0, 10)]
    assert lost == 0
    write(public_bench.broker, topic, numbered(10, 11))
    assert values(_poll_until(source, records)) == [b"10"]


def test_on_the_public_path_an_error_that_does_not_come_back_costs_a_rejoin_and_no_record(
    public_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes may be damaged on the wire; whatever a decompressor makes of them is met once."""
    topic = new_topic(public_bench.broker)
    write(public_bench.broker, topic, numbered(0, 10))
    source = public_bench.opened(topic)
    monkeypatch.setattr(source._consumer, "poll", _raise)
    batches, lost = _read_as_the_loop_does(source, {}, records)
    assert values(batches) == [b"%d" % number for number in range(10)]
    assert (_corrupt(batches), lost) == ([], 1)


def _raise(**_: object) -> None:
    raise zlib.error("invalid distance too far back")


def test_on_the_raw_path_a_batch_that_expands_beyond_the_limit_is_corrupt(raw_bench: Bench) -> None:
    topic = _topic_with_a_bomb(raw_bench)
    batches = whole(raw_bench.opened(topic))
    assert values(batches) == [b"0", b"1"]
    assert [corrupt[:2] for corrupt in _corrupt(batches)] == [(1, 2)]
    assert "more than 67108864 bytes" in _corrupt(batches)[0].detail


def test_on_the_public_path_a_batch_that_expands_beyond_the_limit_is_expanded_and_handed_over_alone(
    public_bench: Bench,
) -> None:
    topic = _topic_with_a_bomb(public_bench)
    batches = whole(public_bench.opened(topic))
    assert [len(record.value or b"") for record in records(batches)] == [1, EXPANDED_BYTES_MAX + 1, 1]
    assert [len(batch.records) for batch in batches] == [1, 1, 1]


def _topic_with_a_bomb(bench: Bench) -> str:
    topic = new_topic(bench.broker)
    large = {"compression_type": "zstd", "max_request_size": 1 << 28}
    for message in (Message(b"0"), Message(bytes(EXPANDED_BYTES_MAX + 1)), Message(b"1")):
        write(bench.broker, topic, [message], **large)
    return topic


def test_on_the_public_path_no_more_bytes_are_handed_over_at_once_than_allowed_and_none_is_lost(
    public_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_public, "HANDED_BYTES_MAX", 100)
    topic = new_topic(public_bench.broker)
    write(public_bench.broker, topic, numbered(0, 300))
    batches = whole(public_bench.opened(topic, poll_records_max=200))
    assert values(batches) == [b"%d" % number for number in range(300)]
    sizes = [sum(len(r.key or b"") + len(r.value or b"") for r in batch.records) for batch in batches]
    assert 50 < max(sizes) <= 100


def test_an_absent_topic_is_unavailable_and_is_not_created(bench: Bench) -> None:
    source = bench.source("no-such-topic")
    with pytest.raises(Unavailable, match="topic no-such-topic"):
        source.poll(0, NONE_PAUSED)
    assert "no-such-topic" not in topics(bench.broker)


def test_the_end_follows_the_log(bench: Bench) -> None:
    topic = new_topic(bench.broker)
    source = bench.opened(topic)
    (partition,) = source.assigned()
    assert not source.ended(partition)
    whole(source)
    assert source.ended(partition)
    write(bench.broker, topic, numbered(0, 3))
    deadline_s = time.monotonic() + PATIENCE_S
    while source.ended(partition) and time.monotonic() < deadline_s:
        source.poll(0, frozenset({partition}))
    assert not source.ended(partition)
    assert values(read_on(source, {partition})[partition]) == [b"0", b"1", b"2"]


def test_committed_offsets_are_for_others_and_a_new_member_does_not_start_from_them(
    bench: Bench,
) -> None:
    topic = new_topic(bench.broker)
    write(bench.broker, topic, numbered(0, 4))
    first = bench.opened(topic, group_id=f"committing-{bench.raw_batches}")
    (partition,) = first.assigned()
    whole(first)
    deadline_s = time.monotonic() + PATIENCE_S
    while _committed(first, partition) != 3 and time.monotonic() < deadline_s:
        first.commit({partition: 3})  # one that falls into a rebalance is refused and not repeated
        first.poll(0.1, NONE_PAUSED)
    assert _committed(first, partition) == 3
    first.close()
    assert len(records(whole(bench.opened(topic, group_id=f"committing-{bench.raw_batches}")))) == 4


def _committed(source: KafkaSource, partition: TopicPartition) -> int | None:
    (there,) = [each for each in source._consumer.assignment() if each == partition]
    offset: int | None = source._consumer.committed(there)
    return offset


def test_a_second_member_takes_over_partitions_and_gives_them_back(bench: Bench) -> None:
    topic = new_topic(bench.broker, partitions=4)
    for partition in range(4):
        write(bench.broker, topic, numbered(0, 5), partition)
    first = bench.opened(topic, group_id=f"shared-{bench.raw_batches}")
    read_to_end(first, from_start(first))
    second = bench.source(topic, group_id=f"shared-{bench.raw_batches}")
    members = _Turns(first, second)
    members.until(lambda: members.has_read(second, 2) and len(members.shown[first]) == 2)
    kept, moved = members.shown[first], members.shown[second]
    assert kept | moved == {TopicPartition(topic, number) for number in range(4)}
    assert members.partitions_read(first) == frozenset(), "a kept partition is read on, not again"
    second.close()
    members.sources.remove(second)
    members.until(lambda: members.has_read(first, 2))
    assert members.partitions_read(first) == moved


class _Turns:
    """Polls several sources in turns as the loop does, seeking what is newly shown to the beginning."""

    def __init__(self, *sources: KafkaSource) -> None:
        self.sources = list(sources)
        self.shown = {source: source.assigned() for source in sources}
        self._read: dict[KafkaSource, dict[TopicPartition, int]] = {source: {} for source in sources}

    def partitions_read(self, source: KafkaSource) -> frozenset[TopicPartition]:
        return frozenset(self._read[source])

    def has_read(self, source: KafkaSource, partitions: int, count: int = 5) -> bool:
        return len(self._read[source]) == partitions and set(self._read[source].values()) == {count}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            for source in self.sources:
                self._turn(source)
            assert time.monotonic() < deadline_s, f"shown {self.shown}, read {self._read}"

    def _turn(self, source: KafkaSource) -> None:
        shown = source.assigned()
        for partition in shown - self.shown[source]:
            source.seek(partition, None)
        self.shown[source] = shown
        for batch in source.poll(0.1, NONE_PAUSED):
            if batch.records:
                partition = TopicPartition(batch.topic, batch.partition)
                self._read[source][partition] = self._read[source].get(partition, 0) + len(batch.records)


def test_a_member_whose_instance_name_is_taken_ends(bench: Bench) -> None:
    topic = new_topic(bench.broker)
    settings = {"group_id": f"static-{bench.raw_batches}", "group_instance_id": "one"}
    first = bench.opened(topic, **settings)
    (partition,) = first.assigned()
    whole(first)
    bench.opened(topic, **settings)
    deadline_s = time.monotonic() + PATIENCE_S
    with pytest.raises(FencedMember, match="one is used by another process"):
        while time.monotonic() < deadline_s:
            first.commit({partition: 0})
            first.poll(0.1, NONE_PAUSED)


@BOTH_PATHS
def test_a_broker_that_is_killed_is_unavailable_and_reading_goes_on_when_it_is_back(path: str, tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker").start()
    bench = Bench(broker, path)
    try:
        topic = new_topic(broker)
        write(broker, topic, numbered(0, 5))
        source = bench.opened(topic)
        (partition,) = source.assigned()
        assert len(records(whole(source))) == 5
        broker.kill()
        with pytest.raises(Unavailable):
            _poll_for_ever(source)
        assert not source.ended(partition)
        broker.start()
        write(broker, topic, numbered(5, 7))
        assert values(_poll_until(source, records)) == [b"5", b"6"]
        assert source.gaps() == []
    finally:
        bench.close()
        broker.stop()


def _poll_for_ever(source: KafkaSource) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        source.poll(0.2, NONE_PAUSED)


def _poll_until(source: KafkaSource, enough: Callable[[list[RecordBatch]], object]) -> list[RecordBatch]:
    """Poll until enough was found; Unavailable is no failure while the broker comes back."""
    found: list[RecordBatch] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not enough(found):
        with suppress(Unavailable):
            found += source.poll(0.2, NONE_PAUSED)
        assert time.monotonic() < deadline_s, f"found only {found}"
    return found


@BOTH_PATHS
def test_an_unreachable_broker_is_unavailable_and_leaves_no_thread_behind(path: Literal["auto", "off"]) -> None:
    before = threading.active_count()
    settings = KafkaSettings(bootstrap_servers=["127.0.0.1:1"], raw_batches=path)
    source = KafkaSource(settings, SystemClock())
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        source.poll(0, NONE_PAUSED)
    with pytest.raises(Unavailable) as refused:
        source.poll(0, NONE_PAUSED)
    assert refused.value.retry_after_s is not None
    assert threading.active_count() == before
    assert source.assigned() == frozenset()


@BOTH_PATHS
def test_sasl_lets_in_who_knows_the_password_and_tells_who_does_not(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(tmp_path / "broker", sasl=True).start()
    bench = Bench(broker, path)
    try:
        topic = new_topic(broker)
        write(broker, topic, numbered(0, 2))
        wrong = KafkaSasl(mechanism="PLAIN", username=USER, password="guess")  # type: ignore[arg-type]
        right = KafkaSasl(mechanism="PLAIN", username=USER, password=PASSWORD)  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            bench.source(topic, security="SASL_PLAINTEXT", sasl=wrong).poll(0, NONE_PAUSED)
        assert "guess" not in caplog.text
        assert len(records(whole(bench.opened(topic, security="SASL_PLAINTEXT", sasl=right)))) == 2
    finally:
        bench.close()
        broker.stop()
