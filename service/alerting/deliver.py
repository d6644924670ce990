"""The deliverer: a thread per receiver that sends what lies in the outbox, so that no receiver can delay another."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from service.alerting.contract import Notifier
from service.alerting.lane import Lane, Observe
from service.alerting.outbox import Outbox
from service.clock import Clock
from service.errors import Unavailable
from service.settings import AlertingSettings

OUTCOMES = ("delivered", "retried", "rejected", "expired")
_NS = 1_000_000_000
_PRUNE_INTERVAL_S = 60.0
_LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliverySnapshot:
    """Counters since the start, by (receiver, outcome), and what waits now, by receiver."""

    outcomes: Mapping[tuple[str, str], int]
    waiting: Mapping[str, int]
    oldest_waiting_s: float  # wall time since the oldest waiting message was put; 0 without one


class Deliverer:
    """Sends until stopped. `start` runs a thread per receiver; tests call `step` instead.

    What is put for a receiver that the configuration no longer has stays until it expires.
    """

    def __init__(
        self,
        outbox: Outbox,
        notifiers: Mapping[str, Notifier],
        clock: Clock,
        settings: AlertingSettings,
        observe: Observe | None = None,
        seed: int = 0,
    ) -> None:
        """`notifiers` by receiver name; `observe` is called for every attempt, on the receiver's thread."""
        self._outbox = outbox
        self._clock = clock
        self._settings = settings
        self._observe = observe or _unobserved
        self._wake = threading.Condition()
        self._puts = 0
        self._stopping = False
        self._failure: BaseException | None = None
        self._outcomes = Counter({(name, outcome): 0 for name in notifiers for outcome in OUTCOMES})
        self._next_prune_s = clock.monotonic_s()
        self._lanes = [
            Lane(name, notifier, outbox, clock, random.Random(f"{seed}/{name}"), self._count)
            for name, notifier in notifiers.items()
        ]
        self._threads: list[threading.Thread] = []
        outbox.on_put(self.wake)

    def start(self) -> None:
        """Begin to send."""
        for lane in self._lanes:
            # Daemons: a receiver that never answers must not keep the process; its row is found at the next start.
            thread = threading.Thread(target=self._run, args=(lane,), name=f"deliver-{lane.receiver}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, deadline_s: float) -> bool:
        """Finish the attempts under way and end; False if some took longer than deadline_s and were left behind."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        end_s = self._clock.monotonic_s() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - self._clock.monotonic_s()))
        late = [thread.name for thread in self._threads if thread.is_alive()]
        if late:
            _LOG.warning("receivers still busy at the end", threads=late)
        return not late

    def wake(self) -> None:
        """Look at the outbox again now; the outbox calls this after each put."""
        with self._wake:
            self._puts += 1
            self._wake.notify_all()

    def step(self) -> float | None:
        """Let every lane send at most one message; return seconds until more may be due, None if nothing waits."""
        waits = [wait_s for lane in self._lanes if (wait_s := self._step(lane)) is not None]
        return min(waits, default=None)

    def raise_if_failed(self) -> None:
        """Raise what ended a thread, e.g. CorruptState of the outbox; the loop calls this each round."""
        if self._failure is not None:
            raise self._failure

    def snapshot(self) -> DeliverySnapshot:
        """Return what metrics show. Unavailable if the outbox cannot be read."""
        oldest_ns = self._outbox.oldest_enqueued_ns()
        age_s = 0.0 if oldest_ns is None else max(0.0, (self._clock.now_ns() - oldest_ns) / _NS)
        with self._wake:
            outcomes = dict(self._outcomes)
        return DeliverySnapshot(outcomes, self._outbox.counts(), age_s)

    def _run(self, lane: Lane) -> None:
        try:
            while not self._stopping:
                seen = self._puts
                self._rest(seen, self._step(lane))
        except BaseException as error:  # nobody waits for this thread: the loop finds the error and ends the process
            self._failure = error
            _LOG.exception("delivery ended", receiver=lane.receiver)

    def _rest(self, seen: int, wait_s: float | None) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._puts != seen, wait_s)

    def _step(self, lane: Lane) -> float | None:
        expiry_s = self._expire()
        wait_s = lane.step()
        return min((s for s in (expiry_s, wait_s) if s is not None), default=None)

    def _expire(self) -> float | None:
        """Give up what is too old, prune now and then, and return seconds until the next message gets too old."""
        try:
            return self._until_expiry_s()
        except Unavailable as error:
            _LOG.warning("outbox unavailable", detail=str(error))
            return None

    def _until_expiry_s(self) -> float | None:
        now_ns = self._clock.now_ns()
        oldest_ns = self._outbox.oldest_enqueued_ns()
        if self._clock.monotonic_s() >= self._next_prune_s:
            self._next_prune_s = self._clock.monotonic_s() + _PRUNE_INTERVAL_S
            self._outbox.prune(now_ns)
        if oldest_ns is None:
            return None
        left_s = (oldest_ns - now_ns) / _NS + self._settings.expire_after_s
        if left_s > 0:
            return left_s
        expired = self._outbox.expire(now_ns)
        for row in expired:
            _LOG.error(
                "notification expired",
                receiver=row.receiver,
                notification_id=row.notification_id,
                attempts=row.attempts,
            )
            self._count(row.receiver, "expired", 0.0)
        # Nothing expires although it is time: the oldest is being sent right now, and its own lane will look again.
        return 0.0 if expired else None

    def _count(self, receiver: str, outcome: str, seconds: float) -> None:
        with self._wake:
            self._outcomes[receiver, outcome] += 1
        self._observe(receiver, outcome, seconds)


def _unobserved(receiver: str, outcome: str, seconds: float) -> None:
    """Stand in where nobody measures."""
