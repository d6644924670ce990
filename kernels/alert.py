"""From findings to alerts: which open, fire, end, or leave with their holder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def alert_leave(
    holder_since_ns: NDArray[np.int64],
    opened_ns: NDArray[np.int64],
    out_left: NDArray[np.bool_],
    out_count: NDArray[np.int64],
) -> None:
    """Mark the alerts that opened under a holder who is gone.

    Rows    holder_since_ns int64[m], when the present holder appeared, 0 = nobody
    State   opened_ns int64[m, kinds], 0 = not open; only read
    Output  out_left bool[m, kinds], false on entry; out_count int64[1], how many are marked
    """
    out_count[0] = 0
    for e in range(opened_ns.shape[0]):
        for k in range(opened_ns.shape[1]):
            if 0 < opened_ns[e, k] < holder_since_ns[e]:
                out_left[e, k] = True
                out_count[0] += 1


@kernel
def alert_advance(
    kind: NDArray[np.int8],
    for_ns: NDArray[np.int64],
    found_usd_per_hour: NDArray[np.float64],
    found_usd_total: NDArray[np.float64],
    now_ns: int,
    keep_firing_for_ns: int,
    opened_ns: NDArray[np.int64],
    fired_ns: NDArray[np.int64],
    last_true_ns: NDArray[np.int64],
    usd_at_open: NDArray[np.float64],
    usd_so_far: NDArray[np.float64],
    usd_per_hour: NDArray[np.float64],
    out_fires: NDArray[np.bool_],
    out_ends: NDArray[np.bool_],
    out_count: NDArray[np.int64],
) -> None:
    """Take in a tick's findings: open what is found, fire what has lasted, drop what was pending and is not found.

    What ends is only marked, for its last figures must still be told.

    Rows        kind int8[m], -1 = nothing found; for_ns int64[m], how long it must last; found_usd_per_hour,
                found_usd_total float64[m], as in Findings
    Parameters  now_ns; keep_firing_for_ns, how long an alert outlives its finding
    State       [m, kinds] each: opened_ns, fired_ns, last_true_ns int64, 0 = not; usd_at_open, usd_so_far float64;
                usd_per_hour float64, NaN while not open or the price is unknown
    Output      out_fires, out_ends bool[m, kinds], false on entry; out_count int64[1], how many are marked in both
    """
    out_count[0] = 0
    for e in range(opened_ns.shape[0]):
        for k in range(opened_ns.shape[1]):
            if k == kind[e]:
                if opened_ns[e, k] == 0:
                    opened_ns[e, k] = now_ns
                    usd_at_open[e, k] = found_usd_total[e]
                last_true_ns[e, k] = now_ns
                usd_so_far[e, k] = found_usd_total[e] - usd_at_open[e, k]
                usd_per_hour[e, k] = found_usd_per_hour[e]
                if fired_ns[e, k] == 0 and now_ns - opened_ns[e, k] >= for_ns[e]:
                    fired_ns[e, k] = now_ns
                    out_fires[e, k] = True
                    out_count[0] += 1
            elif fired_ns[e, k] > 0:
                if now_ns - last_true_ns[e, k] >= keep_firing_for_ns:
                    out_ends[e, k] = True
                    out_count[0] += 1
            elif opened_ns[e, k] > 0:
                opened_ns[e, k] = 0
                last_true_ns[e, k] = 0
                usd_at_open[e, k] = 0.0
                usd_so_far[e, k] = 0.0
                usd_per_hour[e, k] = np.nan
