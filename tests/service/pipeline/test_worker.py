"""State is a function of the set of accepted rows: not of cuts, partitions, order, duplicates or restarts."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from detectors.batch import EventBatch
from detectors.entities import Entities
from detectors.features import ACTIVITY
from detectors.labels import LabelSets
from service.errors import CorruptState
from service.ingest.contract import REASONS, TopicPartition
from service.pipeline.directory import Directory
from service.pipeline.prices import PriceBook
from service.pipeline.saved_state import STATE_VERSION, state_hash
from service.settings import FleetSettings, IngestSettings
from tests.service.pipeline.stream import START_NS, TICK_NS, Rows, configuration, core, gpu, told, worker

SHORT = {"for_s": dict.fromkeys(("truly_idle", "idle_held", "unallocated", "hung_collective", "keep_alive"), 120.0)}


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows()


@pytest.fixture(scope="module")
def settings():
    plain = configuration()
    idle = plain.detectors.idle_waste.model_copy(update=SHORT)
    return plain.model_copy(update={"detectors": plain.detectors.model_copy(update={"idle_waste": idle})})


def run(settings, rows, batches, resume_every=0):
    """Feed batches as a loop would; perhaps go through a snapshot after every few of them."""
    outcomes = []
    tested = worker(settings, rows.label_sets)
    tested.watermarks.assign({TopicPartition("t", batch.partition) for batch in batches})
    for i, batch in enumerate(batches):
        assert not reasons(tested.ingest(batch))
        tested.advance(frozenset(), outcomes.append)
        if resume_every and i % resume_every == 0:
            tested = worker(settings, rows.label_sets, tested.snapshot())
    tested.finish(outcomes.append)
    return tested, outcomes


def in_order(rows, cuts):
    bounds = [0, *sorted(cuts), len(rows)]
    return [rows.batch(np.arange(a, b), 0, a) for a, b in pairwise(bounds) if b > a]


def test_the_stream_raises_alerts_at_all(rows, settings):
    _, outcomes = run(settings, rows, in_order(rows, []))
    assert sum(len(o.fired) for o in outcomes) > 5
    assert any(o.notifications for o in outcomes)


@pytest.mark.parametrize("seed", range(3))
def test_cutting_the_log_elsewhere_changes_nothing(rows, settings, seed):
    cuts = np.random.default_rng(seed).integers(0, len(rows), 25).tolist()
    whole, expected = run(settings, rows, in_order(rows, []))
    cut, found = run(settings, rows, in_order(rows, cuts))
    assert told(found) == told(expected)
    assert state_hash(cut.snapshot()) == state_hash(whole.snapshot())


def test_spreading_a_gpu_over_partitions_changes_nothing(rows, settings):
    whole, expected = run(settings, rows, in_order(rows, []))
    batches = []
    for start in range(0, len(rows), 200):
        part = np.arange(start, min(start + 200, len(rows)))
        batches += [rows.batch(part[part % 3 == p], p, start) for p in (2, 0, 1)]
    spread, found = run(settings, rows, batches)
    assert told(found) == told(expected)
    assert core(spread.snapshot()) == core(whole.snapshot())


def test_order_within_the_lateness_bound_and_duplicates_change_nothing(rows, settings):
    whole, expected = run(settings, rows, in_order(rows, []))
    rng = np.random.default_rng(4)
    shuffled = np.argsort(rows.time_ns + rng.integers(0, 20 * 10**9, len(rows)), kind="stable")
    twice = np.sort(np.concatenate([np.arange(len(rows)), rng.integers(0, len(rows), len(rows) // 10)]))
    batches = [rows.batch(shuffled[twice[a : a + 300]], 0, a) for a in range(0, len(twice), 300)]
    mixed, found = run(settings, rows, batches)
    assert [(o.end_ns, o.fired, o.resolved, o.notifications) for o in found] == [
        (o.end_ns, o.fired, o.resolved, o.notifications) for o in expected
    ]
    assert core(mixed.snapshot()) == core(whole.snapshot())


def test_a_sample_that_comes_column_by_column_is_one_row(rows, settings):
    whole, expected = run(settings, rows, in_order(rows, []))
    names = list(rows.columns)
    batches = []
    for start in range(0, len(rows), 400):
        part = np.arange(start, min(start + 400, len(rows)))
        batches += [rows.batch(part, k, start, names[k::4]) for k in range(4)]
    pieces, found = run(settings, rows, batches)
    assert told(found) == told(expected)
    assert core(pieces.snapshot()) == core(whole.snapshot())


def test_a_restart_after_any_batch_changes_nothing(rows, settings):
    cuts = list(range(150, len(rows), 150))
    calm, expected = run(settings, rows, in_order(rows, cuts))
    restarted, found = run(settings, rows, in_order(rows, cuts), resume_every=1)
    assert told(found) == told(expected)
    assert state_hash(restarted.snapshot()) == state_hash(calm.snapshot())


def test_a_snapshot_is_a_copy(rows, settings):
    tested, _ = run(settings, rows, in_order(rows, []))
    before = state_hash(tested.snapshot())
    taken = tested.snapshot()
    for array in taken.values():
        if array.flags.writeable:
            array[...] = np.zeros((), array.dtype)
    assert state_hash(tested.snapshot()) == before


def one(label_sets, times_s, labels=None, partition=0, **columns):
    """Return a batch of one GPU's samples at these seconds after the start."""
    n = len(times_s)
    ids = np.full(n, label_sets.intern(labels or gpu()), np.int32)
    time_ns = START_NS + (np.array(times_s) * 1e9).astype(np.int64)
    values = {name: np.full(n, value, float) for name, value in columns.items()}
    return EventBatch("t", partition, n, np.arange(n), time_ns, ids, values)


