"""A notification as JSON for machines, the same for every notifier that sends JSON, and never larger than asked for."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from service.alerting.contract import Alert, Notification
from service.alerting.render import NAME_CHARS_MAX, TEXT_CHARS_MAX, clean, headline
from service.alerting.uncertain import PossibleRepeat

# Standard Webhooks asks for less than 20 kB.
PAYLOAD_BYTES_MAX = 19_999
EVIDENCE_MAX = 24
_LABEL_CHARS_MAX = 256


def encode_payload(notification: Notification, page_url: str) -> bytes:
    """Return `{"type", "timestamp", "data"}` as UTF-8; alerts that do not fit are left out, the counts stay true."""
    data = _data(notification, page_url)
    whole = {
        "type": f"skinflint.alert.{notification.reason}",
        "timestamp": _instant(notification.event_time_ns),
        "data": data,
    }
    room = PAYLOAD_BYTES_MAX - len(msgspec.json.encode(whole)) - len(str(len(notification.alerts)))
    listed = []
    for alert in notification.alerts:
        entry = msgspec.json.encode(_alert(alert))
        room -= len(entry) + 1
        if room < 0:
            break
        listed.append(msgspec.Raw(entry))
    data |= {"listed_count": len(listed), "alerts": listed}
    return msgspec.json.encode(whole)


def _data(notification: Notification, page_url: str) -> dict[str, Any]:
    return {
        "notification_id": notification.notification_id,
        "reason": notification.reason,
        "status": notification.status.value,
        "detector": notification.detector,
        "kind": notification.kind,
        "severity": notification.severity,
        "owner": clean(notification.owner, _LABEL_CHARS_MAX),
        "title": headline(notification),
        "summary": clean(notification.title, TEXT_CHARS_MAX),
        "action": clean(notification.action, TEXT_CHARS_MAX),
        "usd_per_hour": notification.usd_per_hour,
        "usd_so_far": notification.usd_so_far,
        "page_url": page_url or None,
        "possible_repeat": isinstance(notification, PossibleRepeat),
        "alert_count": notification.alert_count,
        "listed_count": 0,
        "alerts": [],
    }


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "alert_id": alert.alert_id,
        "entity": clean(alert.entity_key, _LABEL_CHARS_MAX),
        "opened_at": _instant(alert.opened_ns),
        "fired_at": _instant(alert.fired_ns),
        "ended_at": None if alert.ended_ns is None else _instant(alert.ended_ns),
        "as_of": _instant(alert.as_of_ns),
        "usd_per_hour": alert.usd_per_hour,
        "usd_so_far": alert.usd_so_far,
        "confidence": alert.confidence,
        "labels": {name: clean(value, _LABEL_CHARS_MAX) for name, value in alert.labels._asdict().items() if value},
        "evidence": {
            clean(name, NAME_CHARS_MAX): clean(value, NAME_CHARS_MAX) if isinstance(value, str) else value
            for name, value in list(alert.evidence.items())[:EVIDENCE_MAX]
        },
    }


def _instant(time_ns: int) -> str | None:
    """Return RFC 3339 with milliseconds; None for a time that no calendar has."""
    try:
        instant = datetime.datetime.fromtimestamp(time_ns // 1_000_000 / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
