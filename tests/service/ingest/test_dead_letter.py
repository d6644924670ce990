"""Dead letters, in a file and in a topic, and the breaker: nothing is dropped without a word."""

from __future__ import annotations

import base64
import errno
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from kafka.structs import TopicPartition as KafkaPartition

from service.clock import SystemClock
from service.errors import CorruptState, FloodOfPoison, Unavailable
from service.ingest.contract import DeadLetter, DeadLetters, TopicPartition
from service.ingest.dead_letter import Breaker, DeadLetterFile
from service.ingest.kafka_dead_letters import DeadLetterTopic
from service.settings import DeadLetterSettings, KafkaSettings
from tests.kafka.broker import Broker
from tests.kafka.fixtures import SOCKETS_LEFT, collected  # noqa: F401
from tests.kafka.topics import client, new_topic, topics

pytestmark = SOCKETS_LEFT

SETTINGS = DeadLetterSettings(value_bytes_max=8)


def letter(offset: int, value: bytes | None = b"\x00\xffbad", **changes: Any) -> DeadLetter:
    digest = "" if value is None else sha256(value).hexdigest()
    whole = DeadLetter("gpu-telemetry", 3, offset, "malformed", "line 1\nof \x1b[2m 'it'", 1, digest, value, 17)
    return replace(whole, **changes)


