"""Sums over a FleetView, as few passes over its arrays as possible: by state, by owner, and the worst GPUs first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.idle_waste import STATES
from service.view import WASTE_STATES, FleetView

OTHER = "_other"
NOBODY = "_nobody"

_WASTE_COUNT = len(WASTE_STATES)


@dataclass(frozen=True, eq=False, slots=True)
class StateTotals:
    """One number per state, in the order of STATES; GPUs without a price count in `gpus` and `seconds` only.

    gpus int64[8] now; usd_per_hour, waste_usd_per_hour float64[8] now;
    seconds, waste_usd float64[8] since tracking began, GPUs no longer tracked included.
    """

    gpus: NDArray[np.int64]
    usd_per_hour: NDArray[np.float64]
    waste_usd_per_hour: NDArray[np.float64]
    seconds: NDArray[np.float64]
    waste_usd: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OwnerWaste:
    """What one owner wastes; `main_state` is the state that costs most, or is held by most GPUs where no price is known."""

    owner: str
    gpus: int
    wasted_gpus: int
    usd_per_hour: float
    waste_usd_per_hour: float
    waste_usd_total: float
    main_state: str


def by_state(view: FleetView) -> StateTotals:
    """Sum the view over its GPUs, per state."""
    return StateTotals(
        gpus=np.bincount(view.state, minlength=len(STATES)),
        usd_per_hour=_sum_by(view.state, np.nan_to_num(view.usd_per_hour), len(STATES)),
        waste_usd_per_hour=_sum_by(view.state, np.nan_to_num(view.waste_usd_per_hour), len(STATES)),
        seconds=view.seconds_in_state,
        waste_usd=view.waste_usd_in_state,
    )


def top_owners(view: FleetView, n: int) -> tuple[tuple[OwnerWaste, ...], OwnerWaste | None]:
    """Return the `n` owners that waste most per hour, most first, and the sum of the rest as OTHER (None without a rest).

    Equal waste is ordered by what was wasted so far, then by name, so that the order does not depend on row order.
    """
    names, code = view.owners
    k = len(names)
    if k == 0:
        return (), None
    waste = np.nan_to_num(view.waste_usd_per_hour)
    cells = code * len(STATES) + view.state
    gpus = np.bincount(cells, minlength=k * len(STATES)).reshape(k, len(STATES))
    waste_cells = _sum_by(cells, waste, k * len(STATES)).reshape(k, len(STATES))
    price = _sum_by(code, np.nan_to_num(view.usd_per_hour), k)
    total = _sum_by(code, view.waste_usd_total, k)
    rate = waste_cells.sum(axis=1)
    order = sorted(range(k), key=lambda i: (-rate[i], -total[i], names[i]))

    def row(owner: str, rows: list[int]) -> OwnerWaste:
        count = gpus[rows].sum(axis=0)
        cost = waste_cells[rows].sum(axis=0)
        return OwnerWaste(
            owner=owner,
            gpus=int(count.sum()),
            wasted_gpus=int(count[:_WASTE_COUNT].sum()),
            usd_per_hour=float(price[rows].sum()),
            waste_usd_per_hour=float(cost.sum()),
            waste_usd_total=float(total[rows].sum()),
            main_state=_main_state(count[:_WASTE_COUNT], cost[:_WASTE_COUNT]),
        )

    top = tuple(row(names[i], [i]) for i in order[:n])
    return top, row(OTHER, order[n:]) if k > n else None


def worst_first(view: FleetView) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return int64[m] rows by falling waste per hour, and float64[m] the waste per row with -1 where it is unknown.

    Ties keep row order, unknown prices come last.
    """
    key = np.where(np.isnan(view.waste_usd_per_hour), -1.0, view.waste_usd_per_hour)
    return np.argsort(-key, kind="stable"), key


def _sum_by(code: NDArray[np.integer], weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.bincount(code, weights=weights, minlength=count).astype(np.float64, copy=False)


def _main_state(gpus: NDArray[np.int64], cost: NDArray[np.float64]) -> str:
    """Return the name of the waste state that weighs most; empty where nothing is wasted."""
    if cost.max() > 0:
        return STATES[int(cost.argmax())]
    return STATES[int(gpus.argmax())] if gpus.max() > 0 else ""
