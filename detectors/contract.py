"""What a detector promises: it folds ticks, judges every entity at a tick's end, and explains what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.features import Feature, Features
from detectors.labels import LabelSet
from detectors.params import Params
from detectors.state import Array, Snapshot

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True, slots=True)
class AlertKind:
    """A kind of alert that a detector may raise: known before the first event, so routes and metrics are complete.

    `summary` says what is the matter, `action` what to do about it; both are sentences for the owner.
    """

    name: str
    severity: Severity
    summary: str
    action: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """What detectors may know of the entities besides measurements; arrays over all m entities, read-only by custom.

    held bool: somebody holds it. usd_per_hour float64: price, NaN unknown. idle_watts, limit_watts float64: of the GPU
    model, NaN unknown or (MIG) not the entity's own. fresh bool: reported within the staleness bound.
    present_since_ns, holder_since_ns int64, 0 = never.
    """

    held: NDArray[np.bool_]
    fresh: NDArray[np.bool_]
    present_since_ns: NDArray[np.int64]
    holder_since_ns: NDArray[np.int64]
    usd_per_hour: NDArray[np.float64]
    idle_watts: NDArray[np.float64]
    limit_watts: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Findings:
    """What one detector holds true at a tick's end; arrays over all m entities.

    kind int8: index into the detector's kinds, -1 = nothing. for_ns int64: how long it must hold before it is an
    alert. usd_per_hour float64: what it wastes now, NaN where the price is unknown. usd_total float64: what this kind
    wasted on the entity so far, never falling. confidence float64 in 0..1.
    """

    kind: NDArray[np.int8]
    for_ns: NDArray[np.int64]
    usd_per_hour: NDArray[np.float64]
    usd_total: NDArray[np.float64]
    confidence: NDArray[np.float64]


class Detector(Protocol):
    """One family of rules over every entity of one worker. State is arrays by entity id, private to the instance."""

    name: ClassVar[str]
    state_version: ClassVar[int]  # raised when snapshot() changes meaning
    kinds: ClassVar[tuple[AlertKind, ...]]  # the only alerts it may raise
    params_type: ClassVar[type[Params]]
    keep_firing_for_ns: int  # how long an alert outlives its finding

    @classmethod
    def requires(cls, params: Any) -> Sequence[Feature]:
        """Return the rolling statistics that it reads; shared ones are computed once."""
        ...

    def __init__(self, params: Any, resume: Snapshot | None) -> None: ...

    def grow(self, entity_count: int) -> None:
        """Make room for new entities; never fewer."""
        ...

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities, which get the ids 0.. in this order."""
        ...

    def describe(self, entities: Sequence[int], labels: Sequence[LabelSet], owners: Sequence[str]) -> None:
        """Learn the labels and owners of entities: of each at its start, after a resume, and after each change."""
        ...

    def forget(self) -> None:
        """Let the figures of the last judgement go: a tick begins, and until its end nobody asks for any."""
        ...

    def evaluate(self, now_ns: int, tick_s: float, features: Features, fleet: Fleet) -> Findings:
        """Judge every entity at the end of a tick of tick_s seconds, and charge the tick to what was found."""
        ...

    def evidence(self, entity: int) -> Mapping[str, float | str]:
        """Return the figures behind the last judgement of one entity, in display order. Asked before the next fold."""
        ...

    def snapshot(self) -> dict[str, Array]:
        """Return the arrays of the state themselves; they are read before the next evaluate, grow or keep."""
        ...
