"""The plan of the fleet: which states there are, for how long, and who holds what."""

from __future__ import annotations

from collections import Counter

import pytest

from service.ingest.simulate.evaluate import STATES
from service.ingest.simulate.truth import TruthRow
from tests.fakes.clock import NOON_NS
from tests.service.ingest.simulate.simulation import MINUTE_NS, documents, key_of, simulation

DAY_NS = 24 * 60 * MINUTE_NS


@pytest.mark.parametrize("seed", [7, 8])
def test_every_state_exists_at_any_time_in_a_fleet_of_eight_nodes(seed: int) -> None:
    truth = simulation(seed=seed, scenario="clean").truth
    entities = simulation(seed=seed, scenario="clean").entities
    for minutes in range(0, 36 * 60, 13):
        now = NOON_NS + minutes * MINUTE_NS
        assert {truth.row_at(entity, now).state for entity in entities} == set(STATES) - {"unknown"}


def test_states_last_a_quarter_of_an_hour_at_least() -> None:
    source = simulation(scenario="clean", nodes=12)
    for entity in source.entities:
        stays: list[list[int]] = []
        states: list[str] = []
        for row in source.truth.rows([entity], NOON_NS, NOON_NS + DAY_NS):
            if states and states[-1] == row.state:
                stays[-1][1] = row.end_ns
            else:
                states.append(row.state)
                stays.append([row.start_ns, row.end_ns])
        # A minute is granted to a state that two plans share.
        assert all(end_ns - start_ns >= 14 * MINUTE_NS for start_ns, end_ns in stays[1:-1])


def test_most_gpus_of_a_large_fleet_work() -> None:
    source = simulation(nodes=200, scenario="clean")
    states = Counter(source.truth.row_at(entity, NOON_NS).state for entity in source.entities)
    assert 0.5 < states["active"] / states.total() < 0.85
    assert all(states[state] for state in STATES if state != "unknown")


def test_a_hung_job_is_hung_on_all_its_gpus() -> None:
    source = simulation(nodes=24, scenario="clean")
    hung = {e.slot for e in source.entities if source.truth.row_at(e, NOON_NS).state == "hung_collective"}
    assert hung
    for entity in source.entities:
        if entity.slot in hung:
            assert source.truth.row_at(entity, NOON_NS).state == "hung_collective"


def test_a_gpu_has_a_holder_exactly_when_it_is_allocated() -> None:
    source = simulation(scenario="clean", duration_s=15)
    state = {entity.key: source.truth.row_at(entity, NOON_NS).state for entity in source.entities}
    for document in documents(source):
        assert ("pod" in document) == (state[key_of(document)] != "unallocated")


def test_the_ranks_of_a_job_share_its_name_and_have_a_pod_per_node() -> None:
    source = simulation(nodes=8, scenario="clean", duration_s=15)
    pods: dict[str, set[tuple[str, str]]] = {}
    for document in documents(source):
        if document.get("container") in ("trainer", "pytorch"):
            pods.setdefault(document["job"], set()).add((document["pod"], document["node"]))
    assert any(len(of_job) > 1 for of_job in pods.values())
    for job, of_job in pods.items():
        assert len({pod for pod, _ in of_job}) == len({node for _, node in of_job}) == len(of_job)
        assert all(pod.startswith(job) for pod, _ in of_job)


def test_broken_telemetry_has_no_idle_gpu_and_every_kind_of_trouble() -> None:
    source = simulation(scenario="broken_telemetry", nodes=16)
    rows = list(source.truth.rows(source.entities, NOON_NS, NOON_NS + DAY_NS))
    assert {row.state for row in rows} == {"active", "unknown"}
    assert _troubles(rows) >= {
        "lost_labels", "false_zeros", "frozen_exporter", "silence", "duplicated", "reordered", "missing_sm_column",
    }  # fmt: skip


def test_a_fleet_also_has_stragglers_and_xids_and_a_clean_one_has_nothing() -> None:
    fleet = simulation(nodes=16)
    assert _troubles(list(fleet.truth.rows(fleet.entities, NOON_NS, NOON_NS + DAY_NS))) >= {"straggler", "xid"}
    clean = simulation(nodes=16, scenario="clean")
    assert _troubles(list(clean.truth.rows(clean.entities, NOON_NS, NOON_NS + DAY_NS))) == {""}


def _troubles(rows: list[TruthRow]) -> set[str]:
    return {row.trouble for row in rows}
