"""What is shown of a result: every engine, also one that is missing, and a picture that is the same for the same figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.bench import latency, operation
from tests.bench.engines import ENGINES, OURS, faults
from tests.bench.plot import svg
from tests.bench.report import Grid, grids
from tests.bench.works import Flood, Load, Steady, named

RUST = "Rust rdkafka + serde_json"


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "W1": {OURS: [90.0, 200.0, 300.0], "bytewax": [50.0, 40.0, 10.0]},
        "W2": {OURS: [10.0]},
        "W3": {},
        "memory": {"W1": {OURS: 1 << 20, "bytewax": 2 << 20}, "W2": {OURS: 1 << 20}, "W3": {}},
        "missing": {"W1": {RUST: "cargo is not there: rustup installs it"}},
        "curve": {"GPUs": {"1000000": {"missing": "the time was up"}}},
        "latency": {
            "half_of_ours_per_s": 100.0,
            "rates": [
                {
                    "asked_per_s": 100.0,
                    "messages_per_s": 99.0,
                    "producer_late_max_s": 0.0625,
                    "broker_ack_max_s": 0.25,
                    "gpus": 64,
                    "ticks": 130,
                    "checkpoints": 5,
                    "alerts": 16,
                    "outbox_p50_s": 0.125,
                    "outbox_p99_s": 0.375,
                    "p50_s": 0.25,
                    "p99_s": 0.5,
                    "max_s": 0.75,
                },
                {"asked_per_s": 50.0, "missing": "the time was up"},
            ],
        },
        "flood": {
            "entities_max": 10,
            "marks": [
                {"messages": 50, "seen": 60, "seconds": 2.0, "peak_rss_bytes": 1 << 20},
                {"messages": 100, "seen": 100, "seconds": 4.0, "peak_rss_bytes": 2 << 20},
            ],
        },
    }


def engines_of(result: dict[str, Any]) -> Grid:
    return grids(result)[0]


def grid_of(result: dict[str, Any], title: str) -> Grid:
    return next(grid for grid in grids(result) if title in grid.title)


def test_every_engine_has_a_row_and_a_missing_one_its_reason(result):
    rows = [row[0].strip() for row in engines_of(result).rows]
    assert f"{RUST}: missing, cargo is not there: rustup installs it" in rows
    for engines in ENGINES.values():
        for engine in engines:
            assert any(row.startswith(engine.name) for row in rows)


def test_ratios_are_of_medians(result):
    row = next(row for row in engines_of(result).rows if row[0].strip() == "bytewax")
    assert row[1:] == ("40", "", "5.00x", "2 MiB", "3")


def test_batches_are_also_counted_in_data_points(result):
    row = next(row for row in engines_of(result).rows if row[0].strip() == OURS and row[2])
    assert row[2] == "1,600"


def test_a_point_of_the_curve_that_was_left_out_says_why(result):
    assert "1,000,000 GPUs: missing, the time was up" in grid_of(result, "over GPUs").markdown()


def test_latency_and_flood_have_tables(result):
    lower, half = grid_of(result, "notifier").rows
    assert lower[0] == "50: missing, the time was up"
    assert half[:5] == ("99 (half of ours)", "64", "130", "5", "16")
    assert half[5:] == ("0.062 s", "0.250 s", "0.125 s", "0.375 s", "0.250 s", "0.500 s", "0.750 s")
    assert grid_of(result, "flood").rows == [("50", "30", "1 MiB"), ("100", "20", "2 MiB")]
    for name in ("latency", "flood"):
        result[name] = {"missing": "the time was up"}
    assert grid_of(result, "notifier").rows[0][0] == grid_of(result, "flood").rows[0][0] == "missing, the time was up"


def test_operation_shows_the_worst_beside_its_goal(result):
    rounds = [
        {"ended_s": 10.0, "seconds": 0.5, "saving": True, "stages_s": {"tick": 0.25, "poll": 0.125}},
        {"ended_s": 11.0, "seconds": 0.25, "saving": True, "stages_s": {}},
        {"ended_s": 21.0, "seconds": 1.0, "saving": False, "stages_s": {"poll": 0.5, "gc": 0.625}},
    ]
    asked = {"/metrics": {"seconds": 0.25, "bytes": 1 << 20}, "/api/v1/summary": {"seconds": 0.125, "bytes": 9}}
    found = {"gpus": 1000, "fresh_s": 1.5, "resumed_s": 2.5, "checkpoint_max_s": 1.0, "messages_per_s": 200.0}
    found["peak_rss_bytes"] = 3 << 20
    found |= {"gaps": operation.longest(rounds, [(20.5, 20.75)]), "idle": asked, "ingest": asked}
    rows = {name: rest for name, *rest in grid_of(result | {"operation": {"1000": found}}, "Operation").rows}
    assert rows["longest stop / tick / poll beside a checkpoint"] == ["50 ms", "250 / 250 / 125 ms"]
    assert rows["beside a scrape"] == ["", "625 / 0 / 500 ms"]
    assert rows["beside neither"] == ["", "none"]
    assert rows["peak memory"] == ["1,907 MiB", "3 MiB"]
    assert rows["/metrics"] == ["0.5 s", "0.250 s"]
    assert rows["start to ready, fleet resumed"] == ["5 s", "2.50 s"]


def test_the_picture_is_well_formed_and_the_same_each_time(result):
    assert svg(result) == svg(result)
    bars = [e for e in ET.fromstring(svg(result)).iter() if e.tag.endswith("rect")]
    assert [float(bar.attrib["width"]) for bar in bars] == [370.0, 74.0]


def test_an_engine_that_finds_other_gpus_or_rejects_is_at_fault():
    load = Load.of("W1", 400_000, 4096)
    right = {"messages": load.messages, "alerts": 256, "idle_gpus": sorted(load.idle_gpus()), "rejected": 0}
    assert len(load.idle_gpus()) == 256
    assert faults(load, OURS, right) == []
    assert len(faults(load, OURS, right | {"alerts": 255})) == 1
    assert len(faults(load, OURS, right | {"messages": 1})) == 1
    assert len(faults(load, OURS, right | {"rejected": 3})) == 1
    assert len(faults(load, OURS, right | {"idle_gpus": [*right["idle_gpus"][1:], "GPU-other"]})) == 1


# Two partitions, a round every ten seconds of event time; the second partition is always behind.
ROUNDS = [(0, [100, 200]), (10_000, [300, 400]), (20_000, [500, 600])]


@pytest.mark.parametrize(
    ("fired_ns", "expected"), [(-5 * 10**9, 200), (5 * 10**9, 400), (5 * 10**9 + 1, 600), (15 * 10**9 + 1, None)]
)
def test_an_alert_waits_for_the_slowest_partition_to_pass_the_end_of_its_tick_by_the_lateness(fired_ns, expected):
    assert latency.awaited_ns(ROUNDS, fired_ns, lateness_ns=5 * 10**9) == expected


def test_latencies_count_from_what_was_awaited():
    rounds = [(at + 30_000, produced) for at, produced in ROUNDS]
    reached = [(10**10, 400 + 2 * 10**9), (0, 200 + 10**9), (3 * 10**10, 10**10)]  # no round ends the last one's tick
    assert latency.latencies_s(rounds, reached, lateness_ns=30 * 10**9) == [1.0, 2.0]


def test_percentiles_are_values_that_were_measured():
    values = [float(n) for n in range(1, 201)]
    assert [latency.percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 100.0, 198.0, 200.0]
    assert latency.percentile([3.0], 0.99) == 3.0


@pytest.mark.parametrize("rate", [1.0, 5_000.0, 600_000.0])
def test_in_a_steady_load_every_gpu_that_falls_idle_does_so_in_time(rate):
    load = Steady.at(rate, 10)
    assert load.gpus % load.partitions == 0
    assert len(load.idle_gpus()) == len(load.falling) >= 16
    assert all((load.rounds - round_) * load.step_s > 900 for round_ in load.falling.values())
    assert named("steady", load.messages, load.gpus, load.partitions) == load


def test_an_alert_that_is_missing_or_without_cause_is_a_fault():
    load = Steady.at(1.0, 10)
    handed = [(gpu, 0, 0, 0) for gpu in sorted(load.idle_gpus())]
    right = {"messages": load.messages, "rejected": 0, "handed": handed}
    assert latency.faults(load, right) == []
    assert len(latency.faults(load, right | {"handed": handed[1:]})) == 1
    assert len(latency.faults(load, right | {"handed": [*handed, ("GPU-other", 0, 0, 0)]})) == 1
    assert len(latency.faults(load, right | {"messages": 1, "rejected": 3})) == 2


def test_a_flood_names_every_gpu_once():
    load = Flood.of_ids(100_000)
    assert load.messages == 98_304
    assert len({load.gpu_name(number) for number in range(load.messages)}) == load.messages
    assert named("flood", load.messages, load.gpus, load.partitions) == load
