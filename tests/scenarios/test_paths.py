"""The same topic read whole or record by record, scanned or by the reference parser: one state, one set of alerts and letters."""

from __future__ import annotations

import json
import threading
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import pytest

from service.app import Pipeline, configuration_type
from service.clock import SystemClock
from service.ingest.dead_letter import DeadLetterFile
from service.ingest.kafka_source import KafkaSource
from service.ingest.simulate.encode import Message
from service.ingest.simulate.produce import Emission, KafkaSink, emissions
from service.pipeline.replay import Recorder
from service.settings import KafkaSettings
from tests.kafka.broker import Broker
from tests.kafka.fixtures import SOCKETS_LEFT, collected  # noqa: F401
from tests.kafka.topics import new_topic
from tests.service.ingest.simulate.simulation import simulation
from tests.service.ingest.source_contract import opened

pytestmark = [pytest.mark.kafka, SOCKETS_LEFT]

FILES = ("summary.json", "alerts.ndjson", "notifications.ndjson", "intervals.ndjson", "dead_letters.ndjson")
BAD = (
    b"",
    b"{",
    b'{"gpu": 1, "time":',
    b'{"\xff": 1}',
    b"\x0a\xff\xff\xff\xff\x0f",
    b"[1e999]",
    b'{"a":{"b":[[[[]]]]}}',
)
EVERY = 50  # of so many records one is followed by a bad one


class FiniteSource(KafkaSource):
    """A topic that nobody writes to any more: the loop finishes at its end, as it does with a file."""

    live: ClassVar[bool] = False


@pytest.fixture(scope="module")
def topic(broker: Broker) -> str:
    """A topic with an hour and a half of two fleets, one as native JSON, one as OTLP protobuf, and bad records between."""
    name = new_topic(broker, partitions=2)
    sink = KafkaSink(KafkaSettings(bootstrap_servers=[broker.address]), name)
    native = emissions(simulation(nodes=2, duration_s=5400, seed=7), "native")
    otlp = emissions(simulation(nodes=2, duration_s=5400, seed=8), "otlp_proto")
    written = 0
    for step in zip_longest(native, otlp, fillvalue=()):
        for emission in (*step[0], *step[1]):
            sink.write(emission)
            written += 1
            if written % EVERY == 0:
                bad, like = BAD[written // EVERY % len(BAD)], emission.message
                sink.write(Emission(emission.partition, Message(like.timestamp_ms, like.key, bad)))
    sink.close()
    return name


def outcome(broker: Broker, topic: str, folder: Path, raw_batches: str, scanning: bool) -> dict[str, str]:
    """Read the topic to its end and return what that left behind, file by file."""
    kafka = {
        "bootstrap_servers": [broker.address],
        "topics": [topic],
        "group_id": folder.name,
        "raw_batches": raw_batches,
        "poll_records_max": 700,
    }
    settings: Any = configuration_type().model_validate({"source": {"kind": "kafka", "kafka": kafka}})
    source = FiniteSource(settings.source.kafka, SystemClock())
    assert source.reads_raw() == (raw_batches == "auto")
    opened(lambda: source)
    recorder = Recorder(folder, settings.fleet.tick_s)
    letters = DeadLetterFile(folder / "dead_letters.ndjson", settings.ingest.dead_letter, 0)
    pipeline = Pipeline(settings, source, None, SystemClock(), scanning=scanning)
    loop = pipeline.loop(letters, recorder, None, [recorder], threading.Event())
    loop.run()
    recorder.finish(loop)
    letters.close()
    source.close()
    return {name: (folder / name).read_text() for name in FILES}


@pytest.mark.timeout(300)
def test_both_paths_and_both_decoders_leave_the_same_state_alerts_and_letters(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    ways = {
        f"{raw}-{'scanned' if scanning else 'parsed'}": outcome(
            broker, topic, tmp_path / f"{raw}-{scanning}", raw, scanning
        )
        for raw in ("auto", "off")
        for scanning in (True, False)
    }
    first = ways.pop("auto-scanned")
    summary = json.loads(first["summary.json"])
    assert summary["alerts"] > 3
    assert summary["entities"] == 32
    assert sum(summary["rejects_by_reason"].values()) > 50
    assert len(first["dead_letters.ndjson"].splitlines()) > 50
    for way, found in ways.items():
        for name in FILES:
            assert _lines(found, name) == _lines(first, name), way


def _lines(found: dict[str, str], name: str) -> list[str]:
    """Return the lines; letters of different partitions come in the order of the polls."""
    lines = found[name].splitlines()
    return sorted(lines) if name == "dead_letters.ndjson" else lines
