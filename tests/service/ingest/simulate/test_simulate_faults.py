"""Each kind of injected trouble does to the telemetry what its name says, and only while the truth says so."""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import cache
from typing import Any

import pytest

from service.ingest.simulate.truth import TruthRow
from tests.fakes.clock import NOON_NS
from tests.service.ingest.simulate.simulation import documents, key_of, simulation

HOURS = 3
STEP_MS = 15_000
PROFILING = ("sm_active_ratio", "gr_engine_ratio", "tensor_ratio", "dram_ratio")


class Broken:
    """Three hours of broken telemetry, or of a fleet: documents per GPU in order of arrival, and the truth."""

    def __init__(self, scenario: str, nodes: int) -> None:
        source = simulation(nodes=nodes, scenario=scenario, duration_s=HOURS * 3600)
        self.end_ns = NOON_NS + HOURS * 3600 * 10**9
        self.truth = list(source.truth.rows(source.entities, NOON_NS, self.end_ns))
        self.documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for document in documents(source):
            self.documents[key_of(document)].append(document)

    def under(self, trouble: str) -> list[tuple[TruthRow, list[dict[str, Any]]]]:
        """Return rows under one trouble with what was reported well inside them: a scrape is up to a second late."""
        found = [
            (row, [d for d in self.documents[row.entity_key] if _steps(d) in _inside(row)])
            for row in self.truth
            if row.trouble == trouble and len(_inside(row)) > 2
        ]
        assert found
        return found


def _steps(document: dict[str, Any]) -> int:
    return int(document["ts"]) // STEP_MS


def _inside(row: TruthRow) -> range:
    return range(-(-row.start_ns // 10**6 // STEP_MS) + 1, row.end_ns // 10**6 // STEP_MS - 1)


@cache
def broken(scenario: str = "broken_telemetry", nodes: int = 8) -> Broken:
    return Broken(scenario, nodes)


def test_a_silent_gpu_reports_nothing() -> None:
    assert all(reported == [] for _, reported in broken().under("silence"))


def test_lost_labels_leave_the_gpu_without_a_holder_and_its_state_as_it_was() -> None:
    for row, reported in broken().under("lost_labels"):
        assert row.state == "active"
        assert reported
        assert not any({"pod", "namespace", "job", "team"} & set(document) for document in reported)


def test_false_zeros_contradict_utilisation_and_power() -> None:
    for row, reported in broken().under("false_zeros"):
        assert row.state == "unknown"
        assert all(document.get(name, 0) == 0 for document in reported for name in PROFILING)
        assert sum(document["util_ratio"] for document in reported) / len(reported) > 0.5


def test_a_frozen_exporter_repeats_itself_with_new_times() -> None:
    for row, reported in broken().under("frozen_exporter"):
        assert row.state == "active"
        assert len({document["ts"] for document in reported}) == len(reported) > 2
        assert len({tuple(v for k, v in document.items() if k != "ts") for document in reported}) == 1


def test_duplicates_are_whole_records_again() -> None:
    repeated = 0
    for _, reported in broken().under("duplicated"):
        times = [document["ts"] for document in reported]
        repeated += len(times) - len(set(times))
        assert all(a == b for a in reported for b in reported if a["ts"] == b["ts"])
    assert repeated > 100


def test_reordered_records_are_complete_and_no_more_than_twenty_seconds_late() -> None:
    backwards = 0
    for row, reported in broken().under("reordered"):
        times = [document["ts"] for document in reported]
        assert len(set(times)) == len(times) == len(_inside(row))
        newest = 0
        for time in times:
            backwards += time < newest
            newest = max(newest, time)
            assert newest - time <= 20_000
    assert backwards > 100


def test_some_exporters_have_no_sm_column() -> None:
    for _, reported in broken().under("missing_sm_column"):
        assert not any("sm_active_ratio" in document for document in reported)
        assert all("gr_engine_ratio" in document for document in reported)


def test_an_xid_is_seen_when_it_happens_and_stays_as_the_last_one() -> None:
    fleet = broken("fleet", 24)
    for row, reported in fleet.under("xid"):
        code = {document["xid_code"] for document in reported}
        assert len(code) == 1 and code != {0}
        seen = [document["xid_code"] for document in fleet.documents[row.entity_key]]
        assert 0 not in seen[seen.index(code.pop()) :]


@pytest.mark.parametrize("kind", ["false_zeros", "frozen_exporter", "lost_labels"])
def test_no_state_changes_while_a_trouble_would_hide_it(kind: str) -> None:
    source = simulation(nodes=24, duration_s=15)
    rows = list(source.truth.rows(source.entities, NOON_NS, NOON_NS + 24 * 3600 * 10**9))
    troubled = [(a, b) for a, b in itertools.pairwise(rows) if a.trouble == kind]
    assert troubled
    assert not any(b.trouble == kind and a.entity_key == b.entity_key for a, b in troubled)
