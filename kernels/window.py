"""Rolling windows over event time, kept as a ring of panes: mean, variance, lowest, highest, duty cycle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.words import inline


@kernel
def window_add(
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    pane_ns: int,
    active_above: float,
    pane: NDArray[np.int32],
    count: NDArray[np.int32],
    active: NDArray[np.int32],
    mean: NDArray[np.float64],
    sum_sq_dev: NDArray[np.float64],
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
) -> None:
    """Fold each row into the pane that its time falls in.

    A window of k panes costs k small sums instead of every sample in it, and forgets without subtracting, so rounding
    cannot drift. A row older than its ring still holds is passed over.

    Rows        entity int32[n], time_ns int64[n], value float64[n], NaN = missing
    Parameters  pane_ns, length of a pane; active_above, a value counts as active when larger
    State       [m, panes] each: pane int32, the pane's number since 1970, -1 when empty; count, active int32; mean,
                sum_sq_dev (sum of squared deviations from the mean), lowest, highest float64. What nobody reads is
                [m, 0]: active and sum_sq_dev together, lowest and highest together
    Source      Welford 1962, doi:10.1080/00401706.1962.10490022, within a pane
    """
    panes = pane.shape[1]
    spread, extremes = sum_sq_dev.shape[1] > 0, lowest.shape[1] > 0
    number = -1
    slot = 0
    for i in range(entity.size):
        v = value[i]
        if np.isnan(v):
            continue
        e = entity[i]
        # Rows of a tick fall into one pane or two: two divisions spared for nearly every row.
        if not 0 <= time_ns[i] - number * pane_ns < pane_ns:
            number = time_ns[i] // pane_ns
            slot = number % panes
        if number < pane[e, slot]:
            continue
        if number > pane[e, slot]:
            pane[e, slot] = number
            count[e, slot] = 0
            mean[e, slot] = 0.0
            if spread:
                active[e, slot] = 0
                sum_sq_dev[e, slot] = 0.0
            if extremes:
                lowest[e, slot] = v
                highest[e, slot] = v
        count[e, slot] += 1
        delta = v - mean[e, slot]
        mean[e, slot] += delta / count[e, slot]
        if spread:
            if v > active_above:
                active[e, slot] += 1
            sum_sq_dev[e, slot] += delta * (v - mean[e, slot])
        if extremes:
            lowest[e, slot] = min(lowest[e, slot], v)
            highest[e, slot] = max(highest[e, slot], v)


@inline
def _mean_of(pane, count, mean, e, oldest, newest):
    """Return how many samples entity e has in the panes from `oldest` to `newest`, and their mean, NaN without any.

    Summed in the order of the ring about one of the panes' means: one division an entity instead of one a pane, and what
    never changes has exactly its value as mean.
    """
    panes = pane.shape[1]
    about = 0.0
    for slot in range(panes):
        about = mean[e, slot] if oldest <= pane[e, slot] <= newest else about
    n = 0.0
    off = 0.0
    for slot in range(panes):
        added = np.float64(count[e, slot]) if oldest <= pane[e, slot] <= newest else 0.0
        n += added
        off += (mean[e, slot] - about) * added
    return n, about + off / n


@kernel
def window_read(
    now_ns: int,
    pane_ns: int,
    pane: NDArray[np.int32],
    count: NDArray[np.int32],
    active: NDArray[np.int32],
    mean: NDArray[np.float64],
    sum_sq_dev: NDArray[np.float64],
    out_count: NDArray[np.int64],
    out_duty: NDArray[np.float64],
    out_mean: NDArray[np.float64],
    out_variance: NDArray[np.float64],
) -> None:
    """Read the window that ends at now_ns: the pane just before it and the others of the ring.

    The window is a whole number of panes, so it reaches back between panes - 1 and panes pane lengths.

    Parameters  now_ns, the end, not itself in the window; pane_ns, as in window_add
    State       as in window_add; only read
    Output      out_count int64[m]; out_duty float64[m], share of samples that were active; out_mean, out_variance
                (population) float64[m]; all but the count NaN while the window is empty
    Source      the two-pass algorithm over groups: Chan, Golub, LeVeque 1983, doi:10.1080/00031305.1983.10483115
    """
    panes = pane.shape[1]
    newest = (now_ns - 1) // pane_ns
    oldest = newest - panes + 1
    for e in range(pane.shape[0]):
        n, middle = _mean_of(pane, count, mean, e, oldest, newest)
        active_n = 0.0
        s = 0.0
        for slot in range(panes):
            held = oldest <= pane[e, slot] <= newest
            delta = mean[e, slot] - middle
            active_n += np.float64(active[e, slot]) if held else 0.0
            s += sum_sq_dev[e, slot] + delta * delta * np.float64(count[e, slot]) if held else 0.0
        out_count[e] = np.int64(n)
        out_duty[e] = active_n / n
        out_mean[e] = middle
        out_variance[e] = s / n


@kernel
def window_mean(
    now_ns: int,
    pane_ns: int,
    pane: NDArray[np.int32],
    count: NDArray[np.int32],
    mean: NDArray[np.float64],
    out_mean: NDArray[np.float64],
) -> None:
    """Read only the mean of the window that ends at now_ns: the same bits as window_read gives, in half of its time.

    Parameters  now_ns, pane_ns, as in window_read
    State       pane, count, mean as in window_add, only read
    Output      out_mean float64[m], NaN while the window is empty
    """
    newest = (now_ns - 1) // pane_ns
    oldest = newest - pane.shape[1] + 1
    for e in range(pane.shape[0]):
        _, out_mean[e] = _mean_of(pane, count, mean, e, oldest, newest)


@kernel
def window_range(
    now_ns: int,
    pane_ns: int,
    pane: NDArray[np.int32],
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
    out_lowest: NDArray[np.float64],
    out_highest: NDArray[np.float64],
) -> None:
    """Read the lowest and highest value in the window that ends at now_ns.

    Parameters  now_ns, pane_ns, as in window_read
    State       pane, lowest, highest as in window_add; only read
    Output      out_lowest, out_highest float64[m], NaN while the window is empty
    """
    panes = pane.shape[1]
    newest = (now_ns - 1) // pane_ns
    oldest = newest - panes + 1
    for e in range(pane.shape[0]):
        low = np.inf
        high = -np.inf
        for slot in range(panes):
            if oldest <= pane[e, slot] <= newest:
                low = min(low, lowest[e, slot])
                high = max(high, highest[e, slot])
        out_lowest[e] = low if low <= high else np.nan
        out_highest[e] = high if low <= high else np.nan
