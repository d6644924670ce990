"""From findings to alerts: which open, fire, end, or leave with their holder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def alert_leave(
    holder_since_ns: NDArray[np.int64],
    kinds: int,
    key: NDArray[np.int64],
    opened_ns: NDArray[np.int64],
    out_left: NDArray[np.bool_],
    out_count: NDArray[np.int64],
) -> None:
    """Mark the alerts that opened under a holder who is gone.

    Rows        holder_since_ns int64[m], when the present holder appeared, 0 = nobody
    Parameters  kinds, how many there are
    State       key int64[a], entity * kinds + kind of each open alert; opened_ns int64[a]; only read
    Output      out_left bool[a]; out_count int64[1], how many are marked
    """
    out_count[0] = 0
    for i in range(key.size):
        out_left[i] = opened_ns[i] < holder_since_ns[key[i] // kinds]
        out_count[0] += out_left[i]


@kernel
def alert_advance(
    kind: NDArray[np.int8],
    for_ns: NDArray[np.int64],
    found_usd_per_hour: NDArray[np.float64],
    found_usd_total: NDArray[np.float64],
    kinds: int,
    now_ns: int,
    keep_firing_for_ns: int,
    key: NDArray[np.int64],
    opened_ns: NDArray[np.int64],
    fired_ns: NDArray[np.int64],
    last_true_ns: NDArray[np.int64],
    usd_at_open: NDArray[np.float64],
    usd_so_far: NDArray[np.float64],
    usd_per_hour: NDArray[np.float64],
    out_key: NDArray[np.int64],
    out_opened_ns: NDArray[np.int64],
    out_fired_ns: NDArray[np.int64],
    out_last_true_ns: NDArray[np.int64],
    out_usd_at_open: NDArray[np.float64],
    out_usd_so_far: NDArray[np.float64],
    out_usd_per_hour: NDArray[np.float64],
    out_fires: NDArray[np.bool_],
    out_ends: NDArray[np.bool_],
    out_count: NDArray[np.int64],
) -> None:
    """Take in a tick's findings: open what is found, fire what has lasted, drop what was pending and is not found.

    Few of the alerts that could be open are, so there is a row for each that is, and none for the others. What ends is
    only marked, for its last figures must still be told.

    Rows        kind int8[m], -1 = nothing found; for_ns int64[m], how long it must last; found_usd_per_hour,
                found_usd_total float64[m], as in Findings
    Parameters  kinds, how many there are; now_ns; keep_firing_for_ns, how long an alert outlives its finding
    State       of the open alerts, in ascending order of key, only read: key int64[a], entity * kinds + kind; opened_ns,
                fired_ns, last_true_ns int64[a], 0 = not; usd_at_open, usd_so_far float64[a]; usd_per_hour float64[a],
                NaN where the price is unknown
    Output      the same of those that are open now, with room for a + m; out_fires, out_ends bool[a + m];
                out_count int64[2], how many are open, and how many are marked in both
    """
    i = 0
    n = 0
    out_count[1] = 0
    for e in range(kind.size):
        found_key = np.int64(e) * kinds + kind[e] if kind[e] >= 0 else np.int64(-1)
        end = (np.int64(e) + 1) * kinds
        while found_key >= 0 or (i < key.size and key[i] < end):
            known = i < key.size and key[i] < end and not 0 <= found_key < key[i]
            found = found_key >= 0 and not (known and key[i] < found_key)
            if known:
                out_key[n], out_opened_ns[n], out_fired_ns[n] = key[i], opened_ns[i], fired_ns[i]
                out_last_true_ns[n], out_usd_at_open[n] = last_true_ns[i], usd_at_open[i]
                out_usd_so_far[n], out_usd_per_hour[n] = usd_so_far[i], usd_per_hour[i]
                i += 1
            else:
                out_key[n], out_opened_ns[n], out_fired_ns[n] = found_key, now_ns, 0
                out_usd_at_open[n] = found_usd_total[e]
            out_fires[n] = False
            out_ends[n] = False
            if found:
                found_key = np.int64(-1)
                out_last_true_ns[n] = now_ns
                out_usd_so_far[n] = found_usd_total[e] - out_usd_at_open[n]
                out_usd_per_hour[n] = found_usd_per_hour[e]
                out_fires[n] = out_fired_ns[n] == 0 and now_ns - out_opened_ns[n] >= for_ns[e]
                if out_fires[n]:
                    out_fired_ns[n] = now_ns
            elif out_fired_ns[n] == 0:
                continue
            else:
                out_ends[n] = now_ns - out_last_true_ns[n] >= keep_firing_for_ns
            out_count[1] += out_fires[n] + out_ends[n]
            n += 1
    out_count[0] = n
