"""Many alerts, few messages: alerts of one kind and one owner go into one notification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from service.alerting.contract import Alert, AlertStatus, Notification
from service.alerting.lifecycle import from_json, to_json
from service.settings import AlertingSettings


class GroupKey(NamedTuple):
    """What one notification is about."""

    detector: str
    kind: str
    owner: str


@dataclass(slots=True)
class Group:
    """What was said of a group, and what is still to be said. Times are event time, 0 = never."""

    last_sent_ns: int = 0
    waiting_since_ns: int = 0
    waiting: set[str] = field(default_factory=set)  # ids that fire and were not told yet
    told: set[str] = field(default_factory=set)  # ids that fire and were told
    ended: list[Alert] = field(default_factory=list)  # resolved after having been told

    def is_over(self) -> bool:
        """Tell whether nothing of it fires and nothing is left to be said."""
        return not (self.waiting or self.told or self.ended)


class Grouping:
    """Decides at every tick which notifications are due; a function of the ticks alone."""

    def __init__(self, settings: AlertingSettings, resume: list[dict[str, Any]] | None) -> None:
        self._settings = settings
        self._groups: dict[GroupKey, Group] = {}
        for saved in resume or []:
            group = Group(saved["last_sent_ns"], saved["waiting_since_ns"])
            group.waiting, group.told = set(saved["waiting"]), set(saved["told"])
            group.ended = [from_json(alert) for alert in saved["ended"]]
            self._groups[GroupKey(*saved["key"])] = group

    def take(self, fired: Iterable[Alert], resolved: Iterable[Alert], now_ns: int) -> None:
        """Take in what a tick changed. An alert that ends before it was told of is never told of."""
        for alert in fired:
            group = self._groups.setdefault(_key(alert), Group())
            group.waiting.add(alert.alert_id)
            group.waiting_since_ns = group.waiting_since_ns or now_ns
        for alert in resolved:
            group = self._groups[_key(alert)]
            group.waiting.discard(alert.alert_id)
            if alert.alert_id in group.told:
                group.told.remove(alert.alert_id)
                group.ended.append(alert)
                group.waiting_since_ns = group.waiting_since_ns or now_ns

    def is_due(self, now_ns: int) -> bool:
        """Tell whether `due` can do anything at all now; most ticks need not look at each alert that fires."""
        return any(group.is_over() or self._time_has_come(group, now_ns) for group in self._groups.values())

    def due(self, firing: Mapping[str, Alert], now_ns: int) -> list[Notification]:
        """Return what is to be said now, firing before resolved within a group; `firing` holds all alerts that fire."""
        out: list[Notification] = []
        for key in sorted(self._groups):
            group = self._groups[key]
            members = [firing[name] for name in sorted(group.waiting | group.told) if name in firing]
            if self._is_time(group, members, now_ns):
                out += self._tell(key, group, members, now_ns)
            if group.is_over():
                del self._groups[key]
        return out

    def _time_has_come(self, group: Group, now_ns: int) -> bool:
        settings = self._settings
        since_sent_ns = now_ns - group.last_sent_ns
        if not (group.waiting or group.ended):
            return since_sent_ns >= int(settings.repeat_interval_s * 1e9)
        early = group.last_sent_ns and since_sent_ns < int(settings.group_interval_s * 1e9)
        return now_ns - group.waiting_since_ns >= int(settings.group_wait_s * 1e9) and not early

    def _is_time(self, group: Group, members: list[Alert], now_ns: int) -> bool:
        if not self._time_has_come(group, now_ns) or not (group.waiting or group.ended or members):
            return False
        rate = _total(alert.usd_per_hour for alert in members)
        return bool(group.ended) or rate is None or rate >= self._settings.usd_per_hour_min

    def _tell(self, key: GroupKey, group: Group, members: list[Alert], now_ns: int) -> list[Notification]:
        out = []
        fresh = [alert for alert in members if alert.alert_id in group.waiting]
        if fresh:
            out.append(self._notification("firing", key, fresh, members, now_ns))
        elif members and not group.ended:
            out.append(self._notification("repeat", key, members, members, now_ns))
        if group.ended and self._settings.send_resolved:
            out.append(self._notification("resolved", key, group.ended, group.ended, now_ns))
        group.told |= group.waiting
        group.waiting, group.ended = set(), []
        group.waiting_since_ns, group.last_sent_ns = 0, now_ns
        return out

    def _notification(
        self, reason: str, key: GroupKey, shown: list[Alert], everyone: list[Alert], now_ns: int
    ) -> Notification:
        ids = ",".join(sorted(alert.alert_id for alert in shown))
        text = f"{reason}|{key.detector}|{key.kind}|{key.owner}|{now_ns}|{ids}"
        ranked = sorted(shown, key=lambda alert: (-(alert.usd_per_hour or 0.0), alert.entity_key))
        return Notification(
            notification_id=hashlib.sha256(text.encode()).hexdigest()[:32],
            reason=reason,
            status=AlertStatus.RESOLVED if reason == "resolved" else AlertStatus.FIRING,
            detector=key.detector,
            kind=key.kind,
            severity=shown[0].severity,
            owner=key.owner,
            event_time_ns=now_ns,
            title=shown[0].summary,
            action=shown[0].action,
            alert_count=len(everyone),
            usd_per_hour=_total(alert.usd_per_hour for alert in everyone),
            usd_so_far=_total(alert.usd_so_far for alert in everyone),
            alerts=tuple(ranked[: self._settings.alerts_per_notification_max]),
        )

    def quiet(self) -> bool:
        """Tell whether nothing is left to be said."""
        return not self._groups

    def snapshot(self) -> list[dict[str, Any]]:
        """Return all groups as plain JSON, in order of their keys."""
        return [
            {
                "key": list(key),
                "last_sent_ns": group.last_sent_ns,
                "waiting_since_ns": group.waiting_since_ns,
                "waiting": sorted(group.waiting),
                "told": sorted(group.told),
                "ended": [to_json(alert) for alert in group.ended],
            }
            for key, group in sorted(self._groups.items())
        ]


def _key(alert: Alert) -> GroupKey:
    return GroupKey(alert.detector, alert.kind, alert.owner)


def _total(amounts: Iterable[float | None]) -> float | None:
    """Add up what is known; None when nothing is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None
