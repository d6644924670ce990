"""Seconds and dollars in each state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def dwell_add(
    state: NDArray[np.int8],
    score: NDArray[np.float64],
    usd_per_hour: NDArray[np.float64],
    seconds: float,
    seconds_in_state: NDArray[np.float64],
    usd_in_state: NDArray[np.float64],
) -> None:
    """Charge `seconds` of every entity to its state: all of the time, and of the price the wasted share.

    Dollars are kept by entity, since alerts tell them; time is told of the whole fleet only.

    Rows        state int8[m]; score float64[m], wasted share in 0..1; usd_per_hour float64[m], NaN = price unknown,
                which adds time and no dollars
    Parameters  seconds
    State       seconds_in_state float64[states], of all entities together; usd_in_state float64[m, states]
    """
    for e in range(state.size):
        k = state[e]
        seconds_in_state[k] += seconds
        if not np.isnan(usd_per_hour[e]):
            usd_in_state[e, k] += usd_per_hour[e] * score[e] * (seconds / 3600.0)


@kernel
def dwell_sum(
    usd_in_state: NDArray[np.float64], out_usd: NDArray[np.float64], out_usd_by_entity: NDArray[np.float64]
) -> None:
    """Sum what was charged, by state and by entity, in one pass; sums along the first axis are slow in NumPy.

    State   usd_in_state float64[m, states]; only read
    Output  out_usd float64[states], added to; out_usd_by_entity float64[m]
    """
    for e in range(usd_in_state.shape[0]):
        usd = 0.0
        for k in range(usd_in_state.shape[1]):
            out_usd[k] += usd_in_state[e, k]
            usd += usd_in_state[e, k]
        out_usd_by_entity[e] = usd
