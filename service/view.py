"""What readers may know: the worker publishes an immutable view and a status, HTTP and metrics read nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detectors.idle_waste import SIGNALS, STATES
from detectors.labels import LabelSet
from detectors.roster import Blocks
from service.alerting.contract import Alert, AlertStatus
from service.clock import Clock
from service.ingest.contract import REASONS

WASTE_STATES: tuple[str, ...] = STATES[:6]

# Each record, sample and notification is counted under exactly one outcome: closed sets, since they are metric labels.
RECORD_OUTCOMES: tuple[str, ...] = ("accepted", "rejected", "tombstone", "no_gpu")
SAMPLE_OUTCOMES: tuple[str, ...] = ("rows", "series_ended", "blank", "unknown_metric")
NOTIFICATION_OUTCOMES: tuple[str, ...] = ("delivered", "retried", "rejected", "expired")

_GPU_ARRAYS: tuple[tuple[str, type[np.generic]], ...] = (
    ("state", np.int8),
    ("state_since_ns", np.int64),
    ("usd_per_hour", np.float64),
    ("waste_usd_per_hour", np.float64),
    ("waste_usd_total", np.float64),
    ("confidence", np.float64),
    ("signal", np.int8),
    ("activity_ratio", np.float64),
    ("tensor_ratio", np.float64),
    ("power_watts", np.float64),
    ("fb_used_bytes", np.float64),
    ("fb_total_bytes", np.float64),
)
_STATE_TOTALS: tuple[str, ...] = ("seconds_in_state", "waste_usd_in_state")


def _frozen(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return `array` itself if nobody can write to it, else a copy nobody can write to."""
    if not array.flags.writeable:
        return array
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _no_alerts() -> Mapping[AlertStatus, int]:
    return dict.fromkeys(AlertStatus, 0)


