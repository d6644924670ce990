"""The trial of the seam: nothing to say of the client that is pinned, and a word on whatever a later one may have changed."""

from __future__ import annotations

import inspect
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.errors import CorruptRecordError, KafkaConnectionError, KafkaError, LogTruncationError, RetriableError
from kafka.structs import TopicPartition as KafkaPartition
from structlog.testing import capture_logs

from service.ingest import kafka_client, kafka_codecs, kafka_fetch, kafka_seam
from service.ingest.contract import Corrupt, Record, TopicPartition
from service.ingest.kafka_fetch import RawBatches
from service.ingest.kafka_public import SKIPS_MAX, PublicRecords, Skips, Unreadable, _unreadable_at
from service.ingest.kafka_seam import raw_problem, reading_of, seam_problem
from service.ingest.records import Records
from service.settings import KafkaSettings

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def untold() -> Iterator[None]:
    """Let each test find and tell anew what is found and told once a process."""
    seam_problem.cache_clear()
    kafka_seam._say.cache_clear()
    yield
    seam_problem.cache_clear()
    kafka_seam._say.cache_clear()


def test_the_pinned_client_is_as_the_seam_needs_it() -> None:
    assert seam_problem() is None


def test_the_golden_log_holds_what_the_trial_is_about() -> None:
    records, positions = kafka_seam._read_by_client(kafka_seam._golden(codec=4))
    assert [record.offset for record in records] == [102, 103, 104, 108, 109, 110, 112]
    assert positions[-1] == kafka_seam.END
    assert [record.value for record in records[:3]] == [b"1", None, b""]
    assert all(len(record.headers) == 3 for record in records)
    assert records[3].key is None


def _without(name: str) -> Patch:
    """A client whose fetcher has no attribute of this name."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        born = Fetcher.__init__

        def init(self: Any, *arguments: Any, **settings: Any) -> None:
            born(self, *arguments, **settings)
            delattr(self, name)

        monkeypatch.setattr(Fetcher, "__init__", init)

    return patch


def _parses(change: Callable[[Any, Callable[..., Any]], Callable[..., Any]]) -> Patch:
    """A client that constructs what it fetched in another way."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        parse = Fetcher._parse_fetched_data

        def changed(self: Any, completed: Any) -> Any:
            ours = self.PartitionRecords
            self.PartitionRecords = change(self, ours)
            try:
                return parse(self, completed)
            finally:
                self.PartitionRecords = ours

        monkeypatch.setattr(Fetcher, "_parse_fetched_data", changed)

    return patch


def _renamed(_: Any, construct: Callable[..., Any]) -> Callable[..., Any]:
    def changed(*arguments: Any, aborted_transactions: Any = None, **settings: Any) -> Any:
        if inspect.isclass(construct):  # the client's own knows its new name
            return construct(*arguments, aborted_transactions=aborted_transactions, **settings)
        return construct(*arguments, aborted=aborted_transactions, **settings)

    return changed


def test_records_that_are_parked_are_handed_over_without_a_wait_behind_a_fetch_at_its_end() -> None:
    """The client looks at what is in line, finds it at its end, and would wait for news though others are parked."""
    log = kafka_seam._golden(codec=4)
    consumer = kafka_seam._consumer(log)
    here, there = KafkaPartition(*kafka_seam.PARTITION), KafkaPartition("other", 1)
    fetcher, subscription = consumer._fetcher, consumer._subscription
    [answer] = fetcher._completed_fetches
    subscription.assign_from_user([here, there])
    for partition in (here, there):
        subscription.seek(partition, kafka_seam.START)
    fetcher._completed_fetches = deque([answer._replace(topic_partition=there), answer])
    records_max, waits = 1, []

    def poll(timeout_ms: int) -> dict[object, object]:
        found: dict[object, object] = fetcher.fetched_records(records_max)[0]
        if not found:
            waits.append(timeout_ms)
        return found

    consumer.poll = poll
    reading = RawBatches(consumer)
    assert list(reading.poll(0)) == [there]
    subscription.pause(there)
    records_max = 7  # all of the golden log: its end is not known to be one yet
    assert list(reading.poll(0)) == [here]
    assert bool(fetcher._next_partition_records)
    subscription.resume(there)
    assert list(reading.poll(5_000)) == [there]
    assert set(waits) <= {0}


