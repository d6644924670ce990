"""Rolling statistics: declared by detectors, computed once per tick, owned and saved here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.columns import COLUMNS, INDEX
from detectors.state import Array, ArraySpec, Snapshot, StateArrays, under
from kernels.activity import activity_select
from kernels.ewma import ewma_add
from kernels.histogram import histogram_add, histogram_quantile
from kernels.latest import latest_add
from kernels.window import window_add, window_read

ACTIVITY = "activity_ratio"  # the best of SM, GR_ENGINE and UTIL that the GPU has
IO = "io_bytes_per_s"  # PCIe both ways and NVLink
DERIVED = (ACTIVITY, IO)
PANES = 5


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window of window_s seconds over a column; samples above active_above count as active."""

    column: str
    window_s: float
    active_above: float = np.inf


@dataclass(frozen=True, slots=True)
class Ewma:
    """Time-weighted mean and variance of a column."""

    column: str
    half_life_s: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Decayed histogram of a column in 0..1."""

    column: str
    half_life_s: float
    bins: int = 20


Feature = Window | Ewma | Histogram


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """A window read at one instant; arrays over all m entities, NaN while the window is empty."""

    count: NDArray[np.int64]
    duty: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]


_WINDOW = {
    "pane": ArraySpec(np.int64, -1, (PANES,)),
    "count": ArraySpec(np.int32, 0, (PANES,)),
    "active": ArraySpec(np.int32, 0, (PANES,)),
    "mean": ArraySpec(np.float64, 0, (PANES,)),
    "sum_sq_dev": ArraySpec(np.float64, 0, (PANES,)),
    "lowest": ArraySpec(np.float64, 0, (PANES,)),
    "highest": ArraySpec(np.float64, 0, (PANES,)),
}
_EWMA = {
    "last_ns": ArraySpec(np.int64, 0),
    "mean": ArraySpec(np.float64, np.nan),
    "variance": ArraySpec(np.float64, 0),
}
_LATEST = {
    "value": ArraySpec(np.float64, np.nan, (len(COLUMNS),)),
    "value_time_ns": ArraySpec(np.int64, 0, (len(COLUMNS),)),
    "signal_time_ns": ArraySpec(np.int64, -(1 << 62), (3,)),
    "activity": ArraySpec(np.float64, np.nan),
    "activity_time_ns": ArraySpec(np.int64, 0),
}


def _specs(feature: Feature) -> dict[str, ArraySpec]:
    match feature:
        case Window():
            return _WINDOW
        case Ewma():
            return _EWMA
        case Histogram(bins=bins):
            return {"last_ns": ArraySpec(np.int64, 0), "weight": ArraySpec(np.float64, 0, (bins,))}


class Features:
    """The statistics of every entity. Order of calls per tick: grow, fold, then any number of reads."""

    def __init__(self, required: Iterable[Feature], stale_ns: int, resume: Snapshot | None) -> None:
        self._stale_ns = stale_ns
        self._latest = StateArrays(_LATEST, under("latest.", resume))
        self._states = {
            # A statistic that the saved state lacks starts fresh: the configuration asks for it since then.
            feature: StateArrays(_specs(feature), under(f"{feature}.", resume) or None)
            for feature in sorted(set(required), key=repr)
        }

    def grow(self, entity_count: int) -> None:
        """Make room for new entities."""
        for state in (self._latest, *self._states.values()):
            state.grow(entity_count)

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities, which get the ids 0.. in this order."""
        for state in (self._latest, *self._states.values()):
            state.keep(entities)

    def fold(self, entity: NDArray[np.int32], time_ns: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Fold the merged rows of a tick, sorted by (entity, time); values float64[n, COLUMNS], NaN = missing."""
        latest = self._latest
        latest_add(entity, time_ns, values, latest["value"], latest["value_time_ns"])
        derived = {ACTIVITY: self._activity(entity, time_ns, values), IO: _io(values)}
        for feature, state in self._states.items():
            name = feature.column
            column = derived[name] if name in derived else np.ascontiguousarray(values[:, INDEX[name]])
            self._fold_one(feature, state, entity, time_ns, column)

    def _activity(
        self, entity: NDArray[np.int32], time_ns: NDArray[np.int64], values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        sm, gr, util = (
            np.ascontiguousarray(values[:, INDEX[name]])
            for name in ("sm_active_ratio", "gr_engine_ratio", "util_ratio")
        )
        out = np.empty(len(entity))
        activity_select(entity, time_ns, sm, gr, util, self._stale_ns, self._latest["signal_time_ns"], out)
        latest = self._latest
        latest_add(
            entity,
            time_ns,
            out[:, None],
            latest["activity"][:, None],
            latest["activity_time_ns"][:, None],
        )
        return out

    @staticmethod
    def _fold_one(
        feature: Feature,
        state: StateArrays,
        entity: NDArray[np.int32],
        time_ns: NDArray[np.int64],
        column: NDArray[np.float64],
    ) -> None:
        match feature:
            case Window(window_s=window_s, active_above=active_above):
                pane_ns = int(window_s * 1e9) // PANES
                arrays = [state[name] for name in _WINDOW]
                window_add(entity, time_ns, column, pane_ns, active_above, *arrays)
            case Ewma(half_life_s=half_life_s):
                arrays = [state[name] for name in _EWMA]
                ewma_add(entity, time_ns, column, half_life_s, *arrays)
            case Histogram(half_life_s=half_life_s, bins=bins):
                histogram_add(entity, time_ns, column, 0.0, 1.0 / bins, half_life_s, state["last_ns"], state["weight"])

    def window(self, feature: Window, now_ns: int) -> WindowFigures:
        """Read a window as of now_ns."""
        state = self._states[feature]
        m = len(state["pane"])
        out = WindowFigures(np.empty(m, np.int64), *(np.empty(m) for _ in range(5)))
        pane_ns = int(feature.window_s * 1e9) // PANES
        arrays = [state[name] for name in _WINDOW]
        arrays += [out.count, out.duty, out.mean, out.variance, out.lowest, out.highest]
        window_read(now_ns, pane_ns, *arrays)
        return out

    def ewma(self, feature: Ewma) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return copies of mean and variance, NaN before the first value."""
        state = self._states[feature]
        mean = state["mean"].copy()
        return mean, np.where(np.isnan(mean), np.nan, state["variance"])

    def quantile(self, feature: Histogram, quantile: float) -> NDArray[np.float64]:
        """Read a quantile of a histogram, NaN for an entity without values."""
        state = self._states[feature]
        out = np.empty(len(state["weight"]))
        histogram_quantile(quantile, 0.0, 1.0 / feature.bins, state["weight"], out)
        return out

    def latest(self, column: str, now_ns: int) -> NDArray[np.float64]:
        """Return each entity's newest value of a column, NaN when it is older than the staleness bound."""
        if column == ACTIVITY:
            value, time_ns = self._latest["activity"], self._latest["activity_time_ns"]
        else:
            value = self._latest["value"][:, INDEX[column]]
            time_ns = self._latest["value_time_ns"][:, INDEX[column]]
        return np.where(now_ns - time_ns <= self._stale_ns, value, np.nan)

    def signal(self, now_ns: int) -> NDArray[np.int8]:
        """Return which signal the activity comes from: 0 SM, 1 GR_ENGINE, 2 UTIL, 3 none is fresh."""
        fresh = now_ns - self._latest["signal_time_ns"] <= self._stale_ns
        return np.where(fresh.any(axis=1), fresh.argmax(axis=1), 3).astype(np.int8)

    def snapshot(self) -> dict[str, Array]:
        """Return copies of the state of every statistic."""
        saved = self._latest.snapshot("latest.")
        for feature, state in self._states.items():
            saved |= state.snapshot(f"{feature}.")
        return saved


def _io(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum what moved over PCIe and NVLink, NaN where nothing of it was measured."""
    names = ("pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s", "nvlink_bytes_per_s")
    parts = values[:, [INDEX[name] for name in names]]
    return np.where(np.isnan(parts).all(axis=1), np.nan, np.nansum(parts, axis=1))
