"""A batch may be cut anywhere: every folding kernel ends in the same state, bit by bit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.activity import activity_select
from kernels.dwell import dwell_add
from kernels.ewma import ewma_add
from kernels.histogram import histogram_add
from kernels.latest import latest_add
from kernels.rows import rows_merge
from kernels.watermark import watermark_advance
from kernels.window import window_add

ENTITIES = 4
STATES = 8
START_NS = 1_790_000_000 * 10**9
COLUMNS = 3

awkward = st.sampled_from([float("nan"), 0.0, -0.0, 1.0, 0.1, 1e9, 1e9 + 0.3, -1e9, 5e-324, 1e308])
measured = st.one_of(awkward, st.floats(0, 1))


def ewma(e, t, v, pieces):
    state = np.zeros(ENTITIES, np.int64), np.full(ENTITIES, np.nan), np.zeros(ENTITIES)
    for piece in pieces:
        ewma_add(e[piece], t[piece], v[piece, 0].copy(), 120.0, *state)
    return state


def window(e, t, v, pieces):
    shape = (ENTITIES, 5)
    state = (
        np.full(1, -1, np.int64),
        *(np.zeros(shape, np.uint16) for _ in range(2)),
        *(np.zeros(shape) for _ in range(4)),
    )
    for piece in pieces:
        window_add(e[piece], t[piece], v[piece, 0].copy(), 60 * 10**9, 0.01, *state)
    return state


def histogram(e, t, v, pieces):
    state = np.zeros(ENTITIES, np.int64), np.zeros((ENTITIES, 10), np.float32)
    ratio = np.where(np.abs(v[:, 0]) <= 1, v[:, 0], np.nan)
    for piece in pieces:
        histogram_add(e[piece], t[piece], ratio[piece], 0.0, 0.1, 600.0, *state)
    return state


def latest(e, t, v, pieces):
    state = np.full(ENTITIES, np.nan), np.zeros(ENTITIES, np.int64)
    for piece in pieces:
        latest_add(e[piece], t[piece], v[piece, 0].copy(), *state)
    return state


def activity(e, t, v, pieces):
    seen, out = np.full((ENTITIES, COLUMNS), -(1 << 62), np.int64), np.empty(len(e))
    for piece in pieces:
        columns = [v[piece, c].copy() for c in range(COLUMNS)]
        activity_select(e[piece], t[piece], *columns, 180 * 10**9, seen, out[piece])
    return seen, out


def merge(e, t, v, pieces):
    out = np.full((COLUMNS, ENTITIES), np.nan)
    for piece in pieces:
        for c in range(COLUMNS):
            rows_merge(e[piece].astype(np.int64), v[piece, c].copy(), out[c])
    return (out,)


def watermark(e, t, v, pieces):
    state, late = [np.array([x], np.int64) for x in (-1, 0, 0)], np.empty(len(t), np.bool_)
    for piece in pieces:
        watermark_advance(t[piece], 20 * 10**9, 100 * 10**9, 4, *state, late[piece])
    return (*state, late)


FOLDS = [ewma, window, histogram, latest, activity, merge, watermark]


@st.composite
def batches(draw):
    """Rows of a few batches, each sorted by entity and time as a worker hands them over; a later one may be older."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        pairs = st.tuples(st.integers(0, ENTITIES - 1), st.integers(0, 900))
        rows.append(sorted(draw(st.sets(pairs, max_size=30))))
    flat = [row for batch in rows for row in batch]
    values = draw(st.lists(st.tuples(*[measured] * COLUMNS), min_size=len(flat), max_size=len(flat)))
    ends = np.cumsum([len(batch) for batch in rows]).tolist()
    cuts = draw(st.lists(st.integers(0, len(flat)), max_size=5))
    entity = np.array([e for e, _ in flat], np.int32)
    time_ns = np.array([START_NS + t * 10**9 for _, t in flat], np.int64)
    return entity, time_ns, np.array(values, float).reshape(len(flat), COLUMNS), ends, cuts


def slices(bounds, length):
    return [slice(a, b) for a, b in pairwise(sorted({0, *bounds, length}))] or [slice(0, 0)]


@pytest.mark.parametrize("fold", FOLDS, ids=lambda fold: fold.__name__)
@given(batches())
def test_any_cut_of_the_batches_gives_the_same_bits(fold, drawn):
    entity, time_ns, values, ends, cuts = drawn
    whole = fold(entity, time_ns, values, slices(ends, len(entity)))
    cut = fold(entity, time_ns, values, slices([*ends, *cuts], len(entity)))
    each = fold(entity, time_ns, values, slices(range(len(entity)), len(entity)))
    assert [a.tobytes() for a in whole] == [a.tobytes() for a in cut] == [a.tobytes() for a in each]


ticks = st.lists(
    st.lists(st.tuples(st.integers(0, STATES - 1), st.floats(0, 1), awkward), min_size=6, max_size=6), max_size=10
)


@given(ticks, st.lists(st.integers(0, 6), max_size=4))
def test_dwell_charges_the_same_bits_however_the_fleet_is_cut(history, cuts):
    """Its rows are the entities themselves, so a cut divides the fleet."""
    results = []
    for bounds in ([], cuts):
        seconds, usd = np.zeros(STATES), np.zeros((6, STATES))
        for tick in history:
            state, score, price = (np.array(column, kind) for column, kind in zip(zip(*tick, strict=True), (np.int8, float, float), strict=True))  # fmt: skip
            for piece in slices(bounds, 6):
                dwell_add(state[piece], score[piece], price[piece], 15.0, seconds, usd[piece])
        results.append((seconds.tobytes(), usd.tobytes()))
    assert results[0] == results[1]
