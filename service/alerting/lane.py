"""A lane: one receiver's messages, sent one at a time, at its pace, and postponed when it fails."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from service.alerting.contract import Delivery, Notification, Notifier, Outcome
from service.alerting.outbox import RETRY_AFTER_S_MAX, Mark, Outbox, OutboxRow, RowStatus
from service.alerting.pace import backoff_s
from service.alerting.saved import UnreadableRow, decode_notification
from service.alerting.uncertain import UncertainDelivery, possible_repeat
from service.clock import Clock
from service.errors import Unavailable

_NS = 1_000_000_000
_DETAIL_CHARS_MAX = 500
_LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Observe = Callable[[str, str, float], None]
"""(receiver, outcome of OUTCOMES, seconds) of each attempt, and of each message given up."""


class Lane:
    """Sends what is due for one receiver. Only one thread may step it.

    A failure postpones the message, and, for half as long, the receiver: so a receiver that is down is asked rarely,
    and a single message that it cannot stomach does not hold up the others.
    """

    def __init__(
        self,
        receiver: str,
        notifier: Notifier,
        outbox: Outbox,
        clock: Clock,
        rng: random.Random,
        observe: Observe,
    ) -> None:
        self.receiver = receiver
        self._notifier = notifier
        self._outbox = outbox
        self._clock = clock
        self._rng = rng
        self._observe = observe
        self._ready_at_s = clock.monotonic_s()
        self._failures = 0
        self._unsaved: Mark | None = None

    def step(self) -> float | None:
        """Send at most one message; return seconds until there may be more to do, None while nothing waits.

        A full disk or a locked database is waited out; what was sent but could not be marked is marked first.
        """
        left_s = self._ready_at_s - self._clock.monotonic_s()
        if left_s > 0:
            return left_s
        try:
            return self._send_one()
        except Unavailable as error:
            self._failures += 1
            self._pause(backoff_s(self._failures, self._rng))
            _LOG.warning("outbox unavailable", receiver=self.receiver, detail=str(error))
            return max(0.0, self._ready_at_s - self._clock.monotonic_s())

    def _send_one(self) -> float | None:
        self._save()
        row = self._outbox.due(self.receiver, self._clock.now_ns())
        if row is None:
            return self._until_next_s()
        self._outbox.mark_sending(row)
        began_s = self._clock.monotonic_s()
        self._ready_at_s = began_s + 1.0 / self._notifier.rate_per_s_max
        delivery = self._attempt(row)
        self._unsaved = self._judge(row, delivery)
        self._observe(self.receiver, _count_as(delivery), self._clock.monotonic_s() - began_s)
        self._save()
        return max(0.0, self._ready_at_s - self._clock.monotonic_s())

    def _attempt(self, row: OutboxRow) -> Delivery:
        try:
            notification = decode_notification(row.body)
        except UnreadableRow as error:
            return Delivery(Outcome.REJECTED, f"the stored message cannot be read: {error}")
        if row.possible_repeat:
            notification = possible_repeat(notification)
        return self._send(notification)

    def _send(self, notification: Notification) -> Delivery:
        try:
            return self._notifier.send(notification)
        except Exception:  # a bug of one notifier must not silence the others; it is logged and the message kept
            _LOG.exception(
                "notifier raised",
                receiver=self.receiver,
                notification_id=notification.notification_id,
            )
            return UncertainDelivery(Outcome.RETRY, "the notifier raised; see the log")

    def _judge(self, row: OutboxRow, delivery: Delivery) -> Mark:
        detail = delivery.detail[:_DETAIL_CHARS_MAX]
        facts = {
            "receiver": self.receiver,
            "notification_id": row.notification_id,
            "attempt": row.attempts + 1,
            "detail": detail,
        }
        if delivery.outcome is Outcome.RETRY:
            wait_s = self._postpone(row, delivery)
            _LOG.warning("notification postponed", wait_s=round(wait_s, 1), **facts)
            until_ns = self._clock.now_ns() + round(wait_s * _NS)
            uncertain = isinstance(delivery, UncertainDelivery)
            return Mark(row, RowStatus.PENDING, detail, until_ns, uncertain)
        self._failures = 0
        if delivery.outcome is Outcome.DELIVERED:
            _LOG.info("notification delivered", **facts)
            return Mark(row, RowStatus.DELIVERED, detail)
        _LOG.error("notification rejected", **facts)
        return Mark(row, RowStatus.REJECTED, detail)

    def _postpone(self, row: OutboxRow, delivery: Delivery) -> float:
        """Pause the receiver, and return for how long the message is put off."""
        self._failures += 1
        if delivery.retry_after_s is not None:
            wait_s = min(max(delivery.retry_after_s, 0.0), RETRY_AFTER_S_MAX)
            self._pause(wait_s)
            return wait_s
        self._pause(backoff_s(self._failures, self._rng) / 2)
        return backoff_s(row.attempts + 1, self._rng)

    def _pause(self, seconds: float) -> None:
        self._ready_at_s = max(self._ready_at_s, self._clock.monotonic_s() + seconds)

    def _save(self) -> None:
        if self._unsaved is not None:
            self._outbox.mark(self._unsaved)
            self._unsaved = None

    def _until_next_s(self) -> float | None:
        next_ns = self._outbox.next_attempt_ns(self.receiver)
        return None if next_ns is None else max(0.0, (next_ns - self._clock.now_ns()) / _NS)


def _count_as(delivery: Delivery) -> str:
    return "retried" if delivery.outcome is Outcome.RETRY else delivery.outcome.value
