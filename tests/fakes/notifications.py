"""Notifications and alerts for tests, with any field changed at will."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detectors.labels import LabelSet
from service.alerting.contract import Alert, AlertStatus, Notification
from tests.fakes.clock import NOON_NS

_HOUR_NS = 3600 * 10**9

LABELS = LabelSet(
    cluster="east-1",
    node="node-3",
    gpu="2",
    uuid="GPU-5c1d",
    model="NVIDIA H100 80GB HBM3",
    namespace="vision",
    pod="train-0",
)


def alert(**changes: Any) -> Alert:
    """Return an alert of a GPU that has held memory for five hours."""
    usual = Alert(
        alert_id="a" * 32,
        detector="idle_waste",
        kind="idle_held",
        severity="warning",
        status=AlertStatus.FIRING,
        entity_key="GPU-5c1d",
        labels=LABELS,
        owner="vision",
        opened_ns=NOON_NS - 5 * _HOUR_NS,
        fired_ns=NOON_NS - 4 * _HOUR_NS,
        ended_ns=None,
        as_of_ns=NOON_NS,
        usd_per_hour=3.2,
        usd_so_far=16.0,
        confidence=0.9,
        summary="Memory is held and nothing is computed.",
        action="Unload the model.",
        evidence={"duty_ratio": 0.0, "signal": "sm"},
    )
    return replace(usual, **changes)


def notification(name: str = "n1", **changes: Any) -> Notification:
    """Return a notification with the id `name` about one alert."""
    usual = Notification(
        notification_id=name,
        reason="firing",
        status=AlertStatus.FIRING,
        detector="idle_waste",
        kind="idle_held",
        severity="warning",
        owner="vision",
        event_time_ns=NOON_NS,
        title="Memory is held and nothing is computed.",
        action="Unload the model.",
        alert_count=1,
        usd_per_hour=3.2,
        usd_so_far=16.0,
        alerts=(alert(),),
    )
    return replace(usual, **changes)


def resolved(name: str, **changes: Any) -> Notification:
    """Return the notification that the episode of `notification` is over."""
    ended = alert(status=AlertStatus.RESOLVED, ended_ns=NOON_NS)
    fields = {"reason": "resolved", "status": AlertStatus.RESOLVED, "alerts": (ended,)}
    return notification(name, **(fields | changes))


def enormous(name: str = "huge") -> Notification:
    """Return a notification that lists 10,000 GPUs, with names as long as anybody may send."""
    labels = LABELS._replace(pod="p" * 10_000, node="n" * 300)
    alerts = tuple(alert(alert_id=f"{i:032x}", entity_key=f"GPU-{i}", labels=labels) for i in range(10_000))
    return notification(name, alert_count=10_000, alerts=alerts)


# What could call a channel, name a person, hide a link, break a line, turn the reading direction, or end a JSON string.
HOSTILE = '<!channel> <@U123> <https://evil.example|bank> *b* `c` & "q"\\\n\r\x1b[31m\u202eabc\u200b\x00\ud800'


def hostile(name: str = "evil") -> Notification:
    """Return a notification in which every text that comes from outside is hostile."""
    evil = alert(
        entity_key=HOSTILE,
        labels=LABELS._replace(node=HOSTILE, pod=HOSTILE, namespace=HOSTILE, model=HOSTILE),
        owner=HOSTILE,
        evidence={HOSTILE: HOSTILE},
    )
    return notification(name, owner=HOSTILE, alerts=(evil,))
