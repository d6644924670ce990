"""Captures of topics: every record as it lay in the log, up to the end that the log had, in a file that replay reads."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import zstandard

from service.clock import SystemClock
from service.errors import ConfigError, Unavailable
from service.ingest.file_source import FileSource
from service.ingest.kafka_capture import capture
from service.settings import FileSettings, KafkaSettings
from tests.kafka.broker import Broker
from tests.kafka.fixtures import SOCKETS_LEFT, collected  # noqa: F401
from tests.kafka.topics import (
    Message,
    delete_before,
    new_topic,
    numbered,
    topics,
    write,
    write_transaction,
)
from tests.service.ingest.source_contract import from_start, opened, read_to_end, records

pytestmark = [pytest.mark.kafka, SOCKETS_LEFT]


def captured(
    broker: Broker, out: Path, *names: str, path: Literal["auto", "off"] = "auto", **options: Any
) -> list[dict[str, Any]]:
    settings = KafkaSettings(bootstrap_servers=[broker.address], raw_batches=path)
    count = capture(settings, names, out, SystemClock(), **options)
    raw = out.read_bytes()
    if out.suffix == ".gz":
        raw = gzip.decompress(raw)
    if out.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    lines = [json.loads(line) for line in raw.splitlines()]
    assert len(lines) == count
    return lines


BOTH_PATHS = pytest.mark.parametrize("path", ["auto", "off"], ids=["raw", "public"])


@BOTH_PATHS
def test_a_line_holds_all_that_a_record_is(path: Literal["auto", "off"], broker: Broker, tmp_path: Path) -> None:
    topic = new_topic(broker)
    write(broker, topic, [Message(b"\xff", b"k", [("h", b"1")], 5), Message(None, b"gone", [], 6)])
    assert captured(broker, tmp_path / "c.ndjson", topic, path=path) == [
        {
            "partition": 0,
            "offset": 0,
            "timestamp": 5,
            "key_b64": base64.b64encode(b"k").decode(),
            "value_b64": base64.b64encode(b"\xff").decode(),
            "headers": [["h", base64.b64encode(b"1").decode()]],
        },
        {
            "partition": 0,
            "offset": 1,
            "timestamp": 6,
            "key_b64": "Z29uZQ==",
            "value_b64": None,
            "headers": [],
        },
    ]


@BOTH_PATHS
@pytest.mark.parametrize("name", ["c.ndjson", "c.ndjson.gz", "c.ndjson.zst"])
def test_a_replay_of_the_capture_gives_the_records_of_the_topic(
    name: str, path: Literal["auto", "off"], broker: Broker, tmp_path: Path
) -> None:
    topic = new_topic(broker, partitions=2)
    for partition in range(2):
        write(broker, topic, numbered(0, 50), partition)
        write_transaction(broker, topic, numbered(50, 60), commit=False, partition=partition)
        write(broker, topic, numbered(60, 70), partition)
    captured(broker, tmp_path / name, topic, path=path)
    replay = opened(lambda: FileSource(FileSettings(paths=[str(tmp_path / name)]), SystemClock()))
    found = read_to_end(replay, from_start(replay))
    replay.close()
    expected = [*range(50), *range(60, 70)]
    assert sorted(partition.partition for partition in found) == [0, 1]
    for batches in found.values():
        assert [record.value for record in records(batches)] == [b"%d" % number for number in expected]
        assert [record.offset for record in records(batches)] == [*range(50), *range(61, 71)]


def test_several_topics_are_told_apart(broker: Broker, tmp_path: Path) -> None:
    first, second = new_topic(broker), new_topic(broker)
    write(broker, first, numbered(0, 1))
    write(broker, second, numbered(0, 2))
    lines = captured(broker, tmp_path / "c.ndjson", first, second)
    assert sorted(line["topic"] for line in lines) == sorted([first, second, second])


def test_it_stops_after_the_wanted_number_and_begins_where_retention_left_the_log(
    broker: Broker, tmp_path: Path
) -> None:
    topic = new_topic(broker)
    write(broker, topic, numbered(0, 50))
    delete_before(broker, topic, 20)
    lines = captured(broker, tmp_path / "c.ndjson", topic, records_max=7)
    assert [line["offset"] for line in lines] == [20, 21, 22, 23, 24, 25, 26]


def test_what_is_written_during_a_capture_is_left_out_unless_it_follows(broker: Broker, tmp_path: Path) -> None:
    topic = new_topic(broker)
    write(broker, topic, numbered(0, 3))
    written = iter([numbered(3, 5)])

    def write_meanwhile() -> bool:
        write(broker, topic, next(written, []))
        return False

    assert len(captured(broker, tmp_path / "a.ndjson", topic, stopped=write_meanwhile)) == 3
    lines = captured(broker, tmp_path / "b.ndjson", topic, start="latest", follow=True, records_max=2, stopped=_Writer(broker, topic))  # fmt: skip
    assert [base64.b64decode(line["value_b64"]) for line in lines] == [b"7", b"8"]


class _Writer:
    """Writes two records when it is first asked whether to stop."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._messages = numbered(7, 9)

    def __call__(self) -> bool:
        write(self._broker, self._topic, self._messages)
        self._messages = []
        return False


def test_a_stop_ends_a_capture_that_follows(broker: Broker, tmp_path: Path) -> None:
    topic = new_topic(broker)
    write(broker, topic, numbered(0, 3))
    asked = iter([False, True])
    assert len(captured(broker, tmp_path / "c.ndjson", topic, follow=True, stopped=lambda: next(asked))) == 3


def test_stdout_is_a_capture_file_too(broker: Broker, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    topic = new_topic(broker)
    write(broker, topic, numbered(0, 2))
    assert capture(KafkaSettings(bootstrap_servers=[broker.address]), [topic], Path("-"), SystemClock()) == 2
    assert len(capsysbinary.readouterr().out.splitlines()) == 2


def test_an_absent_topic_is_unavailable_and_is_not_created(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="topic nowhere"):
        captured(broker, tmp_path / "c.ndjson", "nowhere")
    assert "nowhere" not in topics(broker)


def test_a_start_that_is_none_is_an_error_of_the_command_line(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tomorrow'; expected earliest or latest"):
        captured(broker, tmp_path / "c.ndjson", "any", start="tomorrow")


def test_a_broker_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        capture(KafkaSettings(bootstrap_servers=["127.0.0.1:1"]), ["t"], tmp_path / "c", SystemClock())