def _swapped(_: Any, construct: Callable[..., Any]) -> Callable[..., Any]:
    return lambda offset, there, *rest, **settings: (
        construct(offset, there, *rest, **settings)
        if inspect.isclass(construct)
        else construct(there, offset, *rest, **settings)
    )


def _unsubscribed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KafkaConsumer, "__init__", lambda self: None)


CHANGED: dict[str, tuple[Patch, str]] = {
    "no slot in line": (_without("_next_partition_records"), "AttributeError.*_next_partition_records"),
    "no parked records": (_without("_paused_partition_records"), "AttributeError.*_paused_partition_records"),
    "no queue of answers": (_without("_completed_fetches"), "AttributeError.*_completed_fetches"),
    "another constructor is called": (_parses(lambda fetcher, _: type(fetcher).PartitionRecords), "ConsumerRecord"),
    "an argument by another name": (_parses(_renamed), "none: records differ at 3"),
    "arguments in another order": (_parses(_swapped), "none: records differ at 0: .*, ours .nothing."),
    "nothing counts as paused": (
        lambda patch: patch.setattr(SubscriptionState, "is_paused", lambda *_: False),
        "none: records that were parked",
    ),
    "the high watermark means something else": (
        lambda patch: patch.setattr(KafkaConsumer, "highwater", lambda *_: 103),
        "none: records differ at 0: .*, ours .nothing.",
    ),
    "a consumer without a fetcher": (_unsubscribed, "KafkaConsumer has no _fetcher"),
    "records from before the position": (
        lambda patch: patch.setattr(Fetcher.PartitionRecords, "_maybe_skip_record", lambda *_: False),
        "none: records differ at 0",
    ),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_client_that_has_changed_inside_is_told_by_what_differs(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, text = CHANGED[change]
    patch(monkeypatch)
    found = seam_problem()
    assert found is not None
    assert re.search(text, found), found


def test_a_reader_of_ours_that_has_changed_is_told_by_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_fetch, "_aborted", lambda _: [])
    assert "none: records differ at 3" in str(seam_problem())


def test_a_codec_that_is_read_differently_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(kafka_codecs._CODECS, 3)
    assert "lz4: records differ at 0" in str(seam_problem())


class _Consumer:
    """A consumer without a broker."""

    def __init__(self) -> None:
        self._fetcher = type("Fetcher", (), {})()
        self.calls: list[tuple[object, ...]] = []
        self.waiting: set[object] = set()
        self.found: dict[object, object] = {}
        self.error: Exception | None = None

    def highwater(self, _: object) -> None:
        return None

    def seek(self, partition: object, offset: int) -> None:
        self.calls.append(("seek", partition, offset))

    def paused(self) -> set[object]:
        return self.waiting

    def poll(self, timeout_ms: int) -> dict[object, object]:
        if self.error is not None:
            raise self.error
        return self.found

    def position(self, partition: object, timeout_ms: int) -> int:
        raise LogTruncationError({})


def test_a_client_that_differs_is_read_record_by_record_and_that_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings()
    assert isinstance(reading_of(_Consumer(), settings, Skips()), RawBatches)
    monkeypatch.setattr(kafka_seam, "seam_problem", lambda: "zstd: records differ at 0")
    with capture_logs() as said:
        assert isinstance(reading_of(_Consumer(), settings, Skips()), PublicRecords)
        reading_of(_Consumer(), settings, Skips())
    (line,) = said
    assert (line["log_level"], line["reason"]) == ("warning", "zstd: records differ at 0")


def test_the_setting_off_needs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_seam, "seam_problem", lambda: pytest.fail("tried"))
    assert raw_problem(KafkaSettings(raw_batches="off")) == "source.kafka.raw_batches is off"


THERE = TopicPartition("topic", 0)


