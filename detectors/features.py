"""Rolling statistics: declared by detectors, computed once per tick, owned and saved here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.state import Array, ArraySpec, Snapshot, StateArrays, under
from kernels.activity import activity_select, signal_read
from kernels.ewma import ewma_add
from kernels.histogram import histogram_add, histogram_quantile
from kernels.latest import latest_add, latest_read
from kernels.window import window_add, window_mean, window_range, window_read

ACTIVITY = "activity_ratio"  # the best of SM, GR_ENGINE and UTIL that the GPU has
IO = "io_bytes_per_s"  # PCIe both ways and NVLink
DERIVED = (ACTIVITY, IO)
_SIGNALS = ("sm_active_ratio", "gr_engine_ratio", "util_ratio")  # best first
_TRAFFIC = ("pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s", "nvlink_bytes_per_s")
PANES = 5
_FIRST_LOOK = 512  # entities of a column among which a value is nearly always found
# Whose newest value somebody asks for: an exporter sends many more columns, and each would cost 16 bytes per GPU.
LATEST = frozenset((ACTIVITY, "tensor_ratio", "power_watts", "fb_used_bytes", "fb_free_bytes", "fb_total_bytes"))
_PANE_NS_MIN = 2 * 10**9  # numbers of shorter panes would not fit into 32 bits until 2100


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window of window_s seconds over a column; samples above active_above count as active.

    The mean is always to be had, of at most COUNT_MAX samples in each of PANES parts; duty and variance with `spread`,
    lowest and highest value where asked for: each costs 40 or 50 bytes per GPU, and there are seven windows. At least 10 s
    long.
    """

    column: str
    window_s: float
    active_above: float = np.inf
    spread: bool = False
    lowest: bool = False
    highest: bool = False


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


_WINDOW = {
    "count": ArraySpec(np.uint16, 0, (PANES,)),
    "active": ArraySpec(np.uint16, 0, (PANES,)),
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
    "value": ArraySpec(np.float64, np.nan),
    "time_ns": ArraySpec(np.int64, 0),
}
_SIGNAL = {"signal_time_ns": ArraySpec(np.int64, -(1 << 62), (3,))}


def _specs(feature: Feature) -> dict[str, ArraySpec]:
    match feature:
        case Window(spread=spread, lowest=lowest, highest=highest):
            kept = {"active": spread, "sum_sq_dev": spread, "lowest": lowest, "highest": highest}
            unread = [name for name, read in kept.items() if not read]
            return _WINDOW | {name: _WINDOW[name]._replace(shape=(0,)) for name in unread}
        case Ewma():
            return _EWMA
        case Histogram(bins=bins):
            # Weights are sums of ones that fade: 24 bits are more than a bin is wide.
            return {"last_ns": ArraySpec(np.int64, 0), "weight": ArraySpec(np.float32, 0, (bins,))}