def reasons(refusals):
    return [REASONS[i] for i in refusals.reason.tolist()]


def test_a_row_behind_its_watermark_is_refused_as_late():
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)
    refusals = tested.ingest(one(label_sets, [0, 100, 71, 69], sm_active_ratio=0.5))
    assert refusals.row.tolist() == [3]
    assert reasons(refusals) == ["late"]


def test_one_clock_far_ahead_makes_nobody_late():
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)
    refusals = tested.ingest(one(label_sets, [0, 100_000, 15, 30, 100_000, 45], sm_active_ratio=0.5))
    assert not reasons(refusals)
    assert tested.watermarks.newest_ns() == START_NS + 45 * 10**9


def test_after_a_gap_the_clock_follows_and_no_row_is_lost():
    label_sets = LabelSets()
    tested = worker(configuration(ingest=IngestSettings(jump_rows=3)), label_sets)
    times = [0, 15, 90_000, 90_015, 90_030, 90_045]
    assert not reasons(tested.ingest(one(label_sets, times, sm_active_ratio=0.5)))
    outcomes = []
    tested.finish(outcomes.append)
    assert sum(o.rows for o in outcomes) == len(times)
    assert len(outcomes) < 100  # ticks in which nothing can change are skipped


def test_gpus_beyond_the_limit_are_refused_and_known_ones_go_on():
    label_sets = LabelSets()
    tested = worker(configuration(fleet=FleetSettings(entities_max=2)), label_sets)
    for i, expected in enumerate([[], [], ["entities_max"]]):
        found = tested.ingest(one(label_sets, [i], gpu(f"GPU-{i}"), sm_active_ratio=0.5))
        assert reasons(found) == expected
    assert not reasons(tested.ingest(one(label_sets, [3], gpu("GPU-0"), sm_active_ratio=0.5)))


def test_a_silent_gpu_is_forgotten_and_makes_room():
    label_sets = LabelSets()
    tested = worker(configuration(fleet=FleetSettings(entities_max=2, forget_after_s=60)), label_sets)
    tested.ingest(one(label_sets, [0], gpu("GPU-silent"), sm_active_ratio=0.5))
    tested.ingest(one(label_sets, [0, 15, 30], gpu("GPU-live"), sm_active_ratio=0.5))
    refused = tested.ingest(one(label_sets, [30], gpu("GPU-new"), sm_active_ratio=0.5))
    assert reasons(refused) == ["entities_max"]
    tested.ingest(one(label_sets, range(45, 240, 15), gpu("GPU-live"), sm_active_ratio=0.5))
    tested.advance(frozenset(), lambda _: None)
    assert not reasons(tested.ingest(one(label_sets, [240], gpu("GPU-new"), sm_active_ratio=0.5)))


