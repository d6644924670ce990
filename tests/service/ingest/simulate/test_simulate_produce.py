"""A simulated fleet written out: in files that replay reads, and in a topic."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
from pathlib import Path

import pytest

from service.clock import SystemClock
from service.errors import Unavailable
from service.ingest.contract import Record
from service.ingest.kafka_source import KafkaSource
from service.ingest.simulate.produce import FileSink, KafkaSink, emissions, ending_now, produce
from service.settings import KafkaSettings, SimulateSettings
from tests.fakes.clock import NOON_NS, ManualClock
from tests.kafka.broker import Broker
from tests.kafka.fixtures import SOCKETS_LEFT, collected  # noqa: F401
from tests.kafka.topics import new_topic
from tests.service.ingest.decoding import Bench, read_capture
from tests.service.ingest.simulate.simulation import read_all, simulation
from tests.service.ingest.source_contract import from_start, opened, read_to_end, records


def nothing(_: int) -> None:
    """Tell no one."""


def test_a_capture_holds_every_message_and_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sink = FileSink(tmp_path / f"{name}.records.ndjson.gz", capture=True)
        produce(simulation(nodes=5, duration_s=120), "otlp_proto", sink, nothing)
    assert (tmp_path / "a.records.ndjson.gz").read_bytes() == (tmp_path / "b.records.ndjson.gz").read_bytes()
    captured = read_capture(tmp_path / "a.records.ndjson.gz")
    assert len(captured) == 5 * 8
    assert Bench().decode_records(captured).rejected == []


def test_native_lines_are_those_that_the_source_hands_over(tmp_path: Path) -> None:
    out = tmp_path / "fleet.ndjson"
    seen: list[int] = []
    count = produce(simulation(), "native", FileSink(out, capture=False), seen.append)
    lines = out.read_bytes().splitlines()
    expected = [record.value for records in read_all(simulation()).values() for record in records]
    assert sorted(lines) == sorted(expected)
    assert len(lines) == count == seen[-1]


def test_the_truth_is_complete_once_all_is_produced(tmp_path: Path) -> None:
    truth = tmp_path / "truth.ndjson"
    source = simulation(truth_file=str(truth))
    produce(source, "influx", FileSink(tmp_path / "out", capture=False), nothing)
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    assert sum(row["end_ns"] - row["start_ns"] for row in rows) == 600 * 10**9 * len(source.entities)


@pytest.mark.parametrize("wire", ["influx", "otlp_proto"])
def test_other_formats_are_duplicated_and_reordered_too_and_lose_nothing(wire: str) -> None:
    hours = {"nodes": 6, "scenario": "broken_telemetry", "duration_s": 2000.0}
    bench = Bench()
    arrived = [emission.message for batch in emissions(simulation(**hours), wire) for emission in batch]
    decoded = bench.decode_records([Record(i, m.timestamp_ms, m.key, m.value) for i, m in enumerate(arrived)])
    times = [message.timestamp_ms for message in arrived]
    assert decoded.rejected == []
    assert len(arrived) > len({message.value for message in arrived})
    assert any(later < earlier - 10_000 for earlier, later in itertools.pairwise(times))
    native = Bench()
    source = simulation(**hours)
    whole = native.decode_records([r for of_one in read_all(source).values() for r in of_one])
    last_ns = max(time_ns for _, time_ns in native.merged(whole)) - 60 * 10**9
    instants = {
        (labels.entity_key(), time_ns // 10**9)
        for (labels, time_ns) in native.merged(whole)
        if NOON_NS <= time_ns < last_ns
    }
    found = {(labels.entity_key(), time_ns // 10**9) for (labels, time_ns) in bench.merged(decoded)}
    assert instants - found == set()


@pytest.mark.parametrize("wire", ["native", "otlp_proto"])
def test_a_simulation_that_is_written_out_ends_now_and_lies_in_no_future(wire: str) -> None:
    source = ending_now(SimulateSettings(nodes=2, duration_s=5400, speed=0), ManualClock(), "broken_telemetry")
    times = [emission.message.timestamp_ms for batch in emissions(source, wire) for emission in batch]
    assert NOON_NS // 10**6 - 15_000 <= max(times) <= NOON_NS // 10**6
    assert min(times) < NOON_NS // 10**6 - 5_300_000


def test_the_same_start_gives_the_same_bytes_whenever_it_is_written(tmp_path: Path) -> None:
    begin_ns = NOON_NS - 600 * 10**9
    for name, made in {
        "a": ending_now(SimulateSettings(nodes=3, duration_s=600, speed=0), ManualClock(), "fleet"),
        "b": simulation(nodes=3, duration_s=600, start_ns=begin_ns),
    }.items():
        produce(made, "native", FileSink(tmp_path / name, capture=False), nothing)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_format_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of native"):
        produce(simulation(), "carbon", FileSink(tmp_path / "out", capture=False), nothing)


def test_gzip_is_whole_after_a_sink_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson.gz"
    with FileSink(path, capture=True) as sink:
        sink.write(next(iter(emissions(simulation(nodes=1, duration_s=15), "vector")))[0])
    (line,) = gzip.decompress(path.read_bytes()).splitlines()
    assert json.loads(base64.b64decode(json.loads(line)["value_b64"]))["kind"] == "absolute"


@SOCKETS_LEFT
@pytest.mark.kafka
def test_a_topic_holds_what_was_produced(broker: Broker) -> None:
    topic = new_topic(broker)
    settings = KafkaSettings(bootstrap_servers=[broker.address], topics=[topic], group_id=topic)
    count = produce(simulation(nodes=2, duration_s=60), "native", KafkaSink(settings, topic), nothing)
    source = opened(lambda: KafkaSource(settings, SystemClock()))
    stored = [record for batches in read_to_end(source, from_start(source)).values() for record in records(batches)]
    source.close()
    assert len(stored) == count == 64
    assert {record.value for record in stored} == {
        r.value for rs in read_all(simulation(nodes=2, duration_s=60)).values() for r in rs
    }


@SOCKETS_LEFT
@pytest.mark.kafka
def test_a_topic_takes_a_simulation_of_more_than_an_hour(broker: Broker) -> None:
    topic = new_topic(broker)
    settings = KafkaSettings(bootstrap_servers=[broker.address])
    source = ending_now(SimulateSettings(nodes=1, duration_s=5400, speed=0), SystemClock(), "clean")
    assert produce(source, "native", KafkaSink(settings, topic), nothing) == 8 * 360


@SOCKETS_LEFT
@pytest.mark.kafka
def test_a_topic_that_does_not_exist_is_said_to_be_unavailable(broker: Broker) -> None:
    settings = KafkaSettings(bootstrap_servers=[broker.address])
    with pytest.raises(Unavailable, match="no-such-topic"):
        produce(simulation(nodes=1, duration_s=15), "native", KafkaSink(settings, "no-such-topic"), nothing)