@dataclass(frozen=True, eq=False)
class FleetView:
    """The fleet as of the end of one tick; row i of every array is the same GPU or MIG instance, m of them.

    A GPU keeps its row from view to view while the set of tracked GPUs stays the same, so that pages fit together.
    Writeable arrays are copied on construction, read-only ones are taken as they are.

    as_of_ns            event time of the tick's end; 0 before the first tick
    state int8[m]       index into STATES; state_since_ns int64[m] event time at which it began
    usd_per_hour        float64[m] price of the whole entity; NaN where the price is unknown
    waste_usd_per_hour  float64[m] what is wasted now; NaN where the price is unknown
    waste_usd_total     float64[m] wasted since the GPU is tracked, priced time only; never NaN
    confidence          float64[m] 0..1 of the state
    signal int8[m]      index into SIGNALS: which measurement the state rests on
    activity_ratio, tensor_ratio, power_watts, fb_used_bytes, fb_total_bytes
                        float64[m] latest fresh values; NaN where missing or stale
    seconds_in_state, waste_usd_in_state
                        float64[8] sums over the fleet, by STATES; GPUs no longer tracked are included, so that they
                        never go down
    alerts              pending, firing and recently resolved ones, firing and most expensive first, capped
    alert_counts        how many there are of each status, capped or not
    """

    as_of_ns: int
    entity_key: Sequence[str]
    labels: Sequence[LabelSet]
    owner: Sequence[str]
    state: NDArray[np.int8]
    state_since_ns: NDArray[np.int64]
    usd_per_hour: NDArray[np.float64]
    waste_usd_per_hour: NDArray[np.float64]
    waste_usd_total: NDArray[np.float64]
    confidence: NDArray[np.float64]
    signal: NDArray[np.int8]
    activity_ratio: NDArray[np.float64]
    tensor_ratio: NDArray[np.float64]
    power_watts: NDArray[np.float64]
    fb_used_bytes: NDArray[np.float64]
    fb_total_bytes: NDArray[np.float64]
    seconds_in_state: NDArray[np.float64]
    waste_usd_in_state: NDArray[np.float64]
    alerts: tuple[Alert, ...] = ()
    alert_counts: Mapping[AlertStatus, int] = field(default_factory=_no_alerts)

    def __post_init__(self) -> None:
        m = len(self.entity_key)
        if len(self.labels) != m or len(self.owner) != m:
            raise ValueError(f"labels, owner: expected {m} rows, got {len(self.labels)} and {len(self.owner)}")
        for name in ("entity_key", "labels", "owner"):
            object.__setattr__(self, name, Blocks.of(getattr(self, name)))
        for name, dtype in _GPU_ARRAYS:
            self._freeze(name, np.dtype(dtype), (m,))
        for name in _STATE_TOTALS:
            self._freeze(name, np.dtype(np.float64), (len(STATES),))
        _expect_indices("state", self.state, len(STATES))
        _expect_indices("signal", self.signal, len(SIGNALS))

    def __len__(self) -> int:
        return len(self.entity_key)

    def _freeze(self, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
        array = getattr(self, name)
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name}: expected {dtype}{list(shape)}, got {array.dtype}{list(array.shape)}")
        object.__setattr__(self, name, _frozen(array))

    @classmethod
    def empty(cls) -> FleetView:
        """Return the view before the first tick: no GPU, no alert, event time 0."""
        arrays = {name: np.zeros(0, dtype) for name, dtype in _GPU_ARRAYS}
        totals = {name: np.zeros(len(STATES)) for name in _STATE_TOTALS}
        return cls(as_of_ns=0, entity_key=(), labels=(), owner=(), **arrays, **totals)  # type: ignore[arg-type]

    def silenced(self) -> FleetView:
        """Return the same fleet when nothing is heard of it any more: unknown, so not wasting; totals and alerts stay."""
        m = len(self)
        missing = np.full(m, np.nan)
        return replace(
            self,
            state=np.full(m, STATES.index("unknown"), np.int8),
            state_since_ns=np.full(m, self.as_of_ns),
            waste_usd_per_hour=self.usd_per_hour * 0.0,
            confidence=np.zeros(m),
            signal=np.full(m, SIGNALS.index("none"), np.int8),
            activity_ratio=missing,
            tensor_ratio=missing,
            power_watts=missing,
            fb_used_bytes=missing,
            fb_total_bytes=missing,
        )

    @cached_property
    def unknown_price_count(self) -> int:
        """GPUs without a price: their waste is missing from every dollar figure."""
        return int(np.count_nonzero(np.isnan(self.usd_per_hour)))

    @property
    def owners(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Distinct owners in order of appearance, and int64[m] the index of each row's owner among them."""
        return Blocks.of(self.owner).codes  # kept there: owners change far less often than views


def _expect_indices(name: str, array: NDArray[np.int8], count: int) -> None:
    if len(array) and not (0 <= array.min() and array.max() < count):
        raise ValueError(f"{name}: expected 0..{count - 1}, got {array.min()}..{array.max()}")


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """Where reading stands in one log; None where it is not known."""

    topic: str
    partition: int
    next_offset: int
    lag_records: int | None = None
    watermark_ns: int | None = None
    paused: bool = False


@dataclass(frozen=True)
class ServiceStatus:
    """How the service itself fares, as the loop knows it after each round.

    Counters are since the process started and never go down. `reasons` says in words why the service is not ready.
    `receivers` are the configured names, so that each has its counters at zero. Wall times are for people and ages.
    """

    ready: bool
    reasons: tuple[str, ...] = ()
    source_kind: str = ""  # kafka, file or simulate
    source_ended: bool = False  # a finite input was read to its end
    tick_s: float = 15.0  # event time between two views
    silent_after_s: float = math.inf  # without a new view for so long every GPU is unknown
    records: Mapping[str, int] = field(default_factory=dict)  # by RECORD_OUTCOMES
    samples: Mapping[str, int] = field(default_factory=dict)  # by SAMPLE_OUTCOMES
    dead_letters: Mapping[str, int] = field(default_factory=dict)  # by REASONS
    dead_letter_bytes: int = 0  # in files that are still there
    dead_letter_bytes_max: int = 0  # 0: kept where we set no limit
    dead_letters_dropped: int = 0  # with the oldest files, to make room
    partitions: tuple[PartitionStatus, ...] = ()
    watermark_ns: int | None = None  # event time up to which every partition was read
    pending_rows: int = 0  # rows waiting for their tick
    receivers: tuple[str, ...] = ()
    notifications: Mapping[tuple[str, str], int] = field(default_factory=dict)  # receiver, outcome
    outbox_rows: int = 0
    entities: int = 0
    entities_max: int = 0
    data_gap_records: int = 0  # offsets that the log had lost before they were read
    checkpoints: int = 0
    checkpoint_at_ns: int | None = None  # wall time of the last one

    def __post_init__(self) -> None:
        _expect_keys("records", self.records, RECORD_OUTCOMES)
        _expect_keys("samples", self.samples, SAMPLE_OUTCOMES)
        _expect_keys("dead_letters", self.dead_letters, REASONS)
        outcomes = {outcome: 0 for _, outcome in self.notifications}
        _expect_keys("notifications", outcomes, NOTIFICATION_OUTCOMES)

    @classmethod
    def empty(cls) -> ServiceStatus:
        """Return the status before the loop's first round: not ready."""
        return cls(ready=False, reasons=("starting: the loop has not come round yet",))


def _expect_keys(name: str, counts: Mapping[str, int], allowed: tuple[str, ...]) -> None:
    unknown = sorted(set(counts) - set(allowed))
    if unknown:
        raise ValueError(f"{name}: expected keys of {allowed}, got {unknown}")


class Publisher:
    """The latest view and status, each replaced as a whole.

    One thread publishes, any thread reads, without a lock: replacing an attribute is one step of the interpreter, what
    it points to never changes, and a reader that took the old reference keeps a consistent old view. Each is stored in
    one tuple with its time, so that the pair cannot be torn.

    State is a function of the log, so when the whole log falls silent it stays as it was. That must not be shown as what
    is the case now: beyond `silent_after_s` the view that readers get is `silenced`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._view: tuple[FleetView, float | None] = (FleetView.empty(), None)
        self._silenced = (self._view[0], self._view[0])  # a view and what it becomes in silence, made when asked for
        self._status: tuple[ServiceStatus, float | None] = (ServiceStatus.empty(), None)

    def publish_view(self, view: FleetView) -> None:
        """Let readers see `view` from now on."""
        self._view = (view, self._clock.monotonic_s())

    def publish_status(self, status: ServiceStatus) -> None:
        """Let readers see `status` from now on; also the loop's sign of life."""
        self._status = (status, self._clock.monotonic_s())

    @property
    def view(self) -> FleetView:
        """The newest view, silenced when it is too old to tell what the fleet does."""
        view, published_s = self._view
        if not self._is_silent(published_s):
            return view
        known = self._silenced
        if known[0] is not view:
            known = self._silenced = (view, view.silenced())
        return known[1]

    @property
    def status(self) -> ServiceStatus:
        """The newest status."""
        return self._status[0]

    def is_silent(self) -> bool:
        """Tell whether no tick has closed for so long that every GPU counts as unknown."""
        return self._is_silent(self._view[1])

    def has_started(self) -> bool:
        """Tell whether anything was published: until then nobody knows what a resumed state holds."""
        return self._status[1] is not None or self._view[1] is not None

    def view_age_s(self) -> float | None:
        """Return seconds since the view was published; None before the first."""
        return self._age_s(self._view[1])

    def status_age_s(self) -> float | None:
        """Return seconds since the status was published; None before the first."""
        return self._age_s(self._status[1])

    def _is_silent(self, published_s: float | None) -> bool:
        return (self._age_s(published_s) or 0.0) > self._status[0].silent_after_s

    def _age_s(self, published_s: float | None) -> float | None:
        return None if published_s is None else self._clock.monotonic_s() - published_s
