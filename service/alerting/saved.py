"""A notification as text in the outbox, and the key of the group within which order is kept."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import msgspec

from service.alerting.contract import Alert, Notification

_DECODER = msgspec.json.Decoder(Notification)


_HALF_PAIR = re.compile("[\ud800-\udfff]")


class UnreadableRow(Exception):
    """A stored text is not a notification (any more)."""


def group_key(notification: Notification) -> str:
    """Return the key within which firing comes before resolved; severity may change meanwhile and is no part of it."""
    group = (notification.detector, notification.kind, notification.owner)
    return _json(group)


def encode_notification(notification: Notification) -> str:
    """Return `notification` as JSON. JSON has no NaN: such a figure becomes the word unknown, such dollars None."""
    plain = replace(
        notification,
        usd_per_hour=_finite(notification.usd_per_hour),
        usd_so_far=_finite(notification.usd_so_far),
        alerts=tuple(_plain_alert(alert) for alert in notification.alerts),
    )
    return _json(plain)


def _json(value: Any) -> str:
    """Return JSON; half a surrogate pair, which no encoding can hold, becomes the replacement character."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_whole(msgspec.to_builtins(value))).decode()


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF_PAIR.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list | tuple) else value


def decode_notification(text: str) -> Notification:
    """Return the notification that `text` holds, or raise UnreadableRow."""
    try:
        return _DECODER.decode(text)
    except msgspec.MsgspecError as error:
        raise UnreadableRow(str(error)) from None


def _plain_alert(alert: Alert) -> Alert:
    return replace(
        alert,
        usd_per_hour=_finite(alert.usd_per_hour),
        usd_so_far=_finite(alert.usd_so_far),
        evidence={
            name: value if isinstance(value, str) or math.isfinite(value) else "unknown"
            for name, value in alert.evidence.items()
        },
    )


def _finite(usd: float | None) -> float | None:
    return usd if usd is not None and math.isfinite(usd) else None
