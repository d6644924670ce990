"""What a fleet has brought is out of the collector's sight once, and not again for a flood that is forgotten."""

from __future__ import annotations

import gc

import pytest

from service.pipeline import tenure as service_tenure
from service.pipeline.tenure import LARGE, STEP, Tenure, undisturbed


@pytest.fixture
def frozen():
    yield gc.get_freeze_count
    gc.unfreeze()


def test_only_more_than_ever_before_is_put_out_of_sight(frozen):
    tenure = Tenure(0)
    tenure.note(STEP - 1)
    assert frozen() == 0
    tenure.note(STEP)
    first = frozen()
    assert first > 0
    gc.unfreeze()
    tenure.note(10)
    tenure.note(2 * STEP - 1)
    assert frozen() == 0
    tenure.note(2 * STEP)
    assert frozen() > 0


def test_what_is_built_undisturbed_is_out_of_sight_and_collection_goes_on(frozen):
    with undisturbed():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert frozen() > 0


def test_only_a_large_fleet_has_its_arrays_given_back_at_once(frozen, monkeypatch):
    given = []
    monkeypatch.setattr(service_tenure, "give_back_large_arrays", lambda: given.append(1))
    tenure = Tenure(0)
    for label_sets in (LARGE - 1, LARGE + STEP, 3 * LARGE):
        tenure.note(label_sets)
    assert given == [1]
    Tenure(LARGE).note(2 * LARGE)
    assert given == [1, 1]
