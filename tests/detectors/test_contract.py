"""What every detector promises, proved for whatever DETECTORS holds."""

from __future__ import annotations

import numpy as np
import pytest

from detectors import DETECTORS
from detectors.columns import COLUMNS, INDEX
from detectors.contract import Fleet
from detectors.features import Features
from detectors.labels import LabelSet

START_NS = 1_790_000_000 * 10**9 // (15 * 10**9) * (15 * 10**9)
TICK_NS = 15 * 10**9
GPUS = 6
STALE_NS = 180 * 10**9


def fleet(gpus: int) -> Fleet:
    ones = np.ones(gpus)
    return Fleet(
        held=np.ones(gpus, bool), fresh=np.ones(gpus, bool), present_since_ns=np.full(gpus, START_NS),
        holder_since_ns=np.full(gpus, START_NS - 3600 * 10**9), usd_per_hour=ones * 2, idle_watts=ones * 70,
        limit_watts=ones * 700,
    )  # fmt: skip


def values(tick: int, gpus: int, seed: int = 0) -> np.ndarray:
    """One row per GPU: some busy, some quiet with memory, some changing."""
    rng = np.random.default_rng(seed * 10_000 + tick)
    rows = np.full((gpus, len(COLUMNS)), np.nan)
    busy = np.arange(gpus) % 3 == 0
    busy |= (np.arange(gpus) % 3 == 1) & (tick // 30 % 2 == 0)
    rows[:, INDEX["sm_active_ratio"]] = np.where(busy, rng.uniform(0.6, 0.9, gpus), 0.0)
    rows[:, INDEX["util_ratio"]] = np.where(busy, 0.95, 0.0)
    rows[:, INDEX["tensor_ratio"]] = np.where(busy, 0.4, 0.0)
    rows[:, INDEX["power_watts"]] = np.where(busy, 500.0, 72.0)
    rows[:, INDEX["fb_used_bytes"]] = 4e10
    return rows


class Bench:
    """One detector with its features, driven tick by tick."""

    def __init__(self, cls, resume=None, gpus=GPUS):
        params = cls.params_type()
        saved = resume or {}
        self.features = Features(cls.requires(params), STALE_NS, saved.get("features"))
        self.detector = cls(params, saved.get("detector"))
        self.features.grow(gpus)
        self.detector.grow(gpus)
        self.gpus = gpus
        for e in range(gpus):
            self.detector.describe([e], [LabelSet(uuid=f"GPU-{e}", namespace="a", pod="p")], ["a"])

    def tick(self, number, rows=None):
        rows = values(number, self.gpus) if rows is None else rows
        end_ns = START_NS + (number + 1) * TICK_NS
        columns = {column.name: rows[:, i].copy() for i, column in enumerate(COLUMNS)}
        self.features.fold(np.arange(self.gpus, dtype=np.int32), np.full(self.gpus, end_ns - 1), columns)
        return self.detector.evaluate(end_ns, 15.0, self.features, fleet(self.gpus))

    def snapshot(self):
        parts = {"features": self.features.snapshot(), "detector": self.detector.snapshot()}
        return {part: {name: array.copy() for name, array in arrays.items()} for part, arrays in parts.items()}


def same(a, b) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in a.__slots__)


def same_state(a, b) -> bool:
    return all(
        a[part].keys() == b[part].keys() and all(a[part][k].tobytes() == b[part][k].tobytes() for k in a[part])
        for part in a
    )


@pytest.fixture(params=DETECTORS.values(), ids=DETECTORS.keys())
def cls(request):
    return request.param


def test_it_is_known_by_its_own_name(cls):
    assert DETECTORS[cls.name] is cls


def test_the_same_input_gives_the_same_findings_and_state(cls):
    a, b = Bench(cls), Bench(cls)
    assert all(same(a.tick(i), b.tick(i)) for i in range(60))
    assert same_state(a.snapshot(), b.snapshot())


@pytest.mark.parametrize("at", [1, 7, 40])
def test_a_resumed_detector_goes_on_as_if_nothing_had_happened(cls, at):
    calm = Bench(cls)
    for i in range(at):
        calm.tick(i)
    resumed = Bench(cls, calm.snapshot())
    assert all(same(calm.tick(i), resumed.tick(i)) for i in range(at, at + 60))
    assert same_state(calm.snapshot(), resumed.snapshot())


def test_reading_changes_nothing_between_two_ticks(cls):
    """A checkpoint reads the state where it lies, while others read too."""
    bench = Bench(cls)
    for i in range(60):
        bench.tick(i)
    before = bench.snapshot()
    bench.detector.evidence(0)
    bench.features.latest("power_watts", START_NS)
    assert same_state(bench.snapshot(), before)


def test_it_leaves_its_input_alone(cls):
    bench = Bench(cls)
    rows = values(0, GPUS)
    kept = rows.copy()
    bench.tick(0, rows)
    assert np.array_equal(rows, kept, equal_nan=True)


def test_it_finds_nothing_before_it_has_history(cls):
    bench = Bench(cls)
    assert (bench.tick(0).kind == -1).all()


def test_it_finds_nothing_where_nothing_is_measured(cls):
    bench = Bench(cls)
    nothing = np.full((GPUS, len(COLUMNS)), np.nan)
    assert all((bench.tick(i, nothing).kind == -1).all() for i in range(60))


def test_it_raises_only_kinds_that_it_declares(cls):
    bench = Bench(cls)
    found = np.concatenate([bench.tick(i).kind for i in range(80)])
    assert found.max() >= 0
    assert found.max() < len(cls.kinds)


def test_new_gpus_change_nothing_for_those_that_are_known(cls):
    few, many = Bench(cls, gpus=3), Bench(cls, gpus=GPUS)
    for i in range(50):
        few.tick(i, values(i, GPUS)[:3])
        many.tick(i, values(i, GPUS))
    assert np.array_equal(few.tick(50, values(50, GPUS)[:3]).kind, many.tick(50, values(50, GPUS)).kind[:3])


def test_what_a_kind_has_wasted_never_falls(cls):
    bench = Bench(cls)
    last = np.zeros((GPUS, len(cls.kinds)))
    for i in range(120):
        found = bench.tick(i)
        for e in np.flatnonzero(found.kind >= 0):
            assert found.usd_total[e] >= last[e, found.kind[e]]
            last[e, found.kind[e]] = found.usd_total[e]


def test_evidence_is_finite_and_says_which_signal(cls):
    bench = Bench(cls)
    for i in range(40):
        bench.tick(i)
    evidence = bench.detector.evidence(0)
    assert evidence
    assert all(isinstance(v, str) or np.isfinite(v) for v in evidence.values())
