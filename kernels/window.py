"""Rolling windows over event time, kept as a ring of panes: mean, variance, lowest, highest, duty cycle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.words import inline

COUNT_MAX = (1 << 16) - 1  # samples in a pane: 18 a second for an hour


@inline
def _turn(number, newest, count):
    """Turn the ring so that its newest pane is `number`: panes that fall out of it are empty for every entity."""
    panes = count.shape[1]
    first = max(newest[0] + 1, number - panes + 1)
    newest[0] = number
    for turned in range(first, number + 1):
        slot = turned % panes
        for e in range(count.shape[0]):
            count[e, slot] = 0


@kernel
def window_add(
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    pane_ns: int,
    active_above: float,
    newest: NDArray[np.int64],
    count: NDArray[np.uint16],
    active: NDArray[np.uint16],
    mean: NDArray[np.float64],
    sum_sq_dev: NDArray[np.float64],
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
) -> None:
    """Fold each row into the pane that its time falls in.

    A window of k panes costs k small sums instead of every sample in it, and forgets without subtracting, so rounding
    cannot drift. Ticks close in order, so all entities turn their rings together, and which pane a slot holds need not be
    kept for each. A row older than the ring still holds is passed over, and so are those of a pane that is full.

    Rows        entity int32[n], time_ns int64[n], value float64[n], NaN = missing
    Parameters  pane_ns, length of a pane; active_above, a value counts as active when larger
    State       newest int64[1], the number since 1970 of the ring's newest pane, -1 before the first. [m, panes] each:
                count, active uint16, at most COUNT_MAX; mean, sum_sq_dev (sum of squared deviations from the mean), lowest,
                highest float64, of no meaning where count is 0. What nobody reads is [m, 0]: active and sum_sq_dev
                together, lowest, highest
    Source      Welford 1962, doi:10.1080/00401706.1962.10490022, within a pane
    """
    panes = count.shape[1]
    spread, low, high = sum_sq_dev.shape[1] > 0, lowest.shape[1] > 0, highest.shape[1] > 0
    number = np.int64(-1)
    slot = np.int64(0)
    for i in range(entity.size):
        v = value[i]
        if np.isnan(v):
            continue
        # Rows of a tick fall into one pane or two: two divisions spared for nearly every row.
        if not 0 <= time_ns[i] - number * pane_ns < pane_ns:
            number = time_ns[i] // pane_ns
            slot = number % panes
            if number > newest[0]:
                _turn(number, newest, count)
        e = entity[i]
        known = np.int64(count[e, slot])
        if number <= newest[0] - panes or known == COUNT_MAX:
            continue
        before = mean[e, slot] if known > 0 else 0.0
        delta = v - before
        after = before + delta / (known + 1)
        count[e, slot] = known + 1
        mean[e, slot] = after
        if spread:
            active[e, slot] = (active[e, slot] if known > 0 else 0) + (v > active_above)
            sum_sq_dev[e, slot] = (sum_sq_dev[e, slot] if known > 0 else 0.0) + delta * (v - after)
        if low:
            lowest[e, slot] = min(lowest[e, slot], v) if known > 0 else v
        if high:
            highest[e, slot] = max(highest[e, slot], v) if known > 0 else v


@inline
def _held(now_ns, pane_ns, newest, panes):
    """Return a bit for each slot of the ring: its pane lies in the window that ends at now_ns."""
    last = (now_ns - 1) // pane_ns
    held = 0
    for number in range(max(last, newest) - panes + 1, min(last, newest) + 1):
        held |= 1 << (number % panes)
    return held


@inline
def _mean_of(held, count, mean, e):
    """Return how many samples entity e has in the slots that are held, and their mean, NaN without any.

    Summed in the order of the slots about one of the panes' means: one division an entity instead of one a pane, and what
    never changes has exactly its value as mean.
    """
    panes = count.shape[1]
    about = 0.0
    for slot in range(panes):
        about = mean[e, slot] if (held >> slot) & 1 and count[e, slot] > 0 else about
    n = 0.0
    off = 0.0
    for slot in range(panes):
        added = np.float64(count[e, slot]) if (held >> slot) & 1 else 0.0
        n += added
        off += (mean[e, slot] - about) * added
    return n, about + off / n


@kernel
def window_read(
    now_ns: int,
    pane_ns: int,
    newest: NDArray[np.int64],
    count: NDArray[np.uint16],
    active: NDArray[np.uint16],
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
    panes = count.shape[1]
    held = _held(now_ns, pane_ns, newest[0], panes)
    for e in range(count.shape[0]):
        n, middle = _mean_of(held, count, mean, e)
        active_n = 0.0
        s = 0.0
        for slot in range(panes):
            some = (held >> slot) & 1 and count[e, slot] > 0
            delta = mean[e, slot] - middle
            active_n += np.float64(active[e, slot]) if some else 0.0
            s += sum_sq_dev[e, slot] + delta * delta * np.float64(count[e, slot]) if some else 0.0
        out_count[e] = np.int64(n)
        out_duty[e] = active_n / n
        out_mean[e] = middle
        out_variance[e] = s / n


@kernel
def window_mean(
    now_ns: int,
    pane_ns: int,
    newest: NDArray[np.int64],
    count: NDArray[np.uint16],
    mean: NDArray[np.float64],
    out_mean: NDArray[np.float64],
) -> None:
    """Read only the mean of the window that ends at now_ns: the same bits as window_read gives, in half of its time.

    Parameters  now_ns, pane_ns, as in window_read
    State       newest, count, mean as in window_add, only read
    Output      out_mean float64[m], NaN while the window is empty
    """
    held = _held(now_ns, pane_ns, newest[0], count.shape[1])
    for e in range(count.shape[0]):
        _, out_mean[e] = _mean_of(held, count, mean, e)


@kernel
def window_range(
    now_ns: int,
    pane_ns: int,
    newest: NDArray[np.int64],
    count: NDArray[np.uint16],
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
    out_lowest: NDArray[np.float64],
    out_highest: NDArray[np.float64],
) -> None:
    """Read the lowest and highest value in the window that ends at now_ns.

    Parameters  now_ns, pane_ns, as in window_read
    State       newest, count, lowest, highest as in window_add; only read
    Output      out_lowest, out_highest float64[m], NaN while the window is empty, and where it is not kept
    """
    panes = count.shape[1]
    held = _held(now_ns, pane_ns, newest[0], panes)
    low_kept, high_kept = lowest.shape[1] > 0, highest.shape[1] > 0
    for e in range(count.shape[0]):
        low = np.inf
        high = -np.inf
        for slot in range(panes):
            if (held >> slot) & 1 and count[e, slot] > 0:
                if low_kept:
                    low = min(low, lowest[e, slot])
                if high_kept:
                    high = max(high, highest[e, slot])
        out_lowest[e] = low if low < np.inf else np.nan
        out_highest[e] = high if high > -np.inf else np.nan
