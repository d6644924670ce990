"""What rounding may cost: large values with a small variance, against exact arithmetic in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.ewma import ewma_add
from kernels.histogram import histogram_add, histogram_quantile
from kernels.window import window_add, window_range, window_read

START_NS = 1_790_000_000 * 10**9
PANES, PANE_NS = 5, 60 * 10**9
HALF_LIFE_S = 120.0
# A double at 1e9 has steps of 1.2e-7; sums of squares would be off by 1e2 there, deviations from the mean by 1e-7.
LEVELS = (1e9, -1e9, 3e8, 1e12 + 0.5)
STEPS = {1e9: 1e-6, -1e9: 1e-6, 3e8: 1e-6, 1e12 + 0.5: 1e-3}

levels = st.sampled_from(LEVELS)
noises = st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=200)


def exact_moments(values, weights=None):
    """Return mean and population variance of floats, without rounding."""
    exact = [Fraction(float(v)) for v in values]
    weights = weights or [Fraction(1)] * len(exact)
    total = sum(weights)
    mean = sum(w * v for w, v in zip(weights, exact, strict=True)) / total
    return float(mean), float(sum(w * (v - mean) ** 2 for w, v in zip(weights, exact, strict=True)) / total)


def ewma_weights(elapsed_s):
    """Return the weights of samples that lie so far apart, from the recurrence's own factors, without rounding."""
    keep = [Fraction(2.0 ** (-dt / HALF_LIFE_S)) for dt in elapsed_s]
    weights = [Fraction(1)]
    for factor in keep:
        weights = [w * factor for w in weights] + [1 - factor]
    return weights


def ewma(time_ns, value):
    last, mean, variance = np.zeros(1, np.int64), np.full(1, np.nan), np.zeros(1)
    ewma_add(np.zeros(len(value), np.int32), time_ns, value, HALF_LIFE_S, last, mean, variance)
    return mean[0], variance[0]


def window(time_ns, value):
    state = (
        np.full(1, -1, np.int64),
        *(np.zeros((1, PANES), np.uint16) for _ in range(2)),
        *(np.zeros((1, PANES)) for _ in range(4)),
    )
    window_add(np.zeros(len(value), np.int32), time_ns, value, PANE_NS, 0.5, *state)
    out = [np.empty(1, np.int64), *(np.empty(1) for _ in range(5))]
    now_ns = START_NS - START_NS % PANE_NS + PANES * PANE_NS
    window_read(now_ns, PANE_NS, *state[:5], *out[:4])
    window_range(now_ns, PANE_NS, *state[:2], *state[5:], *out[4:])
    return [figure[0] for figure in out]


@given(levels, noises, st.integers(1, 600))
def test_the_ewma_is_exact_to_the_rounding_of_its_values_at_a_high_level(level, noise, step_s):
    value = level + np.array(noise)
    time_ns = START_NS + np.arange(len(value), dtype=np.int64) * step_s * 10**9
    mean, variance = ewma(time_ns, value)
    exact_mean, exact_variance = exact_moments(value, ewma_weights([float(step_s)] * (len(value) - 1)))
    assert mean == pytest.approx(exact_mean, rel=1e-15 * 8)
    assert variance == pytest.approx(exact_variance, rel=STEPS[level] * 10, abs=STEPS[level])
    assert variance >= 0


@given(levels, noises)
def test_a_window_is_exact_to_the_rounding_of_its_values_at_a_high_level(level, noise):
    value = level + np.array(noise)
    first_ns = START_NS - START_NS % PANE_NS
    time_ns = first_ns + np.linspace(0, PANES * PANE_NS - 1, len(value)).astype(np.int64)
    count, duty, mean, variance, lowest, highest = window(time_ns, value)
    exact_mean, exact_variance = exact_moments(value)
    assert (count, duty) == (len(value), float(level > 0))
    assert (lowest, highest) == (value.min(), value.max())
    assert mean == pytest.approx(exact_mean, rel=1e-15 * 8)
    assert variance == pytest.approx(exact_variance, rel=STEPS[level] * 10, abs=STEPS[level])
    assert variance >= 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_constant_has_no_variance_whatever_its_size(level):
    value = np.full(500, level)
    time_ns = START_NS - START_NS % PANE_NS + np.arange(500, dtype=np.int64) * (PANES * PANE_NS // 500)
    assert ewma(time_ns, value) == (level, 0.0)
    assert window(time_ns, value)[2:] == [level, 0.0, level, level]


def test_a_million_samples_do_not_let_the_ewma_drift():
    value = 1e9 + np.random.default_rng(3).normal(0, 1, 1_000_000)
    time_ns = START_NS + np.arange(len(value), dtype=np.int64) * 10**9
    mean, variance = ewma(time_ns, value)
    tail = 6000  # older samples weigh less than 2^-50
    exact_mean, exact_variance = exact_moments(value[-tail:], recent_weights(tail))
    assert mean == pytest.approx(exact_mean, rel=1e-14)
    assert variance == pytest.approx(exact_variance, rel=1e-5)


def recent_weights(samples):
    """Return relative weights of the last samples, one second apart, the newest last."""
    return [Fraction(2.0 ** (-(samples - 1 - i) / HALF_LIFE_S)) for i in range(samples)]


def test_weights_of_32_bits_tell_a_quantile_as_those_of_64_do():
    """Ten half-lives of samples: the sum of weights has long come to where adding one is lost to the fading of all."""
    rng = np.random.default_rng(5)
    n = 14_400
    value, time_ns = rng.beta(2, 5, n), START_NS + np.arange(n, dtype=np.int64) * 15 * 10**9
    found = []
    for dtype in (np.float32, np.float64):
        weight, out = np.zeros((1, 20), dtype), np.empty(1)
        histogram_add(np.zeros(n, np.int32), time_ns, value, 0.0, 0.05, 6 * 3600.0, np.zeros(1, np.int64), weight)
        histogram_quantile(0.95, 0.0, 0.05, weight, out)
        found.append(out[0])
    assert found[0] == pytest.approx(found[1], abs=1e-5)
