"""What a fleet has brought is out of the collector's sight once, and not again for a flood that is forgotten."""

from __future__ import annotations

import gc

import pytest

from service.pipeline.tenure import STEP, Tenure, undisturbed


@pytest.fixture
def frozen():
    yield gc.get_freeze_count
    gc.unfreeze()


def test_only_more_than_ever_before_is_put_out_of_sight(frozen):
    tenure = Tenure()
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