def shared(label_sets, times_s, pods, **columns):
    """Return a batch in which one GPU is reported at each instant once for every pod that shares it."""
    ids = [label_sets.intern(gpu(pod=pod)) for pod in pods]
    batch = one(label_sets, np.repeat(times_s, len(ids)), **columns)
    return dataclasses.replace(batch, label_set=np.tile(np.array(ids, np.int32), len(times_s)))


@pytest.mark.parametrize("pods", [["a"], ["a", "b"], [f"p-{i}" for i in range(12)]])
def test_holders_that_share_a_gpu_are_the_same_to_a_worker_that_has_just_started(pods):
    calm_sets, label_sets = LabelSets(), LabelSets()
    calm, restarted = worker(configuration(), calm_sets), worker(configuration(), label_sets)
    for start in range(0, 900, 15):
        now = pods[::-1] if start < 600 else [*pods[1:], "new"]
        calm.ingest(shared(calm_sets, [start, start + 10], now, sm_active_ratio=0.5))
        restarted.ingest(shared(label_sets, [start, start + 10], now, sm_active_ratio=0.5))
        calm.advance(frozenset(), lambda _: None)
        restarted.advance(frozenset(), lambda _: None)
        assert state_hash(restarted.snapshot()) == state_hash(calm.snapshot())
        restarted = worker(configuration(), label_sets, restarted.snapshot())
    assert calm.entities.state["sharers"][0] == len(pods)
    assert calm.entities.labels[0].pod == min(now)


def test_labels_that_say_nothing_new_are_not_looked_at(monkeypatch):
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)

    def send(start, pods):
        """Two pods share the GPU; an exporter that knows of no pods comes after them."""
        tested.ingest(shared(label_sets, [start], pods, sm_active_ratio=0.5))
        tested.ingest(one(label_sets, [start + 5], gpu(pod="", namespace=""), power_watts=300.0))
        return tested.advance(frozenset(), lambda _: None)

    for start in range(0, 120, 15):
        send(start, ["a", "b"])
    monkeypatch.setattr(type(tested.entities), "describe", None)
    monkeypatch.setattr("detectors.labels.LabelSet.entity_key", None)
    assert sum(send(start, ["b", "a"]) for start in range(120, 600, 15)) > 20
    assert (tested.entities.labels[0].pod, tested.entities.state["sharers"][0]) == ("a", 2)


def test_forgetting_some_gpus_leaves_the_others_as_a_restart_would():
    calm_sets, label_sets = LabelSets(), LabelSets()
    settings = configuration(fleet=FleetSettings(entities_max=4, forget_after_s=60))
    calm, restarted = worker(settings, calm_sets), worker(settings, label_sets)
    for start in range(0, 900, 15):
        for i in range(6):
            if (start // 120 + i) % 3 == 0:
                continue
            labels = gpu(f"GPU-{i}", node=f"n{i % 2}", pod=f"p-{i % 4}")
            sent = {"util_unscaled": 40.0 + i, "fb_used_bytes": 0.0, "power_watts": 100.0}
            found = calm.ingest(one(calm_sets, [start], labels, **sent))
            assert reasons(restarted.ingest(one(label_sets, [start], labels, **sent))) == reasons(found)
        calm.advance(frozenset(), lambda _: None)
        restarted.advance(frozenset(), lambda _: None)
        assert state_hash(restarted.snapshot()) == state_hash(calm.snapshot())
        restarted = worker(settings, label_sets, restarted.snapshot())
    assert 0 < len(calm.entities) <= 4


@pytest.mark.parametrize(("sent", "expected"), [([0.4, 0.9], 0.9), ([40.0, 90.0], 0.9), ([1.0, 1.0], 1.0)])
def test_the_ratio_that_may_be_percent_is_scaled_per_node(sent, expected):
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)
    for i, value in enumerate(sent):
        tested.ingest(one(label_sets, [i * 15], util_unscaled=value))
    tested.finish(lambda _: None)
    assert tested.features.latest(ACTIVITY, tested.as_of_ns())[0] == pytest.approx(expected)


