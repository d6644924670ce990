"""Exponentially weighted mean and variance over irregular times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def ewma_add(
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    half_life_s: float,
    last_ns: NDArray[np.int64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> None:
    """Fold each row into its entity's time-weighted mean and variance.

    The past loses half its weight every half_life_s, whatever the number of samples in it. A row that is not newer
    than the last one is passed over.

    Rows        entity int32[n], time_ns int64[n], value float64[n], NaN = missing
    Parameters  half_life_s, seconds
    State       last_ns int64[m], 0 before the first; mean float64[m], NaN before the first; variance float64[m],
                unit of value squared, of the weighted population
    Source      the incremental form of Finch, Incremental calculation of weighted mean and variance (2009), section 9,
                with alpha = 1 - 2^(-dt / half-life)
    """
    known_ns = 0
    alpha = 0.0
    for i in range(entity.size):
        if np.isnan(value[i]):
            continue
        e = entity[i]
        if np.isnan(mean[e]):
            mean[e] = value[i]
            variance[e] = 0.0
            last_ns[e] = time_ns[i]
            continue
        elapsed_ns = time_ns[i] - last_ns[e]
        if elapsed_ns <= 0:
            continue
        # Most GPUs report at one interval, and the power costs more than all the rest.
        if elapsed_ns != known_ns:
            known_ns = elapsed_ns
            alpha = 1.0 - 2.0 ** (-(elapsed_ns * 1e-9) / half_life_s)
        delta = value[i] - mean[e]
        mean[e] += alpha * delta
        variance[e] = (1.0 - alpha) * (variance[e] + alpha * delta * delta)
        last_ns[e] = time_ns[i]
