"""Dead letters, in files and in a topic: nothing is dropped without a word."""

from __future__ import annotations

import base64
import errno
import itertools
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaConsumer
from kafka.structs import TopicPartition as KafkaPartition
from structlog.testing import capture_logs

from service.clock import SystemClock
from service.errors import Unavailable
from service.ingest import dead_letter, kafka_client, kafka_dead_letters
from service.ingest.contract import MALFORMED
from service.ingest.dead_letter import DeadLetterFile
from service.ingest.kafka_dead_letters import DeadLetterTopic
from service.ingest.letters import DeadLetters, Letters
from service.settings import DeadLetterSettings, KafkaSettings
from tests.kafka.broker import Broker
from tests.kafka.fixtures import SOCKETS_LEFT, collected  # noqa: F401
from tests.kafka.topics import client, new_topic, topics

pytestmark = SOCKETS_LEFT

SETTINGS = DeadLetterSettings(value_bytes_max=8)


VALUE = b"\x00\xffbad"


def letters_of(*offsets: int, value: bytes | bytearray | None = VALUE, **changes: Any) -> Letters:
    """Return a letter for each offset, all with the same value."""
    n = len(offsets)
    whole = Letters(
        topic="gpu-telemetry",
        partition=3,
        records=n,
        place=np.arange(n),
        offset=np.array(offsets, np.int64),
        reason=np.full(n, MALFORMED, np.int8),
        rejected_samples=np.ones(n, np.int64),
        timestamp_ms=np.full(n, 17),
        detail=["line 1\nof \x1b[2m 'it'"] * n,
        value=[value if value is None else memoryview(value)] * n,
    )
    return replace(whole, **changes)


