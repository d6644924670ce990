"""Idle waste: six ways in which a paid GPU does no useful work, and telemetry that contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from detectors.contract import AlertKind, Findings, Fleet
from detectors.features import ACTIVITY, IO, Ewma, Feature, Features, Histogram, Window
from detectors.labels import LabelSet
from detectors.params import Params
from detectors.state import Array, ArraySpec, Snapshot, StateArrays
from kernels.dwell import dwell_add, dwell_sum
from kernels.waste import SIGNAL_TRUST, UNKNOWN, waste_classify, waste_find

STATES = (
    "unallocated",
    "truly_idle",
    "idle_held",
    "low_efficiency",
    "hung_collective",
    "keep_alive",
    "active",
    "unknown",
)
SIGNALS = ("sm", "gr", "util", "none")
Kind = Literal[
    "unallocated",
    "truly_idle",
    "idle_held",
    "low_efficiency",
    "hung_collective",
    "keep_alive",
    "telemetry_disagreement",
]
_DISAGREEMENT = 6  # its index in kinds; kinds 0..5 are states 0..5
# A holder that has just started may load a model or wait for its peers: truly_idle, idle_held, keep_alive.
_GRACED = np.isin(np.arange(_DISAGREEMENT + 1), (1, 2, 5))

Ratio = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=30 * 86_400)]


class Override(Params):
    """Other rules for some GPUs; empty patterns match everything, and the first override that matches is taken."""

    namespace: str = "*"
    """Pattern for the namespace, as in shells."""
    owner: str = "*"
    """Pattern for the owner."""
    job: str = "*"
    """Pattern for the job."""
    cluster: str = "*"
    """Pattern for the cluster."""
    exempt: bool | list[Kind] = False
    """true: no alerts at all; a list: none of these kinds. States, metrics and dollars are kept in any case."""
    for_s: dict[Kind, Seconds] = {}
    """How long a state must last before it is an alert, per kind."""
    idle_duty_max: Ratio | None = None
    """In place of the general idle_duty_max."""
    efficiency_min: Ratio | None = None
    """In place of the general efficiency_min."""
    reason: str = ""
    """Why, for whoever reads the configuration next."""


class IdleWasteParams(Params):
    """Bounds of the six states; the defaults are those that the field uses."""

    window_s: Annotated[float, Field(ge=30, le=86_400)] = 300
    """States are judged from the last window_s seconds of event time."""
    active_above: Ratio = 0.01
    """A sample counts as active above this activity."""
    idle_duty_max: Ratio = 0.01
    """A GPU is quiet when no larger share of its samples was active."""
    efficiency_min: Ratio = 0.5
    """Mean activity below this is low efficiency; NVIDIA calls SM activity below 0.5 ineffective use."""
    efficient_load_min: Ratio = 0.42
    """Without SM activity, a busy GPU that draws less than this share of its power range is low efficiency."""
    efficient_pipe_min: Ratio = 0.28
    """Without SM activity and power (MIG), a busy GPU whose tensor and memory pipes both stay below is low efficiency."""
    context_mib: Annotated[float, Field(ge=0)] = 1024
    """Framebuffer in use below this is no more than a context: nothing of value is held."""
    veto_load_min: Ratio = 0.25
    """A quiet GPU that draws more than this share of its power range contradicts itself."""
    veto_util_min: Ratio = 0.2
    """A GPU whose SM or engine counters are quiet while NVML utilisation exceeds this contradicts itself."""
    hung_util_min: Ratio = 0.95
    """Utilisation from which a GPU at idle power looks hung in a collective operation."""
    hung_load_max: Ratio = 0.2
    """Share of its power range up to which it is at idle power."""
    pipe_max: Ratio = 0.01
    """Tensor activity up to which the tensor pipe is quiet."""
    dram_max: Ratio = 0.02
    """Memory activity up to which nothing is being moved."""
    steady_std_max: Ratio = 0.03
    """Keep-alive: standard deviation of activity up to which it is suspiciously steady."""
    steady_activity_max: Ratio = 0.6
    """Keep-alive: mean activity up to which it looks like busywork."""
    io_mb_per_s_max: Annotated[float, Field(ge=0)] = 1
    """Keep-alive: PCIe and NVLink traffic up to which nothing comes in or goes out, in MB/s."""
    fb_range_mib_max: Annotated[float, Field(ge=0)] = 64
    """Keep-alive: change of framebuffer use within the window up to which it is constant."""
    samples_min: Annotated[int, Field(ge=2, le=10_000)] = 5
    """Samples in the window from which a judgement has full confidence."""
    for_s: dict[Kind, Seconds] = {
        "unallocated": 3600,
        "truly_idle": 1800,
        "idle_held": 1800,
        "low_efficiency": 7200,
        "hung_collective": 300,
        "keep_alive": 3600,
        "telemetry_disagreement": 900,
    }
    """How long a state must last, after the window has shown it, before it is an alert."""
    keep_firing_for_s: Seconds = 300
    """How long an alert outlives its state, so that a short burst does not end it."""
    grace_s: Seconds = 300
    """After a holder has started, idleness is shown but not counted towards an alert for so long."""
    history_half_life_s: Annotated[float, Field(ge=60)] = 6 * 3600
    """Half-life of the histogram behind the percentiles in the evidence."""
    overrides: list[Override] = []
    """Other rules per namespace, owner, job or cluster."""


class IdleWaste:
    """Judges every GPU from the windows of its signals; unknown and stale never count as idle.

    Works with SM activity, else graphics-engine activity, else NVML utilisation, and says which; power is the veto.
    Limits: a job on FP64 or FP32 pipes alone with steady load and no traffic can look like keep-alive when it draws
    little power; MIG instances share one power sensor, so power neither vetoes nor convicts them.
    """

    name: ClassVar[str] = "idle_waste"
    state_version: ClassVar[int] = 2
    params_type: ClassVar[type[Params]] = IdleWasteParams
    kinds: ClassVar[tuple[AlertKind, ...]] = (
        AlertKind(
            "unallocated",
            "info",
            "Paid for and held by nobody.",
            "Schedule work on it, scale the node pool down, or give the node back.",
        ),
        AlertKind(
            "truly_idle",
            "warning",
            "Allocated, but it computes nothing and holds no memory.",
            "Stop the workload or release the GPU; ask the owner whether it waits for something.",
        ),
        AlertKind(
            "idle_held",
            "warning",
            "Memory is held and nothing is computed.",
            "Unload the model, scale to zero, or shut the notebook down; a checkpoint frees the GPU without losing work.",
        ),
        AlertKind(
            "low_efficiency",
            "info",
            "It works, but most of it is unused.",
            "Raise the batch size, look at the data loader, share the GPU, or move to a smaller one or a MIG slice.",
        ),
        AlertKind(
            "hung_collective",
            "critical",
            "It reports full utilisation at idle power: probably hung in a collective operation.",
            "Look for the rank that is missing, then restart the job from its last checkpoint.",
        ),
        AlertKind(
            "keep_alive",
            "warning",
            "Constant light load without tensor work or traffic: probably a program that only keeps the GPU busy.",
            "Ask the owner what it computes; reserve capacity in the open if the GPU must be kept.",
        ),
        AlertKind(
            "telemetry_disagreement",
            "warning",
            "Its signals contradict each other, so nothing is said about idleness.",
            "Check the exporter: profiling counters that read zero, a paused profiler, or a stale exporter.",
        ),
    )

    @classmethod
    def requires(cls, params: IdleWasteParams) -> Sequence[Feature]:
        """Return the windows behind the judgement, and mean and percentiles for the evidence."""
        window_s = params.window_s
        return (
            Window(ACTIVITY, window_s, params.active_above, spread=True, highest=True),
            Window("fb_used_bytes", window_s, lowest=True, highest=True),
            *(Window(column, window_s) for column in ("util_ratio", "tensor_ratio", "dram_ratio", "power_watts", IO)),
            Ewma(ACTIVITY, window_s),
            Histogram(ACTIVITY, params.history_half_life_s),
        )

    def __init__(self, params: IdleWasteParams, resume: Snapshot | None) -> None:
        self._params = params
        self._activity = Window(ACTIVITY, params.window_s, params.active_above, spread=True, highest=True)
        self.keep_firing_for_ns = int(params.keep_firing_for_s * 1e9)
        states = len(STATES)
        self._state = StateArrays(
            {
                "state": ArraySpec(np.int8, UNKNOWN),
                "state_since_ns": ArraySpec(np.int64, 0),
                "usd_in_state": ArraySpec(np.float64, 0, (states,)),
            },
            resume,
        )
        # Of all GPUs ever tracked, and what those that no longer are have left: counters never fall.
        self._seconds = np.zeros(states) if resume is None else np.array(resume["seconds_in_state"], np.float64)
        self._retired_usd = np.zeros(states) if resume is None else np.array(resume["retired_usd"], np.float64)
        # A row for each override, and last one for those that none applies to: labels change all the time.
        bounds = [self._bounds_under(rule) for rule in (*params.overrides, Override())]
        self._bounds = {name: np.array([of_rule[name] for of_rule in bounds]) for name in bounds[0]}
        self._rules = StateArrays({"rule": ArraySpec(np.int32, len(params.overrides))}, None)
        self._rules.grow(len(self._state["state"]))
        self._figures: dict[str, Array] = {}
        self._judged: tuple[Features, int, int] | None = None

    def grow(self, entity_count: int) -> None:
        """Make room for new entities."""
        self._state.grow(entity_count)
        self._rules.grow(entity_count)

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities; the dollars of the others stay in the totals."""
        dropped = np.ones(len(self._state["state"]), np.bool_)
        dropped[entities] = False
        self._retired_usd += self._state["usd_in_state"][dropped].sum(axis=0)
        self._state.keep(entities)
        self._rules.keep(entities)

    def describe(self, entities: Sequence[int], labels: Sequence[LabelSet], owners: Sequence[str]) -> None:
        """Find the override that applies to each entity."""
        if not self._params.overrides:
            return
        known: dict[tuple[str, ...], int] = {}
        for entity, of_entity, owner in zip(entities, labels, owners, strict=True):
            said = of_entity.namespace, owner, of_entity.job, of_entity.cluster
            rule = known.get(said)
            if rule is None:
                rule = known[said] = self._rule_of(said)
            self._rules["rule"][entity] = rule

    def _rule_of(self, said: tuple[str, ...]) -> int:
        overrides = self._params.overrides
        return next((i for i, override in enumerate(overrides) if _matches(override, said)), len(overrides))

    def _bounds_under(self, rule: Override) -> dict[str, Any]:
        params = self._params
        default_for_s = IdleWasteParams().for_s | params.for_s | rule.for_s
        exempt = [rule.exempt if isinstance(rule.exempt, bool) else kind.name in rule.exempt for kind in self.kinds]
        return {
            "idle_duty_max": params.idle_duty_max if rule.idle_duty_max is None else rule.idle_duty_max,
            "efficiency_min": params.efficiency_min if rule.efficiency_min is None else rule.efficiency_min,
            "for_ns": np.array([int(default_for_s[kind.name] * 1e9) for kind in self.kinds], np.int64),  # type: ignore[index]
            "exempt": np.array(exempt, np.bool_),
        }

    def forget(self) -> None:
        """Let go of 130 bytes per GPU, which the rows of a tick take meanwhile."""
        self._figures = {}

    def evaluate(self, now_ns: int, tick_s: float, features: Features, fleet: Fleet) -> Findings:
        """Judge every entity, charge the tick to its state, and return what holds."""
        self._read(now_ns, features, fleet)
        m = len(fleet.held)
        state, score, confidence = np.empty(m, np.int8), np.empty(m), np.empty(m)
        disagrees = np.empty(m, np.bool_)
        settled = now_ns - fleet.present_since_ns >= int(0.8e9 * self._params.window_s)
        self._classify(fleet.fresh & settled, fleet.held, state, score, confidence, disagrees)
        self._state["state_since_ns"][state != self._state["state"]] = now_ns
        self._state["state"][:] = state
        dwell_add(
            state,
            score,
            fleet.usd_per_hour,
            tick_s,
            self._seconds,
            self._state["usd_in_state"],
        )
        self._figures |= {"score": score, "confidence": confidence}
        found = Findings(np.empty(m, np.int8), np.empty(m, np.int64), np.empty(m), np.empty(m), confidence)
        waste_find(
            state,
            disagrees,
            score,
            fleet.usd_per_hour,
            fleet.holder_since_ns,
            self._rules["rule"],
            now_ns,
            int(self._params.grace_s * 1e9),
            _GRACED,
            self._bounds["exempt"],
            self._bounds["for_ns"],
            self._state["usd_in_state"],
            found.kind,
            found.for_ns,
            found.usd_per_hour,
            found.usd_total,
        )
        return found

    def _read(self, now_ns: int, features: Features, fleet: Fleet) -> None:
        """Read every window once, and of most the mean alone; the figures also serve as evidence."""
        window_s = self._params.window_s
        activity = features.window(self._activity, now_ns)
        figures: dict[str, Array] = {
            "count": activity.count,
            "duty": activity.duty,
            "activity": activity.mean,
            "activity_variance": activity.variance,
            "signal": features.signal(now_ns),
            "activity_ewma": features.ewma(Ewma(ACTIVITY, window_s))[0],
        }
        for name, column in (
            ("util", "util_ratio"),
            ("tensor", "tensor_ratio"),
            ("dram", "dram_ratio"),
            ("power", "power_watts"),
            ("io", IO),
        ):
            figures[name] = features.mean(Window(column, window_s), now_ns)
        fb = Window("fb_used_bytes", window_s, lowest=True, highest=True)
        lowest, highest = features.range(fb, now_ns)
        figures |= {"fb": features.mean(fb, now_ns), "fb_range": highest - lowest}
        figures["power_load"] = (figures["power"] - fleet.idle_watts) / (fleet.limit_watts - fleet.idle_watts)
        self._figures = figures
        self._judged = features, features.folds, now_ns

    def _asked(self, entity: int) -> tuple[float, float]:
        """Read highest value and percentile only when asked: they serve evidence alone, and cost as much as all the rest."""
        assert self._judged is not None
        features, folds, now_ns = self._judged
        assert features.folds == folds, "evidence is of the last judgement, and a tick was folded since"
        highest = features.range(self._activity, now_ns, slice(entity, entity + 1))[1]
        history = Histogram(ACTIVITY, self._params.history_half_life_s)
        return float(highest[0]), features.quantile(history, 0.95, entity)

    def _classify(
        self,
        known: NDArray[np.bool_],
        held: NDArray[np.bool_],
        state: NDArray[np.int8],
        score: NDArray[np.float64],
        confidence: NDArray[np.float64],
        disagrees: NDArray[np.bool_],
    ) -> None:
        p, f = self._params, self._figures
        waste_classify(
            known,
            held,
            f["signal"],
            f["count"],
            f["duty"],
            f["activity"],
            f["activity_variance"],
            f["util"],
            f["tensor"],
            f["dram"],
            f["power_load"],
            f["io"],
            f["fb"],
            f["fb_range"],
            self._rules["rule"],
            self._bounds["idle_duty_max"],
            self._bounds["efficiency_min"],
            p.efficient_load_min,
            p.efficient_pipe_min,
            p.context_mib * 2**20,
            p.veto_load_min,
            p.veto_util_min,
            p.hung_util_min,
            p.hung_load_max,
            p.pipe_max,
            p.dram_max,
            p.steady_std_max,
            p.steady_activity_max,
            p.io_mb_per_s_max * 1e6,
            p.fb_range_mib_max * 2**20,
            p.samples_min,
            SIGNAL_TRUST,
            state,
            score,
            confidence,
            disagrees,
        )

    def evidence(self, entity: int) -> Mapping[str, float | str]:
        """Return the figures of the last judgement: windows are of window_s, percentiles of hours."""
        highest, p95 = self._asked(entity)
        f = {name: float(column[entity]) for name, column in self._figures.items()}
        shown: dict[str, float | str] = {
            "window_s": self._params.window_s,
            "signal": SIGNALS[int(f["signal"])],
            "samples": f["count"],
            "duty_ratio": f["duty"],
            "activity_mean_ratio": f["activity"],
            "activity_highest_ratio": highest,
            "activity_ewma_ratio": f["activity_ewma"],
            "activity_p95_ratio": p95,
            "util_mean_ratio": f["util"],
            "tensor_mean_ratio": f["tensor"],
            "dram_mean_ratio": f["dram"],
            "power_mean_watts": f["power"],
            "power_load_ratio": f["power_load"],
            "fb_used_mean_bytes": f["fb"],
            "io_mean_bytes_per_s": f["io"],
            "wasted_share_ratio": f["score"],
        }
        return {name: value for name, value in shown.items() if isinstance(value, str) or np.isfinite(value)}

    def figures(self) -> dict[str, Array]:
        """Return what the page and /metrics show: by entity, and by state as sums over all entities ever tracked.

        By entity [m]: copies of state and state_since_ns; score, confidence and signal of the last judgement, read-only;
        usd_so_far. By state float64[states]: seconds_total and usd_total, GPUs that are no longer tracked included.
        """
        seconds, usd = self._seconds.copy(), self._retired_usd.copy()
        usd_so_far = np.empty(len(self._state))
        dwell_sum(self._state["usd_in_state"], usd, usd_so_far)
        shown: dict[str, Array] = {name: self._state[name].copy() for name in ("state", "state_since_ns")}
        shown |= {name: self._figures[name].view() for name in ("confidence", "score", "signal")}
        shown |= {"usd_so_far": usd_so_far, "seconds_total": seconds, "usd_total": usd}
        for array in shown.values():
            array.flags.writeable = False  # so that a view takes them as they are
        return shown

    def snapshot(self) -> dict[str, Array]:
        """Return the state; the rules come from the configuration and the labels."""
        return self._state.snapshot("") | {"seconds_in_state": self._seconds, "retired_usd": self._retired_usd}


def _matches(override: Override, said: tuple[str, ...]) -> bool:
    """Tell whether all patterns of an override fit namespace, owner, job and cluster."""
    patterns = override.namespace, override.owner, override.job, override.cluster
    return all(map(fnmatchcase, said, patterns))