def test_an_unreadable_stretch_is_stepped_over_when_reading_reaches_it_and_not_while_it_is_paused() -> None:
    skips = Skips()
    skips.note(THERE, Corrupt(10, 20, "bad"))
    consumer = _Consumer()
    reading = PublicRecords(consumer, KafkaSettings(), skips)
    reading.begin(THERE, 12)
    consumer.waiting = {KafkaPartition(*THERE)}
    assert reading.poll(0) == {}
    consumer.waiting = set()
    assert reading.poll(0) == {THERE: [Corrupt(12, 20, "bad")]}
    assert reading.positions == {THERE: 20}
    assert consumer.calls[-1] == ("seek", KafkaPartition(*THERE), 20)
    assert reading.poll(0) == {}


def test_what_was_polled_is_handed_over_even_if_the_position_cannot_be_told() -> None:
    consumer = _Consumer()
    reading = PublicRecords(consumer, KafkaSettings(), Skips())
    reading.begin(THERE, 5)
    each = SimpleNamespace(offset=7, timestamp=1, key=None, value=b"v", headers=[("none", None)])
    consumer.found = {KafkaPartition(*THERE): [each]}
    (block,) = reading.poll(0)[THERE]
    assert list(Records([block])) == [Record(7, 1, None, b"v", [("none", b"")])]  # type: ignore[list-item]
    assert reading.positions == {THERE: 8}


@pytest.mark.parametrize(
    "error", [zlib.error("bad"), MemoryError(), CorruptRecordError("bad"), KafkaError("no progress")]
)
def test_after_an_error_while_unpacking_the_consumer_is_given_up_even_if_no_broker_can_be_asked(
    error: Exception,
) -> None:
    """Were it retriable, the source would ask the same consumer again, and that would never return."""
    consumer = _Consumer()
    consumer.error = error
    reading = PublicRecords(consumer, KafkaSettings(bootstrap_servers=["127.0.0.1:1"]), Skips())
    reading.begin(THERE, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka_client, "BOOTSTRAP_TIMEOUT_MS", 100)
        with pytest.raises(Unreadable, match="looking for the place") as raised:
            reading.poll(0)
    assert not isinstance(raised.value, RetriableError)


def test_errors_that_have_nothing_to_do_with_unpacking_are_raised_as_they_are() -> None:
    consumer = _Consumer()
    consumer.error = KafkaConnectionError("gone")
    with pytest.raises(KafkaConnectionError, match="gone"):
        PublicRecords(consumer, KafkaSettings(), Skips()).poll(0)


def test_only_so_many_unreadable_stretches_are_remembered() -> None:
    skips = Skips()
    for first in range(SKIPS_MAX + 1):
        skips.note(THERE, Corrupt(first, first + 1, "bad"))
    assert skips.at(THERE, 0) is None
    assert skips.at(THERE, SKIPS_MAX) == (SKIPS_MAX, SKIPS_MAX + 1, "bad")
    assert skips.at(TopicPartition("other", 0), SKIPS_MAX) is None


class _Log:
    """A log of which some offsets cannot be read; counts how often it was asked."""

    def __init__(self, unreadable: set[int], end: int) -> None:
        self._unreadable = unreadable
        self._end = end
        self.asked = 0

    def end(self, _: object) -> int:
        return self._end

    def reads(self, _: object, offset: int) -> bool:
        self.asked += 1
        return offset not in self._unreadable


@given(st.integers(0, 50), st.integers(1, 5_000), st.integers(0, 5_000))
def test_a_bad_batch_is_stepped_over_exactly_and_found_in_few_questions(offset: int, bad: int, after: int) -> None:
    log = _Log(set(range(offset, offset + bad)), offset + bad + after)
    assert _unreadable_at(log, THERE, offset, "bad") == Corrupt(offset, offset + bad, "bad")  # type: ignore[arg-type]
    assert log.asked <= 30


@given(st.sets(st.integers(0, 200)), st.integers(0, 200), st.integers(1, 200))
def test_whatever_is_unreadable_reading_goes_on_where_it_can(unreadable: set[int], offset: int, more: int) -> None:
    end = offset + more
    found = _unreadable_at(_Log(unreadable | {offset}, end), THERE, offset, "bad")  # type: ignore[arg-type]
    assert found.first_offset == offset < found.next_offset <= end
    assert found.next_offset == end or found.next_offset not in unreadable
