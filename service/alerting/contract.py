"""What alerting promises: a Notification is data, a Notifier sends it once and says what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from detectors.labels import LabelSet


class AlertStatus(StrEnum):
    """Lifecycle of an alert."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """One tracked episode of one finding on one entity, with the numbers as of `as_of_ns` (event time).

    `alert_id` comes from entity, detector, kind and `opened_ns` alone. Dollars are None where the price is unknown.
    `evidence` holds the figures and windows that the finding used, in display order.
    """

    alert_id: str
    detector: str
    kind: str
    severity: str
    status: AlertStatus
    entity_key: str
    labels: LabelSet
    owner: str
    opened_ns: int
    fired_ns: int
    ended_ns: int | None
    as_of_ns: int
    usd_per_hour: float | None
    usd_so_far: float | None
    confidence: float
    summary: str
    action: str
    evidence: Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class Notification:
    """One message about many alerts of one kind and one owner. Everything in it is event time and data: replays give the same."""

    notification_id: str
    reason: str  # "firing", "repeat" or "resolved"
    status: AlertStatus  # FIRING or RESOLVED, the same for all its alerts
    detector: str
    kind: str
    severity: str
    owner: str
    event_time_ns: int
    title: str
    action: str
    alert_count: int  # of the whole group, also those left out of `alerts`
    usd_per_hour: float | None  # of the whole group
    usd_so_far: float | None
    alerts: tuple[Alert, ...]  # the most expensive first, at most alerts_per_notification_max


class Outcome(StrEnum):
    """What came of one attempt to send."""

    DELIVERED = "delivered"
    RETRY = "retry"  # may work later: connection refused, 429, 5xx, timeout
    REJECTED = "rejected"  # will never work: 400, 404, 410, a URL the guard refuses


@dataclass(frozen=True, slots=True)
class Delivery:
    """Outcome of one attempt; `retry_after_s` only where the receiver asked for it. `detail` never holds a secret."""

    outcome: Outcome
    detail: str = ""
    retry_after_s: float | None = None


class Notifier(Protocol):
    """One destination. Sends once, never retries, never raises for what the other side does."""

    type: ClassVar[str]  # key in NOTIFIERS and in config.yaml
    rate_per_s_max: ClassVar[float]  # most messages a second that the destination takes

    def send(self, notification: Notification) -> Delivery:
        """Try to deliver; the destination, which alone knows, says whether trying again makes sense."""
        ...
