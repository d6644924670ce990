"""Which signal tells whether a GPU computes: SM, else graphics engine, else NVML utilisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def activity_select(
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    sm: NDArray[np.float64],
    gr: NDArray[np.float64],
    util: NDArray[np.float64],
    stale_ns: int,
    signal_time_ns: NDArray[np.int64],
    out_activity: NDArray[np.float64],
) -> None:
    """Give each row the best signal that its GPU has; a lesser one counts only while the better is stale.

    GPU_UTIL says that some kernel ran, on one SM of a hundred perhaps; SM activity says how many worked. Exporters
    leave the better ones out by default, so each GPU falls back on what it has. Signals that lie in rows of different
    times are not mixed: while SM is fresh, a row with only UTIL gives no activity.

    Rows        entity int32[n], time_ns int64[n]; sm, gr, util float64[n] in 0..1, NaN = missing
    Parameters  stale_ns, age from which a signal no longer counts as present
    State       signal_time_ns int64[m, 3], when SM, GR and UTIL were last seen
    Output      out_activity float64[n], NaN where the row has no signal that counts
    """
    for i in range(entity.size):
        e = entity[i]
        now = time_ns[i]
        out_activity[i] = np.nan
        if not np.isnan(util[i]):
            signal_time_ns[e, 2] = now
            if now - signal_time_ns[e, 0] > stale_ns and now - signal_time_ns[e, 1] > stale_ns:
                out_activity[i] = util[i]
        if not np.isnan(gr[i]):
            signal_time_ns[e, 1] = now
            if now - signal_time_ns[e, 0] > stale_ns:
                out_activity[i] = gr[i]
        if not np.isnan(sm[i]):
            signal_time_ns[e, 0] = now
            out_activity[i] = sm[i]


@kernel
def signal_read(
    now_ns: int,
    stale_ns: int,
    signal_time_ns: NDArray[np.int64],
    out_signal: NDArray[np.int8],
) -> None:
    """Tell which signal the activity comes from: the best that is fresh.

    Parameters  now_ns; stale_ns, as in activity_select
    State       signal_time_ns int64[m, signals], best signal first; only read
    Output      out_signal int8[m], index of the signal, their number where none is fresh
    """
    signals = signal_time_ns.shape[1]
    for e in range(signal_time_ns.shape[0]):
        best = signals
        for k in range(signals - 1, -1, -1):
            if now_ns - signal_time_ns[e, k] <= stale_ns:
                best = k
        out_signal[e] = best
