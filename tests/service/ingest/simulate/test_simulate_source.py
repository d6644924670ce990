"""The simulated log: same seed, same bytes; positions, pace and end as a Source promises them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from service.ingest.contract import Source, TopicPartition
from service.ingest.simulate.source import SimulateSource
from service.settings import SimulateSettings
from tests.fakes.clock import NOON_NS, ManualClock
from tests.service.ingest.decoding import Bench
from tests.service.ingest.simulate.simulation import MINUTE_NS, documents, key_of, read_all, simulation

ZERO = TopicPartition("simulated", 0)


def test_the_same_seed_gives_the_same_bytes_however_the_log_is_polled() -> None:
    whole = read_all(simulation())
    source = simulation()
    found = {partition.partition: [] for partition in source.assigned()}
    turn = 0
    while not all(source.ended(partition) for partition in source.assigned()):
        turn += 1
        paused = frozenset(p for p in source.assigned() if (p.partition + turn) % 3)
        for batch in source.poll(0, paused):
            found[batch.partition].extend(batch.records)
    assert found == whole


def test_another_seed_gives_another_fleet() -> None:
    assert read_all(simulation(seed=1)) != read_all(simulation(seed=2))


def test_reading_goes_on_exactly_after_a_seek_into_the_middle_of_a_step() -> None:
    whole = read_all(simulation(scenario="broken_telemetry", duration_s=7200))[0]
    for cut in (1, 333, 5000):
        source = simulation(scenario="broken_telemetry", duration_s=7200)
        source.seek(ZERO, whole[cut].offset)
        assert source.poll(0, frozenset())[0].records[0] == whole[cut]


def test_an_offset_means_the_same_records_whenever_the_simulation_began() -> None:
    settings = SimulateSettings(nodes=4, speed=0)
    earlier = SimulateSource(settings, ManualClock(NOON_NS))
    later = SimulateSource(settings, ManualClock(NOON_NS + 5 * MINUTE_NS))
    earlier.seek(ZERO, None)
    batch = earlier.poll(0, frozenset())[0]
    later.seek(ZERO, batch.records[3].offset)
    assert later.poll(0, frozenset())[0].records[: len(batch.records) - 3] == batch.records[3:]


def test_event_time_begins_a_quarter_of_an_hour_ago_and_then_follows_the_clock() -> None:
    clock = ManualClock()
    source = SimulateSource(SimulateSettings(nodes=1, speed=1), clock)
    source.seek(ZERO, None)
    times = sorted({r.timestamp_ms for r in source.poll(0, frozenset())[0].records})
    assert times[0] // 1000 == (NOON_NS - 15 * MINUTE_NS) // 10**9
    assert times[-1] // 1000 == NOON_NS // 10**9
    assert source.ended(ZERO)
    clock.advance(15)
    assert not source.ended(ZERO)
    assert len(source.poll(0, frozenset())[0].records) == 8


def test_a_poll_waits_for_the_next_step_and_no_longer_than_its_timeout() -> None:
    clock = ManualClock()
    source = SimulateSource(SimulateSettings(nodes=1, speed=60), clock)
    source.seek(ZERO, None)
    source.poll(0, frozenset())
    before_s = clock.monotonic_s()
    assert source.poll(0.1, frozenset()) == []
    assert clock.monotonic_s() == pytest.approx(before_s + 0.1)
    assert len(source.poll(5, frozenset())) == 1
    assert clock.monotonic_s() < before_s + 0.3


def test_a_resumed_simulation_goes_on_from_its_position_even_if_that_ran_ahead_of_the_clock() -> None:
    clock = ManualClock()
    source = SimulateSource(SimulateSettings(nodes=1, speed=1), clock)
    source.seek(ZERO, None)
    next_offset = source.poll(0, frozenset())[0].next_offset
    ahead = next_offset + 1000 * (next_offset // source.step_of(next_offset))
    source.seek(ZERO, ahead)
    clock.advance(30)
    assert source.poll(0, frozenset())[0].records[0].offset >= ahead


def test_a_simulation_with_a_duration_ends_and_one_without_is_live() -> None:
    source: Source = simulation(nodes=1, duration_s=60)
    assert not source.live
    assert len(read_all(simulation(nodes=1, duration_s=60))[0]) == 4 * 8
    assert SimulateSource(SimulateSettings(), ManualClock()).live


def test_paused_partitions_are_left_alone_and_unsought_ones_are_never_read() -> None:
    source = SimulateSource(SimulateSettings(nodes=4, speed=0), ManualClock())
    assert source.poll(0, frozenset()) == []
    source.seek(ZERO, None)
    assert [batch.partition for batch in source.poll(0, frozenset())] == [0]
    assert source.poll(0, frozenset({ZERO})) == []


def test_every_partition_has_gpus_however_small_the_fleet_is() -> None:
    for nodes in range(1, 7):
        assert all(records for records in read_all(simulation(nodes=nodes, duration_s=30)).values())


def test_a_scenario_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of fleet"):
        SimulateSource(SimulateSettings(), ManualClock(), "flood")


def test_every_record_decodes_and_names_its_gpu_and_its_holder() -> None:
    source = simulation(scenario="clean", duration_s=60)
    bench = Bench()
    records = [record for records in read_all(source).values() for record in records]
    decoded = bench.decode_records(records)
    assert decoded.rejected == []
    assert decoded.outcomes == {"accepted": len(records)}
    rows = bench.rows(decoded)
    assert {labels.entity_key() for labels, _, _ in rows} == {entity.key for entity in source.entities}
    for labels, _, cells in rows:
        assert labels.node and labels.model and labels.instance_type and labels.region and labels.cluster
        assert labels.is_attributed() == bool(labels.team)
        assert ("util_ratio" in cells) == (not labels.mig_id)


def test_the_truth_file_tiles_the_time_of_every_gpu_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "truth.ndjson"
    source = simulation(duration_s=3600, truth_file=str(path))
    positions = {batch.partition: batch.next_offset for batch in source.poll(0, frozenset())}
    source.close()
    resumed = simulation(duration_s=3600, truth_file=str(path))
    for partition in resumed.assigned():
        resumed.seek(partition, positions[partition.partition])
    read_all(resumed)
    resumed.close()
    by_key: dict[str, list[dict[str, int]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        by_key.setdefault(row["entity_key"], []).append(row)
    assert set(by_key) == {entity.key for entity in source.entities}
    for rows in by_key.values():
        rows.sort(key=lambda row: row["start_ns"])
        assert rows[0]["start_ns"] == NOON_NS
        assert rows[-1]["end_ns"] == NOON_NS + 60 * MINUTE_NS
        assert all(a["end_ns"] == b["start_ns"] for a, b in itertools.pairwise(rows))


def test_a_gpu_that_is_not_silent_reports_at_every_step() -> None:
    source = simulation(scenario="clean", duration_s=300)
    count: dict[str, int] = {}
    for document in documents(source):
        count[key_of(document)] = count.get(key_of(document), 0) + 1
    assert set(count.values()) == {20}
