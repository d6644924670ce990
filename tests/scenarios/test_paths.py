"""The same topic read in batches or record by record, scanned or by the reference parser: one state, the same alerts."""

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
from service.pipeline.loop import Loop
from service.pipeline.replay import Recorder
from service.pipeline.worker import TickOutcome, Worker
from service.settings import KafkaSettings
from tests.kafka.broker import Broker
from tests.kafka.fixtures import SOCKETS_LEFT, collected  # noqa: F401
from tests.kafka.topics import Message as Written
from tests.kafka.topics import flip, new_topic, write
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


class UntilRead:
    """Stops the loop of a live topic once all was read, and the ticks that this lets close are closed."""

    ROUNDS: ClassVar[int] = 4  # each closes up to 200 ticks of 15 s

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.lost = 0
        self._rounds = 0

    def on_round(self, loop: Loop) -> None:
        assigned = loop.source.assigned()
        self._rounds += bool(assigned) and all(map(loop.source.ended, assigned))
        if self._rounds > self.ROUNDS:
            self.stop.set()

    def on_trouble(self, what: str) -> None:
        self.lost += 1

    def on_tick(self, worker: Worker, outcome: TickOutcome) -> None:
        """Ticks are the recorder's."""

    def on_checkpoint(self, seconds: float) -> None:
        """Nothing is saved."""


class Ways:
    """Reads one topic in different ways, and keeps what each left behind, file by file."""

    def __init__(self, broker: Broker, topic: str, folder: Path) -> None:
        self._kafka = {"bootstrap_servers": [broker.address], "topics": [topic], "poll_records_max": 700}
        self._folder = folder

    def read(
        self, name: str, raw_batches: str, *, scanning: bool = True, until: UntilRead | None = None
    ) -> dict[str, str]:
        """Read the topic to its end; with `until` as a service does, which may lose its broker meanwhile."""
        kafka = self._kafka | {"group_id": f"{self._folder}-{name}", "raw_batches": raw_batches}
        changes = {"source": {"kind": "kafka", "kafka": kafka}, "ingest": {"idle_partition_s": 600}}
        settings: Any = configuration_type().model_validate(changes)
        source = (FiniteSource if until is None else KafkaSource)(settings.source.kafka, SystemClock())
        assert source.reads_raw() == (raw_batches == "auto")
        opened(lambda: source)
        out = self._folder / name
        recorder = Recorder(out, settings.fleet.tick_s)
        letters = DeadLetterFile(out / "dead_letters.ndjson", settings.ingest.dead_letter, 0)
        pipeline = Pipeline(settings, source, None, SystemClock(), scanning=scanning)
        observers, stop = ([recorder], threading.Event()) if until is None else ([recorder, until], until.stop)
        loop = pipeline.loop(letters, recorder, None, observers, stop)
        loop.run()
        recorder.finish(loop)
        letters.close()
        source.close()
        return {file: (out / file).read_text() for file in FILES}


@pytest.mark.timeout(300)
def test_both_paths_and_both_decoders_leave_the_same_state_alerts_and_letters(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    ways = Ways(broker, topic, tmp_path)
    first = ways.read("raw-scanned", "auto")
    summary = json.loads(first["summary.json"])
    assert summary["alerts"] > 3
    assert summary["entities"] == 32
    assert sum(summary["rejects_by_reason"].values()) > 50
    assert len(first["dead_letters.ndjson"].splitlines()) > 50
    _same(ways.read("raw-parsed", "auto", scanning=False), first)
    _same(ways.read("public-scanned", "off"), first)
    _same(ways.read("public-parsed", "off", scanning=False), first)


@pytest.mark.timeout(200)
def test_a_corrupt_batch_leaves_the_same_state_on_both_paths(broker: Broker, tmp_path: Path) -> None:
    topic = new_topic(broker)
    fleet = [
        emission.message for step in emissions(simulation(nodes=1, duration_s=5400), "native") for emission in step
    ]
    for first in range(0, len(fleet), 500):
        chunk = [Written(each.value, each.key, [], each.timestamp_ms) for each in fleet[first : first + 500]]
        write(broker, topic, [chunk[0]._replace(key=b"chunk-%d." % first), *chunk[1:]])
    flip(broker, topic, b"chunk-1500.")
    ways = Ways(broker, topic, tmp_path)
    raw, public = UntilRead(), UntilRead()
    expected, found = ways.read("raw", "auto", until=raw), ways.read("public", "off", until=public)
    (letter,) = map(json.loads, expected["dead_letters.ndjson"].splitlines())
    assert (letter["reason"], letter["offset"]) == ("corrupt_batch", 1500)
    outcomes = json.loads(expected["summary.json"])["outcomes"]
    assert (outcomes["accepted"], outcomes["rejected"]) == (len(fleet) - 500, 500)
    (other,) = map(json.loads, found["dead_letters.ndjson"].splitlines())
    assert other | {"detail": ""} == letter | {"detail": ""}
    _same(found | {"dead_letters.ndjson": ""}, expected | {"dead_letters.ndjson": ""})
    assert raw.lost == public.lost == 0


def _same(found: dict[str, str], expected: dict[str, str]) -> None:
    for name in FILES:
        assert _lines(found, name) == _lines(expected, name), name


def _lines(found: dict[str, str], name: str) -> list[str]:
    """Return the lines; letters of different partitions come in the order of the polls."""
    lines = found[name].splitlines()
    return sorted(lines) if name == "dead_letters.ndjson" else lines
