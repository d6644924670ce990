"""Every kernel equals its twin, however its rows are cut into calls."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.activity import activity_select, signal_read
from kernels.alert import alert_advance, alert_leave
from kernels.dwell import dwell_add, dwell_sum
from kernels.ewma import ewma_add
from kernels.histogram import histogram_add, histogram_quantile
from kernels.latest import latest_add, latest_read
from kernels.presence import holder_confirm, presence_add, presence_read
from kernels.rows import rows_merge, rows_number, rows_sort
from kernels.waste import SIGNAL_TRUST, waste_classify, waste_find
from kernels.watermark import watermark_advance
from kernels.window import COUNT_MAX, window_add, window_mean, window_range, window_read
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


def windows(entity, time_ns, value, pieces, spread=PANES, lowest=PANES, highest=PANES):
    state = (
        np.full(1, -1, np.int64),
        *(np.zeros((ENTITIES, width), np.uint16) for width in (PANES, spread)),
        *(np.zeros((ENTITIES, width)) for width in (PANES, spread, lowest, highest)),
    )
    for piece in pieces:
        window_add(entity[piece], time_ns[piece], value[piece], PANE_NS, 0.5, *state)
    return state


def read(state, now_ns):
    """Return count, duty, mean, variance, lowest and highest."""
    out = [np.empty(ENTITIES, np.int64), *(np.empty(ENTITIES) for _ in range(5))]
    window_read(now_ns, PANE_NS, *state[:5], *out[:4])
    window_range(now_ns, PANE_NS, *state[:2], *state[5:], *out[4:])
    return out


@given(histories(), st.integers(0, 1000))
def test_a_window_holds_exactly_the_samples_of_its_panes(history, now_s):
    entity, time_ns, (value,), cut = history
    now_ns = START_NS + now_s * 10**9
    known = time_ns < now_ns
    entity, time_ns, value = entity[known], time_ns[known], value[known]
    whole = windows(entity, time_ns, value, [np.arange(len(entity))])
    cut_up = windows(entity, time_ns, value, in_pieces(entity, time_ns, cut))
    held = whole[1] > 0  # a pane without samples may still lie there with figures of an older one
    assert np.array_equal(whole[0], cut_up[0]) and np.array_equal(whole[1], cut_up[1])
    for a, b in zip(whole[2:], cut_up[2:], strict=True):
        assert np.array_equal(a[held], b[held])
    for widths in product((0, PANES), repeat=3):
        kept = windows(entity, time_ns, value, [np.arange(len(entity))], *widths)
        assert all(np.array_equal(a, b) for a, b in zip(kept, whole, strict=True) if a.shape == b.shape)
    figures = read(whole, now_ns)
    for e in range(ENTITIES):
        own = entity == e
        expected = naive.window_read(time_ns[own], value[own], now_ns, PANE_NS, PANES, 0.5)
        assert np.allclose([f[e] for f in figures], expected, rtol=1e-9, atol=1e-12, equal_nan=True)
    mean = np.empty(ENTITIES)
    window_mean(now_ns, PANE_NS, whole[0], whole[1], whole[3], mean)
    assert np.array_equal(mean, figures[2], equal_nan=True)
    for e in range(ENTITIES):
        history = time_ns[entity == e], value[entity == e], now_ns, PANE_NS, PANES
        assert np.allclose(mean[e], naive.window_mean(*history), rtol=1e-9, atol=1e-12, equal_nan=True)
        assert np.array_equal([f[e] for f in figures[4:]], naive.window_range(*history), equal_nan=True)


def test_a_pane_that_is_full_takes_no_more_samples():
    """Counts have 16 bits: the twin, too, keeps the first COUNT_MAX of a pane and what comes in the next one."""
    n = COUNT_MAX + 1000
    rng = np.random.default_rng(2)
    entity = np.repeat(np.arange(2, dtype=np.int32), n)
    start_ns = START_NS - START_NS % PANE_NS
    of_one = start_ns + np.sort(rng.integers(0, PANE_NS, n))
    of_one[-10:] = start_ns + PANE_NS + np.arange(10)
    time_ns = np.concatenate([of_one, start_ns + np.arange(n, dtype=np.int64) * (2 * PANE_NS // n)])
    value = rng.random(2 * n)
    state = windows(entity, time_ns, value, [np.arange(2 * n)])
    assert state[1].max() == COUNT_MAX
    now_ns = start_ns + 2 * PANE_NS
    figures = read(state, now_ns)
    for e in range(2):
        own = entity == e
        expected = naive.window_read(time_ns[own], value[own], now_ns, PANE_NS, PANES, 0.5)
        assert np.allclose([f[e] for f in figures], expected, rtol=1e-9)
    assert figures[0][:2].tolist() == [COUNT_MAX + 10, n]


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
        last, weight = np.zeros(ENTITIES, np.int64), np.zeros((ENTITIES, 10), np.float32)
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
    weight = np.zeros((1, 20), np.float32)
    n = len(values)
    same_time = np.full(n, START_NS, np.int64)
    histogram_add(np.zeros(n, np.int32), same_time, np.array(values), 0.0, 0.05, 1e9, np.zeros(1, np.int64), weight)
    out = np.empty(1)
    histogram_quantile(quantile, 0.0, 0.05, weight, out)
    assert abs(out[0] - naive.histogram_quantile(quantile, values)) <= 0.05 + 1e-9


def test_the_quantile_of_nothing_is_nan():
    out = np.empty(2)
    histogram_quantile(0.5, 0.0, 0.1, np.zeros((2, 10), np.float32), out)
    assert np.isnan(out).all()


@given(histories())
def test_the_latest_value_is_the_newest_that_was_measured(history):
    entity, time_ns, (column,), cut = history
    value, value_time_ns = np.full(ENTITIES, np.nan), np.zeros(ENTITIES, np.int64)
    for piece in in_pieces(entity, time_ns, cut):
        latest_add(entity[piece], time_ns[piece], column[piece], value, value_time_ns)
    assert np.array_equal(value, naive.latest_add(entity, time_ns, column, ENTITIES), equal_nan=True)
    now_ns, stale_ns, out = int(time_ns.max(initial=START_NS)), 60 * 10**9, np.empty(ENTITIES)
    latest_read(now_ns, stale_ns, value, value_time_ns, out)
    assert np.array_equal(out, naive.latest_read(now_ns, stale_ns, value, value_time_ns), equal_nan=True)


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


@given(st.lists(st.lists(st.integers(0, 300), min_size=3, max_size=3), max_size=6), st.integers(0, 400))
def test_the_signal_is_the_best_that_is_fresh(seen, now_ns):
    times = np.array(seen, np.int64).reshape(-1, 3)
    out = np.empty(len(times), np.int8)
    signal_read(now_ns, 100, times, out)
    assert np.array_equal(out, naive.signal_read(times, now_ns, 100))


def sort(entity, time_ns):
    """Order rows by entity and time, as the worker does."""
    order, in_time = np.empty(len(entity), np.int64), np.zeros(1, bool)
    rows_sort(entity, time_ns, np.empty(ENTITIES + 1, np.int64), order, in_time)
    expected, expected_in_time = naive.rows_sort(entity, time_ns)
    assert (order.tolist(), in_time[0]) == (expected, expected_in_time)
    return order if in_time[0] else np.lexsort((time_ns, entity))


as_they_came = st.lists(st.tuples(st.integers(0, ENTITIES - 1), st.integers(0, 3), measured), max_size=40)


@given(as_they_came)
def test_partial_rows_of_one_instant_become_one_row(rows):
    entity = np.array([r[0] for r in rows], np.int32)
    time_ns = np.array([r[1] for r in rows], np.int64)
    value = np.array([r[2] for r in rows], float)
    row, merged_entity, merged_time = (np.empty(len(rows), kind) for kind in (np.int64, np.int32, np.int64))
    count = np.zeros(1, np.int64)
    rows_number(sort(entity, time_ns), entity, time_ns, row, merged_entity, merged_time, count)
    expected, pairs = naive.rows_number(entity, time_ns)
    assert (row.tolist(), count[0]) == (expected, len(pairs))
    assert list(zip(merged_entity.tolist(), merged_time.tolist(), strict=True))[: len(pairs)] == pairs
    out = np.full(int(count[0]), np.nan)
    rows_merge(row, value, out)
    assert np.array_equal(out, naive.rows_merge(row, value, int(count[0])), equal_nan=True)


def read_presence(order, entity, time_ns):
    n = len(entity)
    out = [np.empty(n, np.int32), *(np.empty(n, np.int64) for _ in range(2)), np.empty(n + 1, np.int64)]
    count = np.zeros(1, np.int64)
    presence_read(order, entity, time_ns, *out, count)
    k = int(count[0])
    return out[0][:k], out[1][:k], out[2][:k], out[3][: k + 1]


@given(as_they_came)
def test_presence_is_from_the_first_to_the_last_row(rows):
    entity = np.array([r[0] for r in rows], np.int32)
    time_ns = np.array([r[1] for r in rows], np.int64)
    present, first_ns, last_ns, start = read_presence(sort(entity, time_ns), entity, time_ns)
    found = list(zip(present, first_ns, last_ns, np.diff(start), strict=True))
    assert found == naive.presence_read(entity, time_ns)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=12))
def test_a_silence_that_is_too_long_begins_a_new_presence(steps):
    starts = np.cumsum([step for step, _ in steps], dtype=np.int64)
    visits = [(int(start), int(start) + length) for start, (_, length) in zip(starts, steps, strict=True)]
    state = [np.zeros(1, np.int64) for _ in range(2)]
    for first_ns, last_ns in visits:
        presence_add(np.zeros(1, np.int32), np.array([first_ns]), np.array([last_ns]), 30, *state)
    assert tuple(int(s[0]) for s in state) == naive.presence_add(visits, 30)


MOST = 3
one_tick = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=5)


@settings(max_examples=600)
@given(st.lists(st.lists(one_tick, min_size=2, max_size=2), min_size=1, max_size=6))
def test_only_who_reports_under_other_labels_than_before_is_unsettled(ticks):
    names_holder = np.array([True, False, True, False])
    settled, attributed_ns = np.full((2, MOST), -1, np.int32), np.zeros(2, np.int64)
    unsettled = [[], []]
    for number, tick in enumerate(ticks):
        rows = sorted((e, 10 * number + t, label_set) for e in range(2) for label_set, t in tick[e])
        entity = np.array([r[0] for r in rows], np.int32)
        time_ns = np.array([r[1] for r in rows], np.int64)
        label_set = np.array([r[2] for r in rows], np.int32)
        present, _, last_ns, start = read_presence(np.arange(len(rows)), entity, time_ns)
        out, count = np.empty(2, np.int64), np.zeros(1, np.int64)
        state = settled, attributed_ns
        holder_confirm(
            present,
            last_ns,
            start,
            label_set,
            time_ns,
            names_holder,
            *state,
            np.empty(MOST, np.int32),
            np.empty(MOST, np.int64),
            out,
            count,
        )
        for e in out[: count[0]].tolist():
            unsettled[e].append(number)
    for e in range(2):
        own = [[(label_set, 10 * n + t) for label_set, t in tick[e]] for n, tick in enumerate(ticks)]
        assert (unsettled[e], attributed_ns[e]) == naive.holder_confirm(own, names_holder, MOST)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_an_alert_leaves_with_the_holder_under_which_it_opened(rows):
    holder_since_ns = np.array([r[0] for r in rows], np.int64)
    opened_ns = np.array([r[1:] for r in rows], np.int64).reshape(-1, 2)
    key = np.flatnonzero(opened_ns)
    left, count = np.empty(len(key), bool), np.zeros(1, np.int64)
    alert_leave(holder_since_ns, 2, key, opened_ns.ravel()[key], left, count)
    assert key[left].tolist() == np.flatnonzero(naive.alert_leave(holder_since_ns, opened_ns)).tolist()
    assert count[0] == left.sum()


@given(st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), max_size=25), st.integers(0, 40))
def test_what_lasts_fires_and_what_stays_away_ends(ticks, for_ns):
    dtypes = [np.int64] * 4 + [float] * 3
    state = [np.empty(0, dtype) for dtype in dtypes]
    events = []
    for number, kind in enumerate(ticks):
        now_ns = 10 * (number + 1)
        found = np.array(kind, np.int8), np.full(3, for_ns), np.array([1.0, 2.0, np.nan]), np.full(3, number + 5.0)
        room = len(state[0]) + 3
        after = [np.empty(room, dtype) for dtype in dtypes]
        fires, ends, count = np.empty(room, bool), np.empty(room, bool), np.zeros(2, np.int64)
        alert_advance(*found, 3, now_ns, 30, *state, *after, fires, ends, count)
        rows, marked = count.tolist()
        state, fires, ends = [array[:rows] for array in after], fires[:rows], ends[:rows]
        assert marked == fires.sum() + ends.sum()
        events.append((state[0][fires].tolist(), state[0][ends].tolist()))
        state = [array[~ends] for array in state]
        key, opened_ns, _, last_true_ns, at_open, so_far, per_hour = state
        assert (np.diff(key) > 0).all()
        assert np.array_equal(so_far, last_true_ns // 10 + 4.0 - at_open)
        assert np.array_equal(per_hour, found[2][key // 3], equal_nan=True)
        events[-1] += (dict(zip(key.tolist(), opened_ns.tolist(), strict=True)),)
    for key in range(9):
        own = [(10 * (n + 1), kind[key // 3] == key % 3) for n, kind in enumerate(ticks)]
        expected = naive.alert_advance(own, for_ns, 30)
        assert [(key in a, key in b, c.get(key, 0)) for a, b, c in events] == expected


@given(st.lists(st.tuples(st.integers(0, 7), st.floats(0, 1), measured), min_size=1, max_size=30))
def test_seconds_and_dollars_go_to_the_state_they_were_spent_in(ticks):
    seconds, usd = np.zeros(8), np.zeros((1, 8))
    for state, score, price in ticks:
        dwell_add(np.array([state], np.int8), np.array([score]), np.array([price]), 15.0, seconds, usd)
    expected = naive.dwell_add(*zip(*ticks, strict=True), 15.0, 8)
    assert np.allclose((seconds, usd[0]), expected)


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=4, max_size=4), max_size=20))
def test_what_was_spent_adds_up_by_state_and_by_entity(rows):
    usd = np.array(rows).reshape(-1, 4)
    out = [np.zeros(4), np.empty(len(rows))]
    dwell_sum(usd, *out)
    assert all(np.allclose(a, b) for a, b in zip(out, naive.dwell_sum(usd), strict=True))


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
    waste_classify(
        *rows,
        np.array([1], np.int32),
        np.array([9.0, 0.01]),
        np.array([9.0, 0.5]),
        *BOUNDS.values(),
        SIGNAL_TRUST,
        *out,
    )
    expected = naive.waste_classify(figures, BOUNDS | {"idle_duty_max": 0.01, "efficiency_min": 0.5})
    assert (out[0][0], out[3][0]) == (expected[0], expected[2])
    assert out[1][0] == pytest.approx(expected[1])
    assert 0.0 <= out[1][0] <= 1.0
    assert 0.0 <= out[2][0] <= 1.0


FOUND = {
    "state": st.integers(0, 7), "disagrees": st.booleans(), "score": st.floats(0, 1), "usd_per_hour": measured,
    "holder_since_ns": st.integers(0, 100),
}  # fmt: skip


@given(st.fixed_dictionaries(FOUND), st.lists(st.booleans(), min_size=7, max_size=7))
def test_findings_are_the_wasteful_states_less_what_is_excused(figures, exempt):
    kinds = {"state": np.int8, "disagrees": bool, "holder_since_ns": np.int64}
    rows = [np.array([figures[name]], kinds.get(name, float)) for name in FOUND]
    graced = np.isin(np.arange(7), (1, 2, 5))
    for_ns, usd = np.arange(100, 107), np.arange(8.0)
    out = [np.empty(1, np.int8), np.empty(1, np.int64), np.empty(1), np.empty(1)]
    of_rules = np.array([[True] * 7, exempt]), np.stack([0 * for_ns, for_ns])
    waste_find(*rows, np.array([1], np.int32), 90, 50, graced, *of_rules, usd[None, :], *out)
    expected = naive.waste_find(figures, exempt, for_ns, usd, {1, 2, 5}, 90, 50)
    assert np.array_equal([float(array[0]) for array in out], [float(x) for x in expected], equal_nan=True)
