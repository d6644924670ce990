"""Pending, firing, resolved: findings that last become alerts, in event time alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import Detector, Findings
from detectors.labels import LabelSet
from detectors.state import Array, ArraySpec, Snapshot, StateArrays
from kernels.alert import alert_advance, alert_leave
from service.alerting.contract import Alert, AlertStatus

# By entity and kind: dtype, and the value while no alert is open. In the order in which the kernel takes them.
_STATE: dict[str, tuple[type[Any], float]] = {
    "opened_ns": (np.int64, 0),
    "fired_ns": (np.int64, 0),
    "last_true_ns": (np.int64, 0),
    "usd_at_open": (np.float64, 0),
    "usd_so_far": (np.float64, 0),
    "usd_per_hour": (np.float64, np.nan),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """Who an entity is at the instant an alert opens."""

    entity_key: str
    labels: LabelSet
    owner: str


def alert_id(entity_key: str, detector: str, kind: str, opened_ns: int) -> str:
    """Name an episode by its data: every replay and every process finds the same name."""
    text = f"{entity_key}|{detector}|{kind}|{opened_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Lifecycle:
    """The alerts of one detector. An alert opens at the tick that first finds it, fires once it has lasted `for_ns`, and
    is resolved when it was not found for keep_firing_for_ns. A pending one that is not found once is dropped.
    """

    def __init__(self, detector: Detector, resume: Snapshot | None, firing: list[Alert]) -> None:
        self._detector = detector
        kinds = (len(detector.kinds),)
        self._state = StateArrays({n: ArraySpec(*spec, kinds) for n, spec in _STATE.items()}, resume)
        self._firing = {alert.alert_id: alert for alert in firing}
        self._place: dict[tuple[int, int], str] = {}

    def bind(self, ids: Mapping[str, int]) -> None:
        """Learn the entity ids of the alerts that fire: called after a resume and after entities were dropped."""
        names = [kind.name for kind in self._detector.kinds]
        self._place = {
            (ids[alert.entity_key], names.index(alert.kind)): key
            for key, alert in self._firing.items()
            if alert.entity_key in ids
        }

    def grow(self, entity_count: int) -> None:
        """Make room for new entities."""
        self._state.grow(entity_count)

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities; `bind` must follow."""
        self._state.keep(entities)

    def advance(
        self, findings: Findings, now_ns: int, subjects: Mapping[int, Subject], holder_since_ns: NDArray[np.int64]
    ) -> tuple[list[Alert], list[Alert]]:
        """Take in the findings of a tick; return the alerts that fired and those that were resolved, by entity and kind.

        `subjects` gives the subject of any entity asked for; `holder_since_ns` int64[m] is when its present holder
        appeared: an alert ends with the holder under which it opened, and a state that goes on opens the next holder's own.
        """
        left = self._leave(now_ns, holder_since_ns)
        s = self._state
        shape = s["opened_ns"].shape
        fires, ends, count = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_), np.zeros(1, np.int64)
        arrays: list[Array] = [*(s[name] for name in _STATE), fires, ends, count]
        alert_advance(
            findings.kind,
            findings.for_ns,
            findings.usd_per_hour,
            findings.usd_total,
            now_ns,
            self._detector.keep_firing_for_ns,
            *arrays,
        )
        if not count[0]:
            return [], left
        fired = [self._fire(e, k, now_ns, findings, subjects[e]) for e, k in np.argwhere(fires).tolist()]
        resolved = [self._resolve(e, k, now_ns) for e, k in np.argwhere(ends).tolist()]
        self._clear(ends)
        return fired, left + resolved

    def _leave(self, now_ns: int, holder_since_ns: NDArray[np.int64]) -> list[Alert]:
        """Resolve what fired under a holder who is gone, and drop what was pending."""
        s = self._state
        inherited, count = np.zeros(s["opened_ns"].shape, np.bool_), np.zeros(1, np.int64)
        alert_leave(holder_since_ns, s["opened_ns"], inherited, count)
        if not count[0]:
            return []
        left = [self._resolve(e, k, now_ns) for e, k in np.argwhere(inherited & (s["fired_ns"] > 0)).tolist()]
        self._clear(inherited)
        return left

    def _fire(self, entity: int, kind: int, now_ns: int, findings: Findings, subject: Subject) -> Alert:
        described = self._detector.kinds[kind]
        opened_ns = int(self._state["opened_ns"][entity, kind])
        name = alert_id(subject.entity_key, self._detector.name, described.name, opened_ns)
        alert = Alert(
            alert_id=name,
            detector=self._detector.name,
            kind=described.name,
            severity=described.severity,
            status=AlertStatus.FIRING,
            entity_key=subject.entity_key,
            labels=subject.labels,
            owner=subject.owner,
            opened_ns=opened_ns,
            fired_ns=now_ns,
            ended_ns=None,
            as_of_ns=now_ns,
            usd_per_hour=None,
            usd_so_far=None,
            confidence=float(findings.confidence[entity]),
            summary=described.summary,
            action=described.action,
            evidence=self._detector.evidence(entity),
        )
        self._firing[name] = alert
        self._place[entity, kind] = name
        return self._as_of(alert, entity, kind, now_ns)

    def _resolve(self, entity: int, kind: int, now_ns: int) -> Alert:
        alert = self._firing.pop(self._place.pop((entity, kind)))
        ended_ns = int(self._state["last_true_ns"][entity, kind])
        told = self._as_of(alert, entity, kind, now_ns)
        return replace(told, status=AlertStatus.RESOLVED, ended_ns=ended_ns)

    def _as_of(self, alert: Alert, entity: int, kind: int, now_ns: int) -> Alert:
        rate = float(self._state["usd_per_hour"][entity, kind])
        if np.isnan(rate):
            return replace(alert, as_of_ns=now_ns)
        spent = float(self._state["usd_so_far"][entity, kind])
        return replace(alert, as_of_ns=now_ns, usd_per_hour=rate, usd_so_far=spent)

    def _clear(self, done: NDArray[np.bool_]) -> None:
        for name, (_, fresh) in _STATE.items():
            self._state[name][done] = fresh

    def firing(self, now_ns: int) -> dict[str, Alert]:
        """Return the alerts that fire, by id, with their dollars as of now."""
        return {
            name: self._as_of(self._firing[name], entity, kind, now_ns)
            for (entity, kind), name in sorted(self._place.items())
        }

    def costliest(self, now_ns: int, count: int) -> list[Alert]:
        """Return the `count` alerts that fire and cost most per hour, as of now; of equal ones those whose ids come first.

        A hundred thousand may fire: only those that are returned become objects.
        """
        if not self._place:
            return []
        entity, kind = np.array(list(self._place), np.int64).T
        gain = -np.nan_to_num(self._state["usd_per_hour"][entity, kind])
        places, names = list(self._place), list(self._place.values())
        bound = np.partition(gain, count - 1)[count - 1] if len(gain) > count else np.inf
        chosen = np.flatnonzero(gain < bound).tolist()
        chosen += nsmallest(count - len(chosen), np.flatnonzero(gain == bound).tolist(), key=names.__getitem__)
        return [self._as_of(self._firing[names[i]], *places[i], now_ns) for i in chosen]

    def firing_count(self) -> int:
        """Return how many alerts fire."""
        return len(self._place)

    def pending_count(self) -> int:
        """Return how many alerts are pending."""
        return int(np.count_nonzero((self._state["opened_ns"] > 0) & (self._state["fired_ns"] == 0)))

    def quiet(self) -> bool:
        """Tell whether no alert is pending or firing."""
        return not (self._state["opened_ns"] > 0).any()

    def snapshot(self) -> dict[str, Array]:
        """Return the arrays themselves."""
        return self._state.snapshot("")

    def fired(self) -> list[Alert]:
        """Return the alerts that fire, as they were when they fired."""
        return list(self._firing.values())


def in_order_of_id(alerts: list[Alert]) -> list[Alert]:
    """Return alerts in order of id; NumPy lets other threads run while it sorts a hundred thousand."""
    order = np.argsort(np.array([alert.alert_id for alert in alerts], np.str_))
    return [alerts[i] for i in order.tolist()]


def to_json(alert: Alert) -> dict[str, Any]:
    """Return an alert as plain JSON."""
    fields = {name: getattr(alert, name) for name in Alert.__slots__}
    return fields | {
        "status": alert.status.value,
        "labels": {k: v for k, v in alert.labels._asdict().items() if v},
        "evidence": dict(alert.evidence),
    }


def from_json(saved: Mapping[str, Any]) -> Alert:
    """Return the alert that `to_json` saved."""
    return Alert(
        **{
            **saved,
            "status": AlertStatus(saved["status"]),
            "labels": LabelSet(**saved["labels"]),
        }
    )
