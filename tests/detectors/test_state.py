"""State arrays grow, are thinned and are resumed without a trace of how."""

from __future__ import annotations

import numpy as np

from detectors.state import ArraySpec, Handed, StateArrays, under

SPECS = {"time_ns": ArraySpec(np.int64, 0), "mean": ArraySpec(np.float64, np.nan, (3,))}


def filled(state, start):
    state["time_ns"][start:] = np.arange(start, len(state))
    state["mean"][start:] = 0.5


def test_growing_step_by_step_gives_the_same_arrays_as_growing_at_once():
    steps, whole = StateArrays(SPECS, None), StateArrays(SPECS, None)
    for count in (1, 2, 3, 10, 11, 12, 13, 40):
        start = len(steps)
        steps.grow(count)
        assert np.isnan(steps["mean"][start:]).all()
        filled(steps, start)
    whole.grow(40)
    filled(whole, 0)
    for name, array in steps.snapshot("").items():
        assert array.tobytes() == whole.snapshot("")[name].tobytes()
        assert (len(array), array.flags.c_contiguous) == (40, True)


def test_growing_to_fewer_changes_nothing():
    state = StateArrays(SPECS, None)
    state.grow(5)
    filled(state, 0)
    state.grow(3)
    assert state["time_ns"].tolist() == [0, 1, 2, 3, 4]


def test_room_to_spare_holds_nothing_of_entities_that_were_dropped():
    state = StateArrays(SPECS, None)
    state.grow(8)
    state.grow(9)
    filled(state, 0)
    state.keep(np.array([7, 2]))
    assert state["time_ns"].tolist() == [7, 2]
    state.grow(4)
    assert state["time_ns"].tolist() == [7, 2, 0, 0]
    assert np.isnan(state["mean"][2:]).all()


def test_a_resumed_state_grows_without_touching_what_it_resumed_from():
    saved = {"time_ns": np.arange(4), "mean": np.zeros((4, 3))}
    state = StateArrays(SPECS, saved)
    state.grow(6)
    filled(state, 0)
    assert saved["mean"].sum() == 0
    assert state["time_ns"].tolist() == [0, 1, 2, 3, 4, 5]


def test_arrays_that_were_handed_over_are_kept_and_not_copied():
    saved = Handed({"a.time_ns": np.arange(4), "a.mean": np.zeros((4, 3))})
    state = StateArrays(SPECS, under("a.", saved))
    assert state["mean"] is saved["a.mean"]
    state.grow(6)
    assert state["time_ns"].tolist() == [0, 1, 2, 3, 0, 0]