class Features:
    """The statistics of every entity. Order of calls per tick: grow, fold, then any number of reads.

    `folds` counts the calls of fold, so that a reader can tell whether it still reads the same tick.
    """

    def __init__(self, required: Iterable[Feature], stale_ns: int, resume: Snapshot | None) -> None:
        self._stale_ns = stale_ns
        saved = under("latest.", resume)
        self._signal = StateArrays(_SIGNAL, saved)
        # Newest values by column, of those of LATEST that ever occurred.
        self._latest = {} if saved is None else _latest_resumed(saved)
        self._required = sorted(set(required), key=repr)
        # By statistic, of those whose column ever had a value: the others cost nothing.
        self._states: dict[Feature, StateArrays] = {}
        self._newest: dict[Feature, NDArray[np.int64]] = {}  # the number of a window's newest pane, int64[1]
        for feature in self._required:
            known = under(f"{feature}.", resume)
            if known:
                self._states[feature] = StateArrays(_specs(feature), known)
            if known and isinstance(feature, Window):
                self._newest[feature] = np.array(known["newest"], np.int64)
        self.folds = 0

    def _all(self) -> list[StateArrays]:
        return [self._signal, *self._latest.values(), *self._states.values()]

    def grow(self, entity_count: int) -> None:
        """Make room for new entities."""
        for state in self._all():
            state.grow(entity_count)

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities, which get the ids 0.. in this order."""
        for state in self._all():
            state.keep(entities)

    def fold(
        self, entity: NDArray[np.int32], time_ns: NDArray[np.int64], columns: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Fold the merged rows of a tick, sorted by (entity, time); columns float64[n] by name, NaN = missing."""
        self.folds += 1
        folded = dict(columns)
        if any(name in columns for name in _SIGNALS):
            folded[ACTIVITY] = self._activity(entity, time_ns, columns)
        for name, column in folded.items():
            if name not in LATEST:
                continue
            if name not in self._latest:
                self._latest[name] = StateArrays(_LATEST, None)
                self._latest[name].grow(len(self._signal))
            newest = self._latest[name]
            latest_add(entity, time_ns, column, newest["value"], newest["time_ns"])
        if any(name in columns for name in _TRAFFIC):
            folded[IO] = _io(columns, len(entity))
        for feature in self._required:
            if feature.column in folded and (feature in self._states or _any_value(folded[feature.column])):
                self._fold_one(feature, entity, time_ns, folded[feature.column])

    def _state_of(self, feature: Feature) -> StateArrays:
        if feature not in self._states:
            self._states[feature] = StateArrays(_specs(feature), None)
            self._states[feature].grow(len(self._signal))
            if isinstance(feature, Window):
                self._newest[feature] = np.full(1, -1, np.int64)
        return self._states[feature]

    def _activity(
        self, entity: NDArray[np.int32], time_ns: NDArray[np.int64], columns: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        missing = np.full(len(entity), np.nan)
        sm, gr, util = (columns.get(name, missing) for name in _SIGNALS)
        out = np.empty(len(entity))
        activity_select(entity, time_ns, sm, gr, util, self._stale_ns, self._signal["signal_time_ns"], out)
        return out

    def _fold_one(
        self, feature: Feature, entity: NDArray[np.int32], time_ns: NDArray[np.int64], column: NDArray[np.float64]
    ) -> None:
        state = self._state_of(feature)
        match feature:
            case Window(active_above=active_above):
                arrays = [self._newest[feature], *(state[name] for name in _WINDOW)]
                window_add(entity, time_ns, column, _pane_ns(feature), active_above, *arrays)
            case Ewma(half_life_s=half_life_s):
                arrays = [state[name] for name in _EWMA]
                ewma_add(entity, time_ns, column, half_life_s, *arrays)
            case Histogram(half_life_s=half_life_s, bins=bins):
                histogram_add(entity, time_ns, column, 0.0, 1.0 / bins, half_life_s, state["last_ns"], state["weight"])

    def window(self, feature: Window, now_ns: int) -> WindowFigures:
        """Read a window with spread as of now_ns."""
        assert feature.spread
        m = len(self._signal)
        if feature not in self._states:
            return WindowFigures(np.zeros(m, np.int64), *[np.full(m, np.nan)] * 3)
        out = WindowFigures(np.empty(m, np.int64), *(np.empty(m) for _ in range(3)))
        state = self._states[feature]
        arrays = [self._newest[feature], *(state[name] for name in ("count", "active", "mean", "sum_sq_dev"))]
        arrays += [out.count, out.duty, out.mean, out.variance]
        window_read(now_ns, _pane_ns(feature), *arrays)
        return out

    def range(
        self, feature: Window, now_ns: int, entities: slice = slice(None)
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Read the extremes of a window as of now_ns, of some entities perhaps; NaN while it is empty or not asked for."""
        many = len(range(len(self._signal))[entities])
        lowest, highest = np.full(many, np.nan), np.full(many, np.nan)
        if feature in self._states:
            count, low, high = (self._states[feature][name][entities] for name in ("count", "lowest", "highest"))
            window_range(now_ns, _pane_ns(feature), self._newest[feature], count, low, high, lowest, highest)
        return lowest, highest

    def mean(self, feature: Window, now_ns: int) -> NDArray[np.float64]:
        """Read only the mean of a window as of now_ns, NaN while it is empty."""
        if feature not in self._states:
            return np.full(len(self._signal), np.nan)
        out = np.empty(len(self._signal))
        state = self._states[feature]
        window_mean(now_ns, _pane_ns(feature), self._newest[feature], state["count"], state["mean"], out)
        return out

    def ewma(self, feature: Ewma) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return copies of mean and variance, NaN before the first value."""
        if feature not in self._states:
            return np.full(len(self._signal), np.nan), np.full(len(self._signal), np.nan)
        state = self._states[feature]
        mean = state["mean"].copy()
        return mean, np.where(np.isnan(mean), np.nan, state["variance"])

    def quantile(self, feature: Histogram, quantile: float, entity: int) -> float:
        """Read a quantile of one entity's histogram, NaN while it is without values."""
        if feature not in self._states:
            return float("nan")
        weight = self._states[feature]["weight"][entity : entity + 1]
        out = np.empty(1)
        histogram_quantile(quantile, 0.0, 1.0 / feature.bins, weight, out)
        return float(out[0])

    def latest(self, column: str, now_ns: int) -> NDArray[np.float64]:
        """Return each entity's newest value of a column of LATEST, NaN when it is older than the staleness bound."""
        assert column in LATEST
        if column not in self._latest:
            return np.full(len(self._signal), np.nan)
        latest, out = self._latest[column], np.empty(len(self._signal))
        latest_read(now_ns, self._stale_ns, latest["value"], latest["time_ns"], out)
        return out

    def signal(self, now_ns: int) -> NDArray[np.int8]:
        """Return which signal the activity comes from: 0 SM, 1 GR_ENGINE, 2 UTIL, 3 none is fresh."""
        out = np.empty(len(self._signal), np.int8)
        signal_read(now_ns, self._stale_ns, self._signal["signal_time_ns"], out)
        return out

    def snapshot(self) -> dict[str, Array]:
        """Return the state of every statistic; of newest values that of columns that have any."""
        saved = self._signal.snapshot("latest.")
        for name, newest in self._latest.items():
            if _any_value(newest["value"]):
                saved |= newest.snapshot(f"latest.{name}.")
        for feature, state in self._states.items():
            saved |= state.snapshot(f"{feature}.")
        saved |= {f"{feature}.newest": newest for feature, newest in self._newest.items()}
        return saved


def _latest_resumed(saved: Snapshot) -> dict[str, StateArrays]:
    """Return the newest values of the columns that were saved."""
    names = [name.removesuffix(".value") for name in saved if name.endswith(".value")]
    return {name: StateArrays(_LATEST, under(f"{name}.", saved)) for name in names}


def _any_value(value: NDArray[np.float64]) -> bool:
    """Tell whether any value is not NaN; the first few mostly settle it."""
    return not (np.isnan(value[:_FIRST_LOOK]).all() and np.isnan(value).all())


def _pane_ns(feature: Window) -> int:
    pane_ns = int(feature.window_s * 1e9) // PANES
    assert pane_ns >= _PANE_NS_MIN
    return pane_ns


def _io(columns: Mapping[str, NDArray[np.float64]], n: int) -> NDArray[np.float64]:
    """Sum what moved over PCIe and NVLink, NaN where nothing of it was measured."""
    missing = np.full(n, np.nan)
    parts = np.stack([columns.get(name, missing) for name in _TRAFFIC])
    return np.where(np.isnan(parts).all(axis=0), np.nan, np.nansum(parts, axis=0))
