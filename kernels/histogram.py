"""Histograms that forget: where a value has been over hours, in a few numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def histogram_add(
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    lowest: float,
    bin_width: float,
    half_life_s: float,
    last_ns: NDArray[np.int64],
    weight: NDArray[np.float32],
) -> None:
    """Add each row with weight 1 after halving all older weight once per half-life.

    Rows        entity int32[n], time_ns int64[n], value float64[n], NaN = missing
    Parameters  lowest, left edge of the first bin; bin_width; half_life_s, seconds. Values beyond the edges go to the
                outermost bins
    State       last_ns int64[m], 0 before the first; weight float32[m, bins]
    Source      the decaying histogram of the Kubernetes vertical pod autoscaler's recommender
    """
    bins = weight.shape[1]
    known_ns = 0
    keep = 1.0
    for i in range(entity.size):
        if np.isnan(value[i]):
            continue
        e = entity[i]
        if last_ns[e] != 0 and time_ns[i] > last_ns[e]:
            # Most GPUs report at one interval, and the power costs more than all the rest.
            if time_ns[i] - last_ns[e] != known_ns:
                known_ns = time_ns[i] - last_ns[e]
                keep = 2.0 ** (-known_ns * 1e-9 / half_life_s)
            for b in range(bins):
                weight[e, b] *= keep
        last_ns[e] = max(last_ns[e], time_ns[i])
        b = int((value[i] - lowest) / bin_width)
        weight[e, min(max(b, 0), bins - 1)] += 1.0


@kernel
def histogram_quantile(
    quantile: float,
    lowest: float,
    bin_width: float,
    weight: NDArray[np.float32],
    out_value: NDArray[np.float64],
) -> None:
    """Read a quantile, linear within its bin.

    Parameters  quantile in 0..1; lowest, bin_width as in histogram_add
    State       weight float32[m, bins]; only read
    Output      out_value float64[m], off by at most bin_width; NaN for an entity without weight
    """
    bins = weight.shape[1]
    for e in range(weight.shape[0]):
        total = 0.0
        for b in range(bins):
            total += weight[e, b]
        out_value[e] = np.nan
        if total <= 0.0:
            continue
        target = quantile * total
        below = 0.0
        for b in range(bins):
            if below + weight[e, b] >= target and weight[e, b] > 0.0:
                inside = (target - below) / weight[e, b]
                out_value[e] = lowest + bin_width * (b + inside)
                break
            below += weight[e, b]