def test_the_holder_outlives_a_flap_of_labels_but_not_its_memory():
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)
    unnamed = gpu(namespace="", pod="")
    tested.ingest(one(label_sets, range(0, 60, 15), sm_active_ratio=0.5, fb_used_bytes=4e10))
    tested.ingest(one(label_sets, range(60, 300, 15), unnamed, sm_active_ratio=0.5, fb_used_bytes=4e10))
    tested.finish(lambda _: None)
    assert tested.entities.labels[0].pod == "p-0"
    tested.ingest(one(label_sets, range(300, 420, 15), unnamed, sm_active_ratio=0.0, fb_used_bytes=0.0))
    tested.finish(lambda _: None)
    assert tested.entities.labels[0].pod == ""


def test_ticks_wait_for_the_slowest_partition_but_not_for_an_idle_one():
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)
    ahead, behind = TopicPartition("t", 0), TopicPartition("t", 1)
    tested.watermarks.assign({ahead, behind})
    tested.ingest(one(label_sets, [0, 300], sm_active_ratio=0.5))
    assert tested.advance(frozenset(), lambda _: None) == 0
    assert tested.advance(frozenset({behind}), lambda _: None) > 0
    assert tested.as_of_ns() <= START_NS + 300 * 10**9 - 30 * 10**9 + TICK_NS


def test_a_resumed_worker_remembers_only_label_sets_that_rows_wait_under():
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)
    for i in range(50):
        tested.ingest(one(label_sets, [i * 15], gpu(pod=f"p-{i}"), sm_active_ratio=0.5))
    tested.advance(frozenset(), lambda _: None)
    resumed = worker(configuration(), LabelSets(), tested.snapshot())
    assert tested.label_sets_known() == 50
    assert 0 < resumed.label_sets_known() < 6
    assert state_hash(resumed.snapshot()) == state_hash(tested.snapshot())


def test_state_of_another_layout_is_refused():
    saved = dict(worker(configuration(), LabelSets()).snapshot())
    text = saved["meta"].tobytes().replace(f'"version":{STATE_VERSION}'.encode(), b'"version":9')
    with pytest.raises(CorruptState, match="version 9"):
        worker(configuration(), LabelSets(), saved | {"meta": np.frombuffer(text, np.uint8)})


def test_a_detector_whose_state_means_something_else_starts_cold(rows, settings):
    tested, _ = run(settings, rows, in_order(rows, []))
    saved = dict(tested.snapshot())
    text = saved["meta"].tobytes().replace(b'"state_versions":{"idle_waste":2}', b'"state_versions":{"idle_waste":0}')
    cold = worker(settings, LabelSets(), saved | {"meta": np.frombuffer(text, np.uint8)})
    assert len(cold.entities) == len(tested.entities)
    assert cold.snapshot()["detectors.idle_waste.usd_in_state"].sum() == 0


def test_a_shorter_tick_goes_on_from_the_same_instant(rows):
    tested, _ = run(configuration(), rows, in_order(rows, []))
    shorter = worker(configuration(fleet=FleetSettings(tick_s=5)), LabelSets(), tested.snapshot())
    assert shorter.as_of_ns() == tested.as_of_ns()


def test_a_topic_that_is_no_longer_read_holds_nothing_back():
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)
    tested.ingest(one(label_sets, [0, 15], sm_active_ratio=0.5))
    resumed = worker(configuration(), label_sets, tested.snapshot())
    fresh = TopicPartition("new", 0)
    resumed.watermarks.assign({fresh})
    batch = one(label_sets, range(0, 600, 15), sm_active_ratio=0.5)
    resumed.ingest(dataclasses.replace(batch, topic="new"))
    assert resumed.advance(frozenset(), lambda _: None) > 30
    assert resumed.watermarks.ahead(frozenset()) == frozenset()
    assert resumed.watermarks.next_offset(TopicPartition("t", 0)) == 2


def test_gpus_without_uuid_and_late_ones_take_no_place_twice():
    label_sets = LabelSets()
    tested = worker(configuration(fleet=FleetSettings(entities_max=4)), label_sets)
    late = one(label_sets, [600, 1], gpu("GPU-first"), sm_active_ratio=0.5)
    late = dataclasses.replace(
        late, label_set=np.array([late.label_set[0], label_sets.intern(gpu("GPU-late"))], np.int32)
    )
    assert reasons(tested.ingest(late)) == ["late"]
    for i in range(3):
        index = one(label_sets, [630 + i * 30], gpu("", gpu=str(i)), sm_active_ratio=0.5)
        assert not reasons(tested.ingest(index))
        tested.finish(lambda _: None)