class FileKeeper:
    """Letters in a file, and how to read them back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dead_letters.ndjson"

    def opened(self) -> DeadLetters:
        return DeadLetterFile(self.path, SETTINGS, None)

    def paths(self) -> list[Path]:
        return sorted(self.path.parent.glob("*.ndjson"), key=lambda path: path.stem)

    def found(self) -> list[dict[str, Any]]:
        return [json.loads(line) for path in self.paths() for line in path.read_bytes().splitlines()]


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
    letters.write(letters_of(41, value=b"0123456789"))
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
    letters.write(letters_of(1, 2))
    letters.write(letters_of())
    letters.write(letters_of(3, value=None))
    letters.flush()
    letters.flush()
    assert [each["offset"] for each in keeper.found()] == [1, 2, 3]
    assert keeper.found()[2]["value_b64"] is None
    letters.close()
    letters.close()
    assert len(keeper.found()) == 3


def test_hostile_text_stays_text(keeper: Keeper) -> None:
    letters = keeper.opened()
    letters.write(letters_of(1, detail=['\ud800 \u2028 " } \n{'], topic="t"))
    letters.close()
    assert [each["detail"] for each in keeper.found()] == ['\ud800 \u2028 " } \n{']


def test_a_second_process_adds_to_the_letters_of_the_first(keeper: Keeper) -> None:
    for offset in (1, 2):
        letters = keeper.opened()
        letters.write(letters_of(offset))
        letters.close()
    assert [each["offset"] for each in keeper.found()] == [1, 2]


@pytest.mark.kafka
def test_key_and_header_of_a_letter_in_a_topic_name_record_and_reason(broker: Broker) -> None:
    keeper = TopicKeeper(broker)
    letters = keeper.opened()
    letters.write(letters_of(9))
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
    letters.write(letters_of(1))
    with pytest.raises(Unavailable, match="dead letter topic no-such-letters"):
        letters.flush()
    assert "no-such-letters" not in topics(broker)


@pytest.mark.kafka
def test_letters_that_no_broker_took_are_kept_and_sent_later(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker").start()
    try:
        keeper = TopicKeeper(broker)
        letters = keeper.opened()
        letters.write(letters_of(1))
        letters.flush()
        broker.kill()
        letters.write(letters_of(2))
        with pytest.raises(Unavailable):
            letters.flush()
        with pytest.raises(Unavailable) as too_early:
            letters.flush()
        assert too_early.value.retry_after_s
        letters.write(letters_of(3))
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


def test_letters_that_wait_for_a_broker_are_bounded_in_bytes_and_their_records_are_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_dead_letters, "UNFLUSHED_BYTES_MAX", 2000)
    monkeypatch.setattr(kafka_client, "BOOTSTRAP_TIMEOUT_MS", 100)
    letters = DeadLetterTopic(KafkaSettings(bootstrap_servers=["127.0.0.1:1"]), SETTINGS, SystemClock())
    buffer = bytearray(VALUE)
    letters.write(letters_of(*range(10), value=buffer))
    buffer.extend(b"a view would forbid this")
    with pytest.raises(Unavailable, match="dead letter topic"):
        letters.write(letters_of(10))
    assert [json.loads(message.value)["offset"] for message in letters._unsent] == list(range(10))


def test_resuming_cuts_what_came_after_the_checkpoint_so_that_a_replay_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "letters"
    first = DeadLetterFile(path, SETTINGS, None)
    first.write(letters_of(1, 2))
    checkpoint = first.flush()
    first.write(letters_of(3, 4))
    first.flush()
    whole = path.read_bytes()
    second = DeadLetterFile(path, SETTINGS, checkpoint)
    assert path.read_bytes() == whole[:checkpoint]
    second.write(letters_of(3))
    second.write(letters_of(4))
    assert second.flush() == len(whole)
    assert path.read_bytes() == whole
    first.close()
    second.close()


@pytest.mark.parametrize("torn", range(1, 40))
def test_half_a_line_is_cut_off_where_there_is_no_checkpoint(torn: int, tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = keeper.opened()
    letters.write(letters_of(1, 2))
    letters.close()
    keeper.path.write_bytes(keeper.path.read_bytes()[:-torn])
    again = keeper.opened()
    again.write(letters_of(3))
    again.close()
    assert [each["offset"] for each in keeper.found()] == [1, 3]


def test_a_long_torn_line_is_cut_back_to_the_line_before(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = keeper.opened()
    letters.write(letters_of(1))
    letters.close()
    with keeper.path.open("ab") as file:
        file.write(b"x" * 200_000)
    keeper.opened().close()
    assert [each["offset"] for each in keeper.found()] == [1]


def test_a_file_that_was_moved_away_is_begun_anew_and_positions_go_on(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = DeadLetterFile(keeper.path, SETTINGS, 5000)
    letters.write(letters_of(1))
    (path,) = keeper.paths()
    assert path.name == "dead_letters-0000000000005000.ndjson"
    assert letters.flush() == 5000 + path.stat().st_size
    letters.close()
    assert [each["offset"] for each in keeper.found()] == [1]


SMALL = SETTINGS.model_copy(update={"bytes_max": 8000})  # files of a thousand bytes, of which a letter has a quarter
DROPPING = SMALL.model_copy(update={"when_full": "drop_oldest"})


def flooded(path: Path, settings: DeadLetterSettings, offsets: range) -> DeadLetterFile:
    """Return a file of letters for these offsets, written one by one as far as there is room for reading on."""
    letters = DeadLetterFile(path, settings, None)
    for offset in offsets:
        if letters.room().why_full:
            break
        letters.write(letters_of(offset))
    return letters


def test_a_file_is_followed_by_another_whose_name_says_where_it_begins(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = flooded(keeper.path, SMALL, range(12))
    sizes = [path.stat().st_size for path in keeper.paths()]
    begins = [sum(sizes[:i]) for i in range(len(sizes))]
    assert [path.stem.removeprefix("dead_letters") for path in keeper.paths()] == [
        "",
        *(f"-{b:016d}" for b in begins[1:]),
    ]
    assert len(sizes) > 2
    assert max(sizes) <= 1000
    assert letters.flush() == sum(sizes)
    assert letters.room() == (sum(sizes), 8000, 0, "")
    letters.close()
    assert [each["offset"] for each in keeper.found()] == list(range(12))


def test_a_restart_cuts_what_came_after_the_checkpoint_whichever_files_that_is_in(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = flooded(keeper.path, SMALL, range(6))
    checkpoint = letters.flush()
    content = [path.read_bytes() for path in keeper.paths()]
    for offset in range(6, 20):
        letters.write(letters_of(offset))
    letters.close()
    DeadLetterFile(keeper.path, SMALL, checkpoint).close()
    assert [path.read_bytes() for path in keeper.paths()] == content
    DeadLetterFile(keeper.path, SMALL, 0).close()
    assert [path.read_bytes() for path in keeper.paths()] == [b""]


class Crash(BaseException):
    """The process ends here."""


def crash_at(patch: pytest.MonkeyPatch, step: int) -> list[str]:
    """End the process at the given call that changes a disk, a write after half of it; return the calls so far."""
    calls: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == step:
                if name == "pwrite":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                raise Crash
            return real(*arguments, **named)

        return call

    for name in ("open", "pwrite", "fsync", "ftruncate", "unlink", "close"):
        patch.setattr(os, name, watched(name, getattr(os, name)))
    return calls


def test_a_crash_at_any_call_leaves_no_trace_once_all_was_read_again(tmp_path: Path) -> None:
    def life(keeper: FileKeeper, resume_bytes: int, offsets: range) -> int:
        letters = DeadLetterFile(keeper.path, SMALL, resume_bytes)
        for offset in offsets:
            letters.write(letters_of(offset))
        return letters.flush()

    def content(keeper: FileKeeper) -> list[tuple[str, bytes]]:
        return [(path.name, path.read_bytes()) for path in keeper.paths()]

    calm = FileKeeper(tmp_path / "calm")
    calm.path.parent.mkdir()
    checkpoint = life(calm, 0, range(6))
    life(calm, checkpoint, range(6, 16))
    assert len(calm.paths()) > 3
    seen = set()
    for step in itertools.count(1):
        keeper = FileKeeper(tmp_path / str(step))
        keeper.path.parent.mkdir()
        life(keeper, 0, range(6))
        # The second life is the one that has to cut what the first has left.
        for _ in range(2):
            with pytest.MonkeyPatch.context() as patch, suppress(Crash):
                calls = crash_at(patch, step)
                life(keeper, checkpoint, range(6, 16))
        seen.update(calls)
        life(keeper, checkpoint, range(6, 16))
        assert content(keeper) == content(calm), calls
        if len(calls) < step:
            break
    assert seen >= {"open", "pwrite", "fsync", "ftruncate", "unlink", "close"}


def test_files_that_are_closed_may_be_moved_away_and_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = flooded(keeper.path, SMALL, range(10))
    checkpoint = letters.flush()
    letters.write(letters_of(99))
    letters.close()
    for path in keeper.paths()[:-1]:
        path.unlink()
    again = DeadLetterFile(keeper.path, SMALL, checkpoint)
    again.write(letters_of(10))
    again.close()
    assert [each["offset"] for each in keeper.found()] == [8, 9, 10]


def test_near_the_limit_reading_waits_with_an_eighth_in_reserve_until_files_are_moved_away(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    with capture_logs() as said:
        letters = flooded(keeper.path, SMALL, range(100))
        full = letters.room()
        assert 7000 < full.used_bytes < 8000
        assert f"expected files before {keeper.paths()[-1].name} to be moved away" in full.why_full
        letters.write(letters_of(200))
        for path in keeper.paths()[:-1]:
            path.unlink()
        assert letters.room().why_full == ""
        assert letters.room().used_bytes == keeper.paths()[0].stat().st_size
        letters.close()
    assert [each["log_level"] for each in said] == ["error", "info"], "once when full, once when not any more"
    assert keeper.found()[-1]["offset"] == 200


def test_beyond_the_limit_none_of_the_letters_is_taken_and_later_they_are(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = flooded(keeper.path, SMALL, range(100))
    before = keeper.found()
    for _ in range(2):
        with pytest.raises(Unavailable, match="bytes_max 8000: expected files before"):
            letters.write(letters_of(*range(200, 210)))
    assert keeper.found() == before
    for path in keeper.paths()[:-1]:
        path.unlink()
    letters.write(letters_of(*range(200, 210)))
    letters.close()
    assert [each["offset"] for each in keeper.found()][-10:] == list(range(200, 210))


def test_letters_that_do_not_fit_are_taken_back_out_of_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter, "BLOCK_LETTERS", 2)
    keeper = FileKeeper(tmp_path)
    letters = flooded(keeper.path, SMALL, range(3))
    before = [(path.name, path.read_bytes()) for path in keeper.paths()]
    with pytest.raises(Unavailable, match="would pass bytes_max"):
        letters.write(letters_of(*range(3, 100)))
    assert [(path.name, path.read_bytes()) for path in keeper.paths()] == before
    letters.write(letters_of(*range(3, 8)))
    letters.close()
    assert [each["offset"] for each in keeper.found()] == list(range(8))


def test_where_that_is_chosen_the_oldest_file_goes_and_its_letters_are_counted(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path)
    letters = flooded(keeper.path, DROPPING, range(100))
    room = letters.room()
    letters.close()
    kept = [each["offset"] for each in keeper.found()]
    assert kept == list(range(room.dropped_letters, 100))
    assert 0 < room.dropped_letters < 100
    assert room.used_bytes == sum(path.stat().st_size for path in keeper.paths()) <= 8000
    assert not room.why_full


def test_a_disk_that_fills_up_half_way_is_unavailable_and_leaves_no_half_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "letters"
    letters = DeadLetterFile(path, SETTINGS, None)
    letters.write(letters_of(1))
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
        letters.write(letters_of(2))
    assert path.read_bytes() == before
    monkeypatch.undo()
    letters.write(letters_of(2))
    letters.close()
    assert [json.loads(line)["offset"] for line in path.read_bytes().splitlines()] == [1, 2]


def test_a_failing_fsync_ends_the_process_instead_of_being_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = DeadLetterFile(tmp_path / "letters", SETTINGS, None)
    letters.write(letters_of(1))

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
