"""What is shown of a result: every engine, also one that is missing, and a picture that is the same for the same figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.bench.engines import ENGINES, OURS, faults
from tests.bench.plot import svg
from tests.bench.report import Grid, grids
from tests.bench.works import Load

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
    }


def engines_of(result: dict[str, Any]) -> Grid:
    return grids(result)[0]


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
    assert "1,000,000 GPUs: missing, the time was up" in grids(result)[1].markdown()


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
