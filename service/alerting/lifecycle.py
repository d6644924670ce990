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
from detectors.state import Array, Snapshot
from kernels.alert import alert_advance, alert_leave
from service.alerting.contract import Alert, AlertStatus

# Of each open alert, in the order in which the kernel takes them.
_STATE: dict[str, type[Any]] = {
    "key": np.int64,
    "opened_ns": np.int64,
    "fired_ns": np.int64,
    "last_true_ns": np.int64,
    "usd_at_open": np.float64,
    "usd_so_far": np.float64,
    "usd_per_hour": np.float64,
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

    State is a row for each open alert, in order of key: entity * kinds + kind. Rows are replaced as a whole, never
    written to, so that a checkpoint may read them at any time.
    """

    def __init__(self, detector: Detector, resume: Snapshot | None, firing: list[Alert]) -> None:
        self._detector = detector
        self._kinds = len(detector.kinds)
        self._open: dict[str, Array] = {
            name: np.empty(0, dtype) if resume is None else resume[name].astype(dtype) for name, dtype in _STATE.items()
        }
        self._firing = {alert.alert_id: alert for alert in firing}
        self._place: dict[int, str] = {}  # the id of each alert that fires, by key

    def bind(self, ids: Mapping[str, int]) -> None:
        """Learn the entity ids of the alerts that fire: called after a resume and after entities were dropped."""
        names = [kind.name for kind in self._detector.kinds]
        self._place = {
            ids[alert.entity_key] * self._kinds + names.index(alert.kind): key
            for key, alert in self._firing.items()
            if alert.entity_key in ids
        }

    def keep(self, entities: NDArray[np.int64], before: int) -> None:
        """Keep only these entities of `before`, which get the ids 0.. in this order; `bind` must follow."""
        renamed = np.full(before, -1, np.int64)
        renamed[entities] = np.arange(len(entities))
        entity, kind = np.divmod(self._open["key"], self._kinds)
        self._open["key"] = renamed[entity] * self._kinds + kind
        self._keep_rows(renamed[entity] >= 0)

    def _keep_rows(self, kept: NDArray[np.bool_]) -> None:
        self._open = {name: array[kept] for name, array in self._open.items()}

    def advance(
        self, findings: Findings, now_ns: int, subjects: Mapping[int, Subject], holder_since_ns: NDArray[np.int64]
    ) -> tuple[list[Alert], list[Alert]]:
        """Take in the findings of a tick; return the alerts that fired and those that were resolved, by entity and kind.

        `subjects` gives the subject of any entity asked for; `holder_since_ns` int64[m] is when its present holder
        appeared: an alert ends with the holder under which it opened, and a state that goes on opens the next holder's own.
        """
        left = self._leave(now_ns, holder_since_ns)
        room = len(self._open["key"]) + int(np.count_nonzero(findings.kind >= 0))
        after = {name: np.empty(room, dtype) for name, dtype in _STATE.items()}
        fires, ends, count = np.empty(room, np.bool_), np.empty(room, np.bool_), np.zeros(2, np.int64)
        arrays: list[Array] = [*self._open.values(), *after.values(), fires, ends, count]
        alert_advance(
            findings.kind,
            findings.for_ns,
            findings.usd_per_hour,
            findings.usd_total,
            self._kinds,
            now_ns,
            self._detector.keep_firing_for_ns,
            *arrays,
        )
        rows, marked = count.tolist()
        self._open = {name: array[:rows] for name, array in after.items()}
        if not marked:
            return [], left
        fired = [self._fire(row, now_ns, findings, subjects) for row in np.flatnonzero(fires[:rows]).tolist()]
        resolved = [self._resolve(row, now_ns) for row in np.flatnonzero(ends[:rows]).tolist()]
        if resolved:
            self._keep_rows(~ends[:rows])
        return fired, left + resolved

    def _leave(self, now_ns: int, holder_since_ns: NDArray[np.int64]) -> list[Alert]:
        """Resolve what fired under a holder who is gone, and drop what was pending."""
        opened = self._open
        inherited, count = np.empty(len(opened["key"]), np.bool_), np.zeros(1, np.int64)
        alert_leave(holder_since_ns, self._kinds, opened["key"], opened["opened_ns"], inherited, count)
        if not count[0]:
            return []
        left = [self._resolve(row, now_ns) for row in np.flatnonzero(inherited & (opened["fired_ns"] > 0)).tolist()]
        self._keep_rows(~inherited)
        return left

    def _fire(self, row: int, now_ns: int, findings: Findings, subjects: Mapping[int, Subject]) -> Alert:
        entity, kind = divmod(int(self._open["key"][row]), self._kinds)
        subject, described = subjects[entity], self._detector.kinds[kind]
        opened_ns = int(self._open["opened_ns"][row])
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
        self._place[int(self._open["key"][row])] = name
        return self._as_of(alert, row, now_ns)

    def _resolve(self, row: int, now_ns: int) -> Alert:
        alert = self._firing.pop(self._place.pop(int(self._open["key"][row])))
        ended_ns = int(self._open["last_true_ns"][row])
        told = self._as_of(alert, row, now_ns)
        return replace(told, status=AlertStatus.RESOLVED, ended_ns=ended_ns)

    def _as_of(self, alert: Alert, row: int, now_ns: int) -> Alert:
        rate = float(self._open["usd_per_hour"][row])
        if np.isnan(rate):
            return replace(alert, as_of_ns=now_ns)
        spent = float(self._open["usd_so_far"][row])
        return replace(alert, as_of_ns=now_ns, usd_per_hour=rate, usd_so_far=spent)

    def _rows_of(self, keys: list[int]) -> NDArray[np.int64]:
        """Return where the alerts that fire under these keys stand."""
        return np.searchsorted(self._open["key"], np.array(keys, np.int64))

    def firing(self, now_ns: int) -> dict[str, Alert]:
        """Return the alerts that fire, by id, with their dollars as of now."""
        keys = sorted(self._place)
        names = [self._place[key] for key in keys]
        rows = self._rows_of(keys).tolist()
        return {name: self._as_of(self._firing[name], row, now_ns) for name, row in zip(names, rows, strict=True)}

    def costliest(self, now_ns: int, count: int) -> list[Alert]:
        """Return the `count` alerts that fire and cost most per hour, as of now; of equal ones those whose ids come first.

        A hundred thousand may fire: only those that are returned become objects.
        """
        if not self._place:
            return []
        rows, names = self._rows_of(list(self._place)), list(self._place.values())
        gain = -np.nan_to_num(self._open["usd_per_hour"][rows])
        bound = np.partition(gain, count - 1)[count - 1] if len(gain) > count else np.inf
        chosen = np.flatnonzero(gain < bound).tolist()
        chosen += nsmallest(count - len(chosen), np.flatnonzero(gain == bound).tolist(), key=names.__getitem__)
        return [self._as_of(self._firing[names[i]], int(rows[i]), now_ns) for i in chosen]

    def firing_count(self) -> int:
        """Return how many alerts fire."""
        return len(self._place)

    def pending_count(self) -> int:
        """Return how many alerts are pending."""
        return int(np.count_nonzero(self._open["fired_ns"] == 0))

    def quiet(self) -> bool:
        """Tell whether no alert is pending or firing."""
        return not len(self._open["key"])

    def snapshot(self) -> dict[str, Array]:
        """Return the open alerts, a row for each."""
        return dict(self._open)

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