def test_a_node_that_was_upgraded_to_ratios_is_not_read_as_percent_for_ever():
    label_sets = LabelSets()
    tested = worker(configuration(), label_sets)
    tested.ingest(one(label_sets, [0], util_unscaled=97.0))
    tested.ingest(one(label_sets, range(15, 2 * 3600, 15), util_unscaled=1.0))
    tested.finish(lambda _: None)
    assert tested.features.latest(ACTIVITY, tested.as_of_ns())[0] == 1.0


def test_gpus_that_are_described_together_are_as_if_each_were_alone(monkeypatch):
    """New ones under one label set and under several, with a holder, without, and with half of one."""
    sets = LabelSets()
    named = [gpu(f"GPU-{i}", pod=f"p-{i}", team="x" * (i % 2)) for i in range(6)]
    unnamed = [gpu(f"GPU-{i}", namespace="", pod="", job="", container="c", team="t") for i in range(4, 10)]
    ids = np.array([sets.intern(labels) for labels in [*named, *unnamed, named[0]._replace(pod="other")]], np.int32)

    def states():
        tested = worker(configuration(), sets)
        for number in range(3):
            n = len(ids) if number else len(ids) - 4
            time_ns = np.full(n, START_NS + number * TICK_NS) + np.arange(n) % 3
            tested.ingest(EventBatch("t", 0, 99, np.arange(n), time_ns, ids[:n], {"sm_active_ratio": np.full(n, 0.5)}))
        tested.finish(lambda _: None)
        assert len(tested.entities) == 10
        return state_hash(tested.snapshot()), list(tested.particulars.entries), list(tested.particulars.owners)

    together = states()
    monkeypatch.setattr(
        Entities, "describe_new", lambda _, presence, first, *_rest: presence.entity[presence.entity >= first]
    )
    assert together == states()


def test_a_resumed_fleet_that_reports_as_before_is_not_described_anew(monkeypatch):
    """Whoever says something else is, and all end as if there had been no restart."""
    sets = LabelSets()
    before = [gpu(f"GPU-{i}", pod=f"p-{i}") for i in range(6)]
    shared = before[5]._replace(pod="other")  # at the same instant, so that two hold GPU-5
    first = np.array([sets.intern(labels) for labels in [*before, shared]], np.int32)
    changed = [*before[:4], before[4]._replace(pod="new"), before[5]]
    after = np.array([sets.intern(labels) for labels in changed], np.int32)

    def batch(ids, time_ns):
        times = np.full(len(ids), time_ns)
        return EventBatch("t", 0, 99, np.arange(len(ids)), times, ids, {"sm_active_ratio": np.full(len(ids), 0.5)})

    def closed(tested, ids, number):
        tested.ingest(batch(ids, START_NS + number * TICK_NS))
        tested.finish(lambda _: None)
        return tested

    going_on = closed(worker(configuration(), sets), first, 0)
    others = LabelSets()
    others.intern(gpu("GPU-else"))  # ids are not those of before
    resumed = worker(configuration(), others, going_on.snapshot())
    renumbered = np.array([others.intern(sets[i]) for i in after.tolist()], np.int32)
    described, describe = [], Entities.describe
    monkeypatch.setattr(Entities, "describe", lambda self, e, seen: described.append(e) or describe(self, e, seen))
    closed(resumed, renumbered, 1)
    assert described == [4, 5]
    closed(going_on, after, 1)
    assert state_hash(resumed.snapshot()) == state_hash(going_on.snapshot())


def test_entries_that_are_looked_up_together_are_those_of_each(rows, settings):
    directory = Directory(PriceBook(settings.prices), {"a*": "team-a"})
    labels = [*map(rows.label_sets.__getitem__, range(len(rows.label_sets))), gpu("x", mig_id="3", namespace="ab")]
    entries, code = directory.look_up_all(labels)
    assert [entries[i] for i in code.tolist()] == list(map(directory.look_up, labels))
