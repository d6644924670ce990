"""The measurements: each state looks like itself, and the columns agree with each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.ingest.simulate.fleet import build_fleet
from service.ingest.simulate.physics import COLUMN, COLUMN_NAMES, Physics
from service.ingest.simulate.plan import SECOND, Plan
from tests.fakes.clock import NOON_NS

GIB = 1 << 30
STEP_NS = 15 * SECOND
HOURS = 3


class Recording:
    """Three hours of a clean fleet: values[step, entity, column], state[step][entity]."""

    def __init__(self, scenario: str = "clean") -> None:
        self.fleet = build_fleet(24, 7, scenario)
        self.entities = self.fleet.entities
        physics = Physics(self.fleet, Plan(7, scenario), self.entities, 0)
        times = range(NOON_NS, NOON_NS + HOURS * 3600 * SECOND, STEP_NS)
        self.values = np.empty((len(times), len(self.entities), len(COLUMN_NAMES)))
        self.state, self.number = [], []
        for i, time_ns in enumerate(times):
            self.values[i] = physics.columns(time_ns, time_ns // STEP_NS)
            self.state.append([segment.state for segment in physics.segments])
            self.number.append([segment.start_ns for segment in physics.segments])
        self.idle = np.array([e.node.instance.model.idle_watts for e in self.entities])
        self.tdp = np.array([e.node.instance.model.tdp_watts for e in self.entities])
        self.whole = np.array([e.mig is None for e in self.entities])

    def __getitem__(self, column: str) -> Any:
        return self.values[:, :, COLUMN[column]]

    def windows(self, state: str, steps: int = 20) -> list[tuple[int, slice]]:
        """Return (entity, window) of every five minutes that a whole GPU spends in `state`."""
        found = []
        states = np.array(self.state)
        for entity in np.flatnonzero(self.whole):
            for first in range(0, len(states) - steps, steps):
                if (states[first : first + steps, entity] == state).all():
                    found.append((int(entity), slice(first, first + steps)))
        assert found
        return found


@pytest.fixture(scope="module")
def clean() -> Recording:
    return Recording()


@pytest.mark.parametrize("state", ["unallocated", "truly_idle", "idle_held"])
def test_an_idle_gpu_does_nothing_and_draws_idle_power(clean: Recording, state: str) -> None:
    for entity, window in clean.windows(state):
        for column in (
            "util_ratio",
            "sm_active_ratio",
            "gr_engine_ratio",
            "tensor_ratio",
            "dram_ratio",
            "nvlink_bytes_per_s",
        ):
            assert (clean[column][window, entity] == 0).all()
        load = (clean["power_watts"][window, entity] - clean.idle[entity]) / (clean.tdp - clean.idle)[entity]
        assert abs(load).max() < 0.02
        assert clean["pcie_rx_bytes_per_s"][window, entity].max() < 20_000


def test_memory_tells_the_three_idle_states_apart(clean: Recording) -> None:
    used = clean["fb_used_bytes"]
    assert max(used[w, e].max() for e, w in clean.windows("unallocated")) == 0
    assert all(0.2 * GIB < used[w, e].min() and used[w, e].max() <= 0.5 * GIB for e, w in clean.windows("truly_idle"))
    assert min(used[w, e].min() for e, w in clean.windows("idle_held")) >= 2 * GIB - (1 << 20)


def test_an_active_gpu_is_busy_in_every_window_and_never_quiet_for_long(clean: Recording) -> None:
    for entity, window in clean.windows("active"):
        assert clean["sm_active_ratio"][window, entity].mean() > 0.5
        assert (clean["sm_active_ratio"][window, entity] > 0.01).mean() > 0.6
        assert clean["tensor_ratio"][window, entity].mean() > 0.1


def test_low_efficiency_looks_busy_to_nvml_only(clean: Recording) -> None:
    for entity, window in clean.windows("low_efficiency"):
        assert 0.08 < clean["sm_active_ratio"][window, entity].mean() < 0.47
        assert clean["util_ratio"][window, entity].mean() > 0.6
        assert clean["tensor_ratio"][window, entity].mean() > 0.01
        assert clean["sm_active_ratio"][window, entity].std() > 0.01
        assert clean["pcie_rx_bytes_per_s"][window, entity].mean() > 1e8


def test_a_hung_gpu_shows_full_utilisation_at_idle_power(clean: Recording) -> None:
    for entity, window in clean.windows("hung_collective"):
        assert (clean["util_ratio"][window, entity] == 1).all()
        assert (clean["gr_engine_ratio"][window, entity] == 1).all()
        assert (clean["tensor_ratio"][window, entity] == 0).all()
        assert clean["dram_ratio"][window, entity].max() < 0.002
        assert clean["nvlink_bytes_per_s"][window, entity].max() == 0
        load = (clean["power_watts"][window, entity] - clean.idle[entity]) / (clean.tdp - clean.idle)[entity]
        assert 0.02 < load.mean() < 0.15


def test_keep_alive_is_steady_and_moves_nothing(clean: Recording) -> None:
    for entity, window in clean.windows("keep_alive"):
        sm = clean["sm_active_ratio"][window, entity]
        assert 0.1 < sm.min() and sm.max() < 0.4 and sm.std() < 0.01
        assert (clean["tensor_ratio"][window, entity] == 0).all()
        assert clean["pcie_tx_bytes_per_s"][window, entity].max() < 20_000
        assert np.ptp(clean["fb_used_bytes"][window, entity]) == 0


def test_memory_adds_up_and_power_stays_within_the_board(clean: Recording) -> None:
    parts = clean["fb_used_bytes"] + clean["fb_free_bytes"] + clean["fb_reserved_bytes"]
    assert (parts == clean["fb_total_bytes"]).all()
    assert (clean["fb_free_bytes"] >= 0).all()
    assert (clean["power_watts"] <= 1.03 * clean.tdp).all()
    assert (clean["power_watts"] >= 0.9 * clean.idle).all()


def test_the_energy_counter_is_the_integral_of_power(clean: Recording) -> None:
    energy, power = clean["energy_joules"], clean["power_watts"]
    counted = np.diff(energy, axis=0)
    kept = counted >= 0  # a driver is reloaded once a day
    assert kept.mean() > 0.999
    drawn = (power[1:] + power[:-1]) / 2 * 15
    ratio = np.where(kept, counted, 0).sum(axis=0) / np.where(kept, drawn, 0).sum(axis=0)
    assert ratio[clean.whole] == pytest.approx(1, abs=0.03)


def test_temperature_follows_power_with_a_lag(clean: Recording) -> None:
    starts = np.array(clean.number)
    lags = 0
    for step, entity in zip(*np.nonzero(np.diff(starts, axis=0)), strict=True):
        before, after = step, min(step + 24, len(starts) - 1)
        if not clean.whole[entity] or starts[after, entity] != starts[step + 1, entity]:
            continue
        power = clean["power_watts"][:, entity]
        if power[before] - power[after] < 0.5 * clean.tdp[entity]:
            continue
        temperature = clean["temperature_celsius"][:, entity]
        assert temperature[step + 1] > temperature[after] + 8
        lags += 1
    assert lags >= 1


def test_clocks_fall_when_idle(clean: Recording) -> None:
    idle = np.array([e.node.instance.model.idle_clock_mhz * 1e6 for e in clean.entities])
    for entity, window in clean.windows("idle_held"):
        assert (clean["sm_clock_hz"][window, entity] == idle[entity]).all()
    for entity, window in clean.windows("active"):
        assert (clean["sm_clock_hz"][window, entity] > 2 * idle[entity]).all()


def test_a_straggler_is_slower_than_the_other_ranks_of_its_job() -> None:
    fleet = Recording("fleet")
    slow = fleet["thermal_throttle_seconds"]
    rising = np.diff(slow, axis=0) > 0
    assert rising.any()
    for entity in np.flatnonzero(rising.any(axis=0)):
        steps = np.flatnonzero(rising[:, entity]) + 1
        peers = [i for i, e in enumerate(fleet.entities) if e.slot == fleet.entities[entity].slot and i != entity]
        assert fleet["sm_clock_hz"][steps, entity].mean() < 0.75 * fleet["sm_clock_hz"][np.ix_(steps, peers)].mean()
        assert fleet["tensor_ratio"][steps, entity].mean() < 0.8 * fleet["tensor_ratio"][np.ix_(steps, peers)].mean()
        assert fleet["sm_active_ratio"][steps, entity].mean() > 0.5


def test_a_mig_instance_has_no_figures_that_exist_per_board_only(clean: Recording) -> None:
    sliced = ~clean.whole
    assert sliced.sum() == 12
    assert np.isnan(clean["util_ratio"][:, sliced]).all()
    assert np.isnan(clean["nvlink_bytes_per_s"][:, sliced]).all()
    boards = [e.board for e in clean.entities]
    for board in {b for b, s in zip(boards, sliced, strict=True) if s}:
        members = [i for i, b in enumerate(boards) if b == board]
        assert (np.ptp(clean["power_watts"][:, members], axis=1) == 0).all()
        assert clean["fb_total_bytes"][0, members].sum() < 82 * GIB


def test_time_may_go_backwards() -> None:
    fleet = build_fleet(8, 7, "clean")
    physics = Physics(fleet, Plan(7, "clean"), fleet.entities, 0)
    first = physics.columns(NOON_NS, 1)
    physics.columns(NOON_NS + 9 * 3600 * SECOND, 2)
    assert np.array_equal(physics.columns(NOON_NS, 1), first, equal_nan=True)