class FileKeeper:
    """Letters in a file, and how to read them back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dead_letters.ndjson"

    def opened(self) -> DeadLetters:
        return DeadLetterFile(self.path, SETTINGS, None)

    def found(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]


class TopicKeeper:
    """Letters in a topic, and how to read them back."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.settings = SETTINGS.model_copy(update={"topic": new_topic(broker)})

    def opened(self) -> DeadLetters:
        return DeadLetterTopic(KafkaSettings(bootstrap_servers=[self.broker.address]), self.settings, SystemClock())

    def records(self) -> list[Any]:
        consumer = KafkaConsumer(**client(self.broker), enable_auto_commit=False)
        partition = KafkaPartition(self.settings.topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        end = consumer.end_offsets([partition])[partition]
        found: list[Any] = []
        while len(found) < end:
            found += consumer.poll(timeout_ms=500).get(partition, [])
        consumer.close()
        return found

    def found(self) -> list[dict[str, Any]]:
        return [json.loads(record.value) for record in self.records()]


Keeper = FileKeeper | TopicKeeper


@pytest.fixture(params=["file", pytest.param("topic", marks=pytest.mark.kafka)])
def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> Keeper:
    return FileKeeper(tmp_path) if request.param == "file" else TopicKeeper(request.getfixturevalue("broker"))


def test_a_letter_holds_where_the_record_lay_why_and_the_beginning_of_its_value(
    keeper: Keeper,
) -> None:
    letters = keeper.opened()
    letters.write([letter(41, b"0123456789")])
    letters.close()
    assert keeper.found() == [
        {
            "topic": "gpu-telemetry",
            "partition": 3,
            "offset": 41,
            "reason": "malformed",
            "detail": "line 1\nof \x1b[2m 'it'",
            "rejected_samples": 1,
            "sha256": sha256(b"0123456789").hexdigest(),
            "value_b64": base64.b64encode(b"01234567").decode(),
            "timestamp_ms": 17,
        }
    ]


def test_letters_are_there_in_order_once_flushed_and_flushing_again_adds_none(
    keeper: Keeper,
) -> None:
    letters = keeper.opened()
    letters.write([letter(1), letter(2)])
    letters.write([])
    letters.write([letter(3, None)])
    letters.flush()
    letters.flush()
    assert [each["offset"] for each in keeper.found()] == [1, 2, 3]
    assert keeper.found()[2]["value_b64"] is None
    letters.close()
    letters.close()
    assert len(keeper.found()) == 3


def test_hostile_text_stays_text(keeper: Keeper) -> None:
    letters = keeper.opened()
    letters.write([letter(1, detail='\ud800 \u2028 " } \n{', topic="t")])
    letters.close()
    assert [each["detail"] for each in keeper.found()] == ['\ud800 \u2028 " } \n{']


def test_a_second_process_adds_to_the_letters_of_the_first(keeper: Keeper) -> None:
    for offset in (1, 2):
        letters = keeper.opened()
        letters.write([letter(offset)])
        letters.close()
    assert [each["offset"] for each in keeper.found()] == [1, 2]


@pytest.mark.kafka
def test_key_and_header_of_a_letter_in_a_topic_name_record_and_reason(broker: Broker) -> None:
    keeper = TopicKeeper(broker)
    letters = keeper.opened()
    letters.write([letter(9)])
    letters.flush()
    assert [(each.key, each.headers) for each in keeper.records()] == [
        (b"gpu-telemetry-3-9", [("reason", b"malformed")])
    ]
    letters.close()


@pytest.mark.kafka
def test_a_dead_letter_topic_that_does_not_exist_is_unavailable_and_not_created(
    broker: Broker,
) -> None:
    settings = SETTINGS.model_copy(update={"topic": "no-such-letters"})
    letters = DeadLetterTopic(KafkaSettings(bootstrap_servers=[broker.address]), settings, SystemClock())
    letters.write([letter(1)])
    with pytest.raises(Unavailable, match="dead letter topic no-such-letters"):
        letters.flush()
    assert "no-such-letters" not in topics(broker)


@pytest.mark.kafka
def test_letters_that_no_broker_took_are_kept_and_sent_later(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker").start()
    try:
        keeper = TopicKeeper(broker)
        letters = keeper.opened()
        letters.write([letter(1)])
        letters.flush()
        broker.kill()
        letters.write([letter(2)])
        with pytest.raises(Unavailable):
            letters.flush()
        with pytest.raises(Unavailable) as too_early:
            letters.flush()
        assert too_early.value.retry_after_s
        letters.write([letter(3)])
        broker.start()
        _flush_at_last(letters)
        assert [each["offset"] for each in keeper.found()] == [1, 2, 3]
        letters.close()
    finally:
        broker.stop()


def _flush_at_last(letters: DeadLetters) -> None:
    clock = SystemClock()
    for _ in range(30):
        try:
            letters.flush()
        except Unavailable as trouble:
            clock.wait(min(trouble.retry_after_s or 0, 1))
        else:
            return
    raise AssertionError("the letters were not taken")


def test_resuming_cuts_what_came_after_the_checkpoint_so_that_a_replay_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "letters"
    first = DeadLetterFile(path, SETTINGS, None)
    first.write([letter(1), letter(2)])
    checkpoint = first.flush()
    first.write([letter(3), letter(4)])
    first.flush()
    whole = path.read_bytes()
    second = DeadLetterFile(path, SETTINGS, checkpoint)
    assert path.read_bytes() == whole[:checkpoint]
    second.write([letter(3)])
    second.write([letter(4)])
    assert second.flush() == len(whole)
    assert path.read_bytes() == whole
    first.close()
    second.close()


@pytest.mark.parametrize("torn", range(1, 40))
def test_half_a_line_is_cut_off_where_there_is_no_checkpoint(torn: int, tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = keeper.opened()
    letters.write([letter(1), letter(2)])
    letters.close()
    keeper.path.write_bytes(keeper.path.read_bytes()[:-torn])
    again = keeper.opened()
    again.write([letter(3)])
    again.close()
    assert [each["offset"] for each in keeper.found()] == [1, 3]


def test_a_long_torn_line_is_cut_back_to_the_line_before(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = keeper.opened()
    letters.write([letter(1)])
    letters.close()
    with keeper.path.open("ab") as file:
        file.write(b"x" * 200_000)
    keeper.opened().close()
    assert [each["offset"] for each in keeper.found()] == [1]


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = DeadLetterFile(keeper.path, SETTINGS, 5000)
    letters.write([letter(1)])
    assert letters.flush() == keeper.path.stat().st_size
    letters.close()
    assert [each["offset"] for each in keeper.found()] == [1]


def test_a_full_file_is_unavailable_and_takes_none_of_the_letters(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    letters = DeadLetterFile(path, SETTINGS.model_copy(update={"file_bytes_max": 4096}), None)
    letters.write([letter(1)])
    before = path.read_bytes()
    with pytest.raises(Unavailable, match="file_bytes_max 4096: expected the file to be moved away"):
        letters.write(
            [
                letter(2),
                letter(3, detail="long" * 999),
                *(letter(offset) for offset in range(4, 20)),
            ]
        )
    assert path.read_bytes() == before
    letters.write([letter(2)])
    letters.close()
    assert path.read_bytes().startswith(before)


def test_a_disk_that_fills_up_half_way_is_unavailable_and_leaves_no_half_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "letters"
    letters = DeadLetterFile(path, SETTINGS, None)
    letters.write([letter(1)])
    before = path.read_bytes()
    pwrite = os.pwrite
    room = 60

    def almost_full(file: int, block: memoryview, at: int) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = pwrite(file, block[:room], at)
        room -= written
        return written

    monkeypatch.setattr(os, "pwrite", almost_full)
    with pytest.raises(Unavailable, match="No space left on device"):
        letters.write([letter(2)])
    assert path.read_bytes() == before
    monkeypatch.undo()
    letters.write([letter(2)])
    letters.close()
    assert [json.loads(line)["offset"] for line in path.read_bytes().splitlines()] == [1, 2]


def test_a_failing_fsync_ends_the_process_instead_of_being_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = DeadLetterFile(tmp_path / "letters", SETTINGS, None)
    letters.write([letter(1)])

    def broken(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        letters.flush()
    monkeypatch.undo()
    letters.close()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    DeadLetterFile(tmp_path / "letters", SETTINGS, None).close()
    assert (tmp_path / "letters").stat().st_mode & 0o777 == 0o600


HERE, THERE = TopicPartition("topic", 0), TopicPartition("topic", 1)
LIMITS = DeadLetterSettings(breaker_ratio_max=0.5, breaker_window_records=10, breaker_run_records=6)


def test_gpus_that_there_is_no_room_for_do_not_open_the_breaker() -> None:
    breaker = Breaker(LIMITS)
    for _ in range(20):
        breaker.observe(HERE, 10, [(i, "entities_max") for i in range(10)])
    breaker.observe(HERE, 10, [(i, "late" if i % 2 else "entities_max") for i in range(10)])
    with pytest.raises(FloodOfPoison, match=r"late 6"):
        breaker.observe(HERE, 10, [(i, "late" if i % 5 else "entities_max") for i in range(10)])


def test_a_count_of_full_places_from_an_older_checkpoint_does_not_open_the_breaker() -> None:
    saved = {"partitions": [{"topic": HERE.topic, "partition": HERE.partition, "runs": [["entities_max", 9]]}]}
    Breaker(LIMITS, saved).observe(HERE, 1, [(0, "malformed")])


def rejects(outcomes: str) -> list[tuple[int, str]]:
    return [(i, "malformed") for i, outcome in enumerate(outcomes) if outcome == "x"]


def opens_at(outcomes: str, cuts: Sequence[int] = (), breaker: Breaker | None = None) -> str:
    """Return what the breaker says of the outcomes ('.' accepted, 'x' rejected), cut into batches; empty if nothing."""
    breaker = breaker or Breaker(LIMITS)
    edges = [0, *sorted(cuts), len(outcomes)]
    try:
        for start, end in itertools.pairwise(edges):
            breaker.observe(HERE, end - start, rejects(outcomes[start:end]))
    except FloodOfPoison as flood:
        return str(flood)
    return ""


def test_rejected_records_in_a_row_open_the_breaker() -> None:
    assert not opens_at("xxxxx.xxx")
    assert opens_at("....xxxxxx").startswith("topic/0: 6 records in a row were rejected (malformed 6): expected fewer")


def test_too_large_a_share_of_the_last_records_opens_the_breaker_once_the_window_is_full() -> None:
    assert not opens_at("x.x.x.x.x.x.x.x.x.")
    assert not opens_at("xx.xxxx.x")
    assert opens_at("xx.xxxx.x.x").startswith("topic/0: 7 of the last 10 records were rejected (malformed 7)")


def test_old_records_leave_the_window() -> None:
    assert not opens_at("xxxx." + "." * 10 + "xxxxx....." + "x" * 5)


def test_the_message_counts_by_reason_and_names_the_limits() -> None:
    breaker = Breaker(LIMITS)
    with pytest.raises(FloodOfPoison) as flood:
        breaker.observe(HERE, 6, [(i, "late" if i % 3 else "malformed") for i in range(6)])
    assert "(late 4, malformed 2)" in str(flood.value)
    assert "breaker_run_records 6 and breaker_ratio_max 0.5" in str(flood.value)


@given(st.text(alphabet="..x", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_where_the_log_is_cut_into_batches_makes_no_difference(outcomes: str, cuts: list[int]) -> None:
    inside = [cut for cut in cuts if cut <= len(outcomes)]
    assert opens_at(outcomes, inside) == opens_at(outcomes)


@given(st.text(alphabet="..x", max_size=40), st.integers(0, 40))
def test_a_breaker_resumed_from_its_snapshot_goes_on_as_if_nothing_had_happened(outcomes: str, cut: int) -> None:
    before, after = outcomes[:cut], outcomes[cut:]
    whole = Breaker(LIMITS)
    if opens_at(before, breaker=whole):
        return
    resumed = Breaker(LIMITS, json.loads(json.dumps(whole.snapshot())))
    assert resumed.snapshot() == whole.snapshot()
    assert opens_at(after, breaker=resumed) == opens_at(after, breaker=whole)


def _naive(outcomes: str) -> int | None:
    """Return the record at which the breaker must open, from the whole history."""
    for i, outcome in enumerate(outcomes):
        seen = outcomes[: i + 1]
        window = seen[-LIMITS.breaker_window_records :]
        full = len(window) == LIMITS.breaker_window_records
        too_many = full and window.count("x") > LIMITS.breaker_ratio_max * len(window)
        if outcome == "x" and (too_many or seen.endswith("x" * LIMITS.breaker_run_records)):
            return i
    return None


@given(st.text(alphabet=".x", max_size=60))
def test_it_opens_exactly_where_the_whole_history_says(outcomes: str) -> None:
    opened = next((i for i in range(len(outcomes)) if opens_at(outcomes[: i + 1])), None)
    assert opened == _naive(outcomes)


def test_partitions_are_counted_apart_and_can_be_forgotten() -> None:
    breaker = Breaker(LIMITS)
    for partition in (HERE, THERE):
        breaker.observe(partition, 5, rejects("xxxxx"))
    breaker.forget(HERE)
    breaker.observe(HERE, 5, rejects("xxxxx"))
    with pytest.raises(FloodOfPoison, match="topic/1"):
        breaker.observe(THERE, 1, rejects("x"))


def test_a_snapshot_is_a_copy() -> None:
    breaker = Breaker(LIMITS)
    breaker.observe(HERE, 2, rejects(".x"))
    taken = breaker.snapshot()
    kept = json.dumps(taken)
    breaker.observe(HERE, 5, rejects("xxx.."))
    assert json.dumps(taken) == kept


@pytest.mark.parametrize("broken", [{}, {"partitions": [{}]}, {"partitions": [{"topic": "t", "partition": 0, "runs": 1}]}])  # fmt: skip
def test_a_snapshot_that_is_none_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(CorruptState, match="breaker"):
        Breaker(LIMITS, broken)
