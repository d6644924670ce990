"""Every kernel equals its twin, however its rows are cut into calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.activity import activity_select
from kernels.dwell import dwell_add
from kernels.ewma import ewma_add
from kernels.histogram import histogram_add, histogram_quantile
from kernels.latest import latest_add
from kernels.rows import rows_merge, rows_number
from kernels.waste import SIGNAL_TRUST, waste_classify
from kernels.watermark import watermark_advance
from kernels.window import window_add, window_read
from tests.kernels import naive

ENTITIES = 4
START_NS = 1_790_000_000 * 10**9
PANES, PANE_NS = 5, 60 * 10**9

measured = st.one_of(st.just(float("nan")), st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0]))


@st.composite
def histories(draw, columns=1):
    """Rows as kernels get them: sorted by (entity, time), each pair once; NaN anywhere."""
    pairs = draw(st.sets(st.tuples(st.integers(0, ENTITIES - 1), st.integers(0, 900)), max_size=60))
    rows = sorted(pairs)
    entity = np.array([e for e, _ in rows], np.int32)
    time_ns = np.array([START_NS + t * 10**9 for _, t in rows], np.int64)
    values = [np.array(draw(st.lists(measured, min_size=len(rows), max_size=len(rows))), float) for _ in range(columns)]
    cut = draw(st.integers(0, len(rows)))
    return entity, time_ns, values, cut


def in_pieces(entity, time_ns, cut):
    """Two calls as a worker makes them: all rows of earlier time first, each sorted by entity and time."""
    if len(entity) == 0:
        return [np.arange(0)]
    split_ns = np.sort(time_ns)[min(cut, len(time_ns) - 1)]
    return [np.flatnonzero(time_ns < split_ns), np.flatnonzero(time_ns >= split_ns)]


@given(histories())
def test_the_ewma_is_the_weighted_mean_and_variance_of_the_whole_history(history):
    entity, time_ns, (value,), cut = history
    results = []
    for pieces in ([np.arange(len(entity))], in_pieces(entity, time_ns, cut)):
        last, mean, variance = np.zeros(ENTITIES, np.int64), np.full(ENTITIES, np.nan), np.zeros(ENTITIES)
        for piece in pieces:
            ewma_add(entity[piece], time_ns[piece], value[piece], 120.0, last, mean, variance)
        results.append((mean, variance))
    assert np.array_equal(results[0], results[1], equal_nan=True)
    for e in range(ENTITIES):
        expected = naive.ewma_add(time_ns[entity == e], value[entity == e], 120.0)
        assert np.allclose((results[0][0][e], results[0][1][e]), expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def windows(entity, time_ns, value, pieces):
    state = (
        np.full((ENTITIES, PANES), -1, np.int64),
        *(np.zeros((ENTITIES, PANES), np.int32) for _ in range(2)),
        *(np.zeros((ENTITIES, PANES)) for _ in range(4)),
    )
    for piece in pieces:
        window_add(entity[piece], time_ns[piece], value[piece], PANE_NS, 0.5, *state)
    return state


def read(state, now_ns):
    out = [np.empty(ENTITIES, np.int64), *(np.empty(ENTITIES) for _ in range(5))]
    window_read(now_ns, PANE_NS, *state, *out)
    return out


@given(histories(), st.integers(0, 1000))
def test_a_window_holds_exactly_the_samples_of_its_panes(history, now_s):
    entity, time_ns, (value,), cut = history
    now_ns = START_NS + now_s * 10**9
    known = time_ns < now_ns
    entity, time_ns, value = entity[known], time_ns[known], value[known]
    whole = windows(entity, time_ns, value, [np.arange(len(entity))])
    cut_up = windows(entity, time_ns, value, in_pieces(entity, time_ns, cut))
    for a, b in zip(whole, cut_up, strict=True):
        assert np.array_equal(a, b)
    figures = read(whole, now_ns)
    for e in range(ENTITIES):
        own = entity == e
        expected = naive.window_read(time_ns[own], value[own], now_ns, PANE_NS, PANES, 0.5)
        assert np.allclose([f[e] for f in figures], expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_a_window_keeps_its_variance_beside_a_large_mean():
    rng = np.random.default_rng(1)
    value = 1e9 + rng.normal(0, 1, 200)
    time_ns = START_NS + np.arange(200, dtype=np.int64) * 10**9
    state = windows(np.zeros(200, np.int32), time_ns, value, [np.arange(200)])
    figures = read(state, START_NS + 200 * 10**9)
    assert figures[3][0] == pytest.approx(value.var(), rel=1e-6)


@given(histories())
def test_a_histogram_weighs_each_value_by_its_age(history):
    entity, time_ns, (value,), cut = history
    weights = []
    for pieces in ([np.arange(len(entity))], in_pieces(entity, time_ns, cut)):
        last, weight = np.zeros(ENTITIES, np.int64), np.zeros((ENTITIES, 10))
        for piece in pieces:
            histogram_add(entity[piece], time_ns[piece], value[piece], 0.0, 0.1, 600.0, last, weight)
        weights.append(weight)
    assert np.array_equal(weights[0], weights[1])
    for e in range(ENTITIES):
        own = entity == e
        if (~np.isnan(value[own])).any():
            expected = naive.histogram_add(time_ns[own], value[own], 0.0, 0.1, 600.0, 10)
            assert np.allclose(weights[0][e], expected)


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_quantile_is_off_by_at_most_a_bin(values, quantile):
    weight = np.zeros((1, 20))
    n = len(values)
    same_time = np.full(n, START_NS, np.int64)
    histogram_add(np.zeros(n, np.int32), same_time, np.array(values), 0.0, 0.05, 1e9, np.zeros(1, np.int64), weight)
    out = np.empty(1)
    histogram_quantile(quantile, 0.0, 0.05, weight, out)
    assert abs(out[0] - naive.histogram_quantile(quantile, values)) <= 0.05 + 1e-9


def test_the_quantile_of_nothing_is_nan():
    out = np.empty(2)
    histogram_quantile(0.5, 0.0, 0.1, np.zeros((2, 10)), out)
    assert np.isnan(out).all()


@given(histories(columns=3))
def test_the_latest_value_is_the_newest_that_was_measured(history):
    entity, time_ns, columns, cut = history
    values = np.stack(columns, axis=1)
    value, value_time_ns = np.full((ENTITIES, 3), np.nan), np.zeros((ENTITIES, 3), np.int64)
    for piece in in_pieces(entity, time_ns, cut):
        latest_add(entity[piece], time_ns[piece], values[piece], value, value_time_ns)
    assert np.array_equal(value, naive.latest_add(entity, time_ns, values, ENTITIES), equal_nan=True)


@given(histories(columns=3))
def test_activity_comes_from_the_best_signal_that_is_fresh(history):
    entity, time_ns, (sm, gr, util), cut = history
    seen_ns = np.full((ENTITIES, 3), -(1 << 62), np.int64)
    out = np.empty(len(entity))
    for piece in in_pieces(entity, time_ns, cut):
        part = np.empty(len(piece))
        columns = (np.ascontiguousarray(c[piece]) for c in (sm, gr, util))
        activity_select(entity[piece], time_ns[piece], *columns, 180 * 10**9, seen_ns, part)
        out[piece] = part
    assert np.array_equal(out, naive.activity_select(entity, time_ns, sm, gr, util, 180 * 10**9), equal_nan=True)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), measured), max_size=40))
def test_partial_rows_of_one_instant_become_one_row(rows):
    rows.sort(key=lambda row: row[:2])
    entity = np.array([r[0] for r in rows], np.int32)
    time_ns = np.array([r[1] for r in rows], np.int64)
    value = np.array([r[2] for r in rows], float)
    row, count = np.empty(len(rows), np.int64), np.zeros(1, np.int64)
    rows_number(entity, time_ns, row, count)
    expected, expected_count = naive.rows_number(entity, time_ns)
    assert (row.tolist(), count[0]) == (expected, expected_count)
    out = np.full((int(count[0]), 1), np.nan)
    rows_merge(row, value, 0, out)
    assert np.array_equal(out[:, 0], naive.rows_merge(row, value, int(count[0])), equal_nan=True)


@given(st.lists(st.tuples(st.integers(0, 7), st.floats(0, 1), measured), min_size=1, max_size=30))
def test_seconds_and_dollars_go_to_the_state_they_were_spent_in(ticks):
    seconds, usd = np.zeros((1, 8)), np.zeros((1, 8))
    for state, score, price in ticks:
        dwell_add(np.array([state], np.int8), np.array([score]), np.array([price]), 15.0, seconds, usd)
    expected = naive.dwell_add(*zip(*ticks, strict=True), 15.0, 8)
    assert np.allclose((seconds[0], usd[0]), expected)


@given(st.lists(st.integers(0, 400), max_size=60), st.integers(0, 60))
def test_the_watermark_moves_as_its_twin_and_however_the_log_is_cut(times, cut):
    time_ns = np.array(times, np.int64)
    state = [np.array([v], np.int64) for v in (-1, 0, 0)]
    late = np.empty(len(times), bool)
    for piece in (slice(0, cut), slice(cut, None)):
        watermark_advance(time_ns[piece], 20, 100, 4, *state, late[piece])
    watermark, expected = naive.watermark_advance(times, 20, 100, 4)
    assert (state[0][0], late.tolist()) == (watermark, expected)


BOUNDS = {
    "efficient_load_min": 0.42, "efficient_pipe_min": 0.28, "context_bytes": 2.0**30, "veto_load_min": 0.25, "veto_util_min": 0.2,
    "hung_util_min": 0.95, "hung_load_max": 0.2, "pipe_max": 0.01, "dram_max": 0.02, "steady_std_max": 0.03,
    "steady_activity_max": 0.6, "io_max": 1e6, "fb_range_max": 2.0**26, "samples_min": 5,
}  # fmt: skip
FIGURES = {
    "known": st.booleans(), "held": st.booleans(), "signal": st.integers(0, 3), "count": st.integers(0, 20),
    "duty": st.sampled_from([0.0, 0.005, 0.5, 1.0]), "activity": st.floats(0, 1), "activity_variance": st.floats(0, 0.01),
    "util": st.one_of(st.just(np.nan), st.floats(0, 1), st.just(1.0)), "tensor": st.sampled_from([np.nan, 0.0, 0.3]),
    "dram": st.sampled_from([np.nan, 0.0, 0.3]), "power_load": st.one_of(st.just(np.nan), st.floats(-0.1, 1)),
    "io": st.sampled_from([np.nan, 0.0, 1e9]), "fb": st.sampled_from([np.nan, 0.0, 4e10]),
    "fb_range": st.sampled_from([np.nan, 0.0, 1e10]),
}  # fmt: skip


@settings(max_examples=500)
@given(st.fixed_dictionaries(FIGURES))
def test_the_classifier_equals_its_twin(figures):
    kinds = {"known": bool, "held": bool, "signal": np.int8, "count": np.int64}
    rows = [np.array([figures[name]], kinds.get(name, float)) for name in FIGURES]
    out = [np.empty(1, np.int8), np.empty(1), np.empty(1), np.empty(1, bool)]
    waste_classify(*rows, np.array([0.01]), np.array([0.5]), *BOUNDS.values(), SIGNAL_TRUST, *out)
    expected = naive.waste_classify(figures, BOUNDS | {"idle_duty_max": 0.01, "efficiency_min": 0.5})
    assert (out[0][0], out[3][0]) == (expected[0], expected[2])
    assert out[1][0] == pytest.approx(expected[1])
    assert 0.0 <= out[1][0] <= 1.0
    assert 0.0 <= out[2][0] <= 1.0
