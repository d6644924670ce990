"""Each state is found where it is and not where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.features import Features
from detectors.idle_waste import STATES, IdleWaste, IdleWasteParams, Override
from detectors.labels import LabelSet
from tests.detectors.test_contract import STALE_NS, START_NS, TICK_NS, fleet

BUSY = {"util_ratio": 0.97, "gr_engine_ratio": 0.95, "sm_active_ratio": 0.8, "tensor_ratio": 0.4, "dram_ratio": 0.4, "power_watts": 550.0, "fb_used_bytes": 6e10, "pcie_rx_bytes_per_s": 1e9}  # fmt: skip
QUIET = {"util_ratio": 0.0, "gr_engine_ratio": 0.0, "sm_active_ratio": 0.0, "tensor_ratio": 0.0, "dram_ratio": 0.0, "power_watts": 72.0, "fb_used_bytes": 0.0, "pcie_rx_bytes_per_s": 0.0}  # fmt: skip
HUNG = QUIET | {"util_ratio": 1.0, "gr_engine_ratio": 1.0, "sm_active_ratio": 0.99, "power_watts": 113.0, "fb_used_bytes": 5e10}  # fmt: skip
BUSYWORK = QUIET | {"util_ratio": 0.31, "gr_engine_ratio": 0.3, "sm_active_ratio": 0.29, "dram_ratio": 0.05, "power_watts": 152.0, "fb_used_bytes": 2e9}  # fmt: skip


def judge(sample, ticks=30, params=None, labels=None, held=True, changes=None, without=(), **facts):
    """Let one GPU send the same sample for a while; return its state, findings and detector."""
    params = params or IdleWasteParams()
    features = Features(IdleWaste.requires(params), STALE_NS, None)
    detector = IdleWaste(params, None)
    features.grow(1)
    detector.grow(1)
    detector.describe([0], [labels or LabelSet(uuid="GPU-0", namespace="a", pod="p")], ["team"])
    columns = {name: np.array([value], float) for name, value in sample.items() if name not in without}
    known = fleet(1)
    known = type(known)(**{n: getattr(known, n) for n in known.__slots__} | {"held": np.array([held])} | facts)
    for i in range(ticks):
        end_ns = START_NS + (i + 1) * TICK_NS
        features.fold(np.zeros(1, np.int32), np.array([end_ns - 1]), columns)
        found = detector.evaluate(end_ns, 15.0, features, known)
    return STATES[detector.figures()["state"][0]], found, detector


@pytest.mark.parametrize(
    ("sample", "held", "state"),
    [
        (BUSY, True, "active"),
        (QUIET, False, "unallocated"),
        (QUIET, True, "truly_idle"),
        (QUIET | {"fb_used_bytes": 4e10}, True, "idle_held"),
        (BUSY | {"sm_active_ratio": 0.2, "power_watts": 200.0}, True, "low_efficiency"),
        (HUNG, True, "hung_collective"),
        (BUSYWORK, True, "keep_alive"),
        (BUSYWORK | {"tensor_ratio": 0.1, "pcie_rx_bytes_per_s": 1e9}, True, "low_efficiency"),
        (HUNG | {"power_watts": 600.0}, True, "active"),
    ],
)
def test_the_states_of_a_gpu_with_every_signal(sample, held, state):
    assert judge(sample, held=held)[0] == state


@pytest.mark.parametrize(
    "sample",
    [
        BUSY | {"sm_active_ratio": 0.0, "gr_engine_ratio": 0.0},  # false zeros beside full utilisation and power
        QUIET | {"power_watts": 500.0},  # power vetoes
        QUIET | {"util_ratio": 0.9},  # utilisation contradicts the counters
    ],
)
def test_contradicting_signals_are_never_idle(sample):
    state, found, _ = judge(sample)
    assert state == "unknown"
    assert IdleWaste.kinds[found.kind[0]].name == "telemetry_disagreement"
    assert found.usd_per_hour[0] == 0


def test_without_sm_the_engine_decides_and_without_that_utilisation():
    for without, signal in (((), "sm"), (("sm_active_ratio",), "gr"), (("sm_active_ratio", "gr_engine_ratio"), "util")):
        state, found, detector = judge(QUIET | {"fb_used_bytes": 4e10}, without=without)
        assert (state, detector.evidence(0)["signal"]) == ("idle_held", signal)
        assert found.confidence[0] <= 1.0


def test_less_trusted_signals_give_less_confidence():
    confidences = [
        judge(QUIET, without=without)[1].confidence[0]
        for without in ((), ("sm_active_ratio",), ("sm_active_ratio", "gr_engine_ratio"), ("sm_active_ratio", "gr_engine_ratio", "power_watts"))
    ]  # fmt: skip
    assert confidences == sorted(confidences, reverse=True)
    assert len(set(confidences)) == 4


def test_without_sm_low_power_shows_low_efficiency():
    sample = BUSY | {"power_watts": 200.0}
    assert judge(sample, without=("sm_active_ratio",))[0] == "low_efficiency"
    assert judge(sample)[0] == "active"


def test_stale_and_young_gpus_are_unknown():
    assert judge(QUIET, fresh=np.zeros(1, bool))[0] == "unknown"
    assert judge(QUIET, ticks=5)[0] == "unknown"


def test_a_new_holder_has_grace_but_its_state_is_shown():
    state, found, _ = judge(QUIET, holder_since_ns=np.array([START_NS + 20 * TICK_NS]))
    assert state == "truly_idle"
    assert found.kind[0] == -1


def test_an_exempt_namespace_raises_nothing_and_still_counts():
    params = IdleWasteParams(overrides=[Override(namespace="a", exempt=True, reason="kept for demos")])
    state, found, detector = judge(QUIET, params=params)
    assert (state, found.kind[0]) == ("truly_idle", -1)
    assert detector.snapshot()["usd_in_state"][0, STATES.index("truly_idle")] > 0


def test_an_override_changes_only_what_it_matches():
    params = IdleWasteParams(overrides=[Override(namespace="b*", for_s={"truly_idle": 60}, efficiency_min=0.1)])
    plain = judge(QUIET, params=params)[1].for_ns[0]
    other = judge(QUIET, params=params, labels=LabelSet(uuid="GPU-0", namespace="bees", pod="p"))[1].for_ns[0]
    assert (plain, other) == (1800 * 10**9, 60 * 10**9)


def test_the_dollars_are_price_times_wasted_share():
    _, found, detector = judge(QUIET)
    assert found.usd_per_hour[0] == 2.0
    ticks_idle = detector.snapshot()["seconds_in_state"][STATES.index("truly_idle")] / 15
    assert found.usd_total[0] == pytest.approx(2.0 * ticks_idle * 15 / 3600)


def test_an_unknown_price_gives_a_finding_without_dollars():
    _, found, _ = judge(QUIET, usd_per_hour=np.array([np.nan]))
    assert IdleWaste.kinds[found.kind[0]].name == "truly_idle"
    assert np.isnan(found.usd_per_hour[0])
    assert found.usd_total[0] == 0


def test_a_dropped_gpu_stays_in_the_totals():
    _, _, detector = judge(QUIET)
    before = detector.figures()["usd_total"].sum()
    detector.keep(np.empty(0, np.int64))
    assert detector.snapshot()["retired_usd"].sum() == pytest.approx(before)
    assert detector.figures()["usd_total"].sum() == pytest.approx(before)
