"""The reporter: tells readers, after ticks and rounds, what the fleet and the service are like."""

from __future__ import annotations

import math

from service.alerting.deliver import Deliverer
from service.clock import Clock
from service.metrics import LoopTimings
from service.pipeline.loop import Loop
from service.pipeline.present import Presenter
from service.pipeline.worker import TickOutcome, Worker
from service.settings import Settings
from service.view import RECORD_OUTCOMES, SAMPLE_OUTCOMES, PartitionStatus, Publisher, ServiceStatus
from service.watchdog import Watchdog

VIEW_INTERVAL_S = 0.5  # a page asks every two seconds; more views than that nobody sees
VIEW_SHARE_MAX = (
    0.05  # of the loop's time: 40 ms for the view of a million GPUs are bought back by seeing fewer of them
)
STATUS_INTERVAL_S = 0.25


class Reporter:
    """Publishes views and status at most as often as they can be read, and feeds the watchdog."""

    def __init__(
        self,
        publisher: Publisher,
        timings: LoopTimings,
        settings: Settings,
        deliverer: Deliverer,
        watchdog: Watchdog,
        clock: Clock,
    ) -> None:
        self._publisher = publisher
        self._timings = timings
        self._settings = settings
        self._deliverer = deliverer
        self._watchdog = watchdog
        self._clock = clock
        self._presenter = Presenter()
        self._view_s: float | None = None
        self._view_interval_s = VIEW_INTERVAL_S
        self._status_s: float | None = None
        self._shown_ns = 0
        self._trouble = ""

    def on_tick(self, worker: Worker, outcome: TickOutcome) -> None:
        """Take note of a closed tick."""
        self._watchdog.tick()
        self._timings.tick.observe(outcome.seconds)
        self._presenter.note_resolved(outcome.resolved)

    def on_checkpoint(self, seconds: float) -> None:
        """Take note of a durable checkpoint."""
        self._timings.checkpoint.observe(seconds)

    def on_trouble(self, what: str) -> None:
        """Say that the service waits for something, and is not ready meanwhile."""
        self._watchdog.tick()
        self._trouble = what
        status = self._publisher.status
        self._publisher.publish_status(ServiceStatus(**{**status.__dict__, "ready": False, "reasons": (what,)}))

    def on_round(self, loop: Loop) -> None:
        """Publish what has changed since the last time; before the first round, what a resumed state holds."""
        self._watchdog.tick()
        self._deliverer.raise_if_failed()
        self._trouble = ""
        now_s = self._clock.monotonic_s()
        worker = loop.worker
        due = self._view_s is None or now_s - self._view_s >= self._view_interval_s or loop.finished
        if due and worker.as_of_ns() > self._shown_ns:
            self._publisher.publish_view(self._presenter.view(worker))
            self._view_s, self._shown_ns = now_s, worker.as_of_ns()
            took_s = self._clock.monotonic_s() - now_s
            self._view_interval_s = max(VIEW_INTERVAL_S, took_s / VIEW_SHARE_MAX)
        if self._status_s is None or now_s - self._status_s >= STATUS_INTERVAL_S or loop.finished:
            self._publisher.publish_status(self._status(loop))
            self._status_s = now_s

    def _status(self, loop: Loop) -> ServiceStatus:
        reasons = self._reasons(loop)
        delivery = self._deliverer.snapshot()
        outcomes = loop.intake.outcomes
        worker = loop.worker
        room = loop.dead_letters.room()
        return ServiceStatus(
            ready=not reasons,
            reasons=reasons,
            source_kind=self._settings.source.kind,
            source_ended=loop.finished,
            tick_s=self._settings.fleet.tick_s,
            silent_after_s=self._silent_after_s(loop.source.live),
            records={name: outcomes[name] for name in RECORD_OUTCOMES},
            samples={name: outcomes[name] for name in SAMPLE_OUTCOMES},
            dead_letters=dict(loop.intake.letters_by_reason),
            dead_letter_bytes=room.used_bytes,
            dead_letter_bytes_max=room.bytes_max,
            dead_letters_dropped=room.dropped_letters,
            partitions=self._partitions(loop),
            watermark_ns=worker.as_of_ns() or None,
            pending_rows=worker.pending.rows,
            receivers=tuple(sorted({receiver for receiver, _ in delivery.outcomes})),
            notifications=delivery.outcomes,
            outbox_rows=sum(delivery.waiting.values()),
            entities=len(worker.entities),
            entities_max=self._settings.fleet.entities_max,
            data_gap_records=outcomes["data_gap_records"],
            checkpoints=loop.checkpoints,
            checkpoint_at_ns=loop.checkpoint_at_ns,
        )

    def _silent_after_s(self, live: bool) -> float:
        """Return how long no tick may close until the GPUs count as silent, on the machine's clock.

        Event time says nothing of that: a backlog is older, and a simulated fleet runs at its own speed. What ticks
        wait for comes on top. A finite input is not expected to go on.
        """
        fleet, ingest, simulate = self._settings.fleet, self._settings.ingest, self._settings.source.simulate
        if not live:
            return math.inf
        allowed_s = fleet.stale_after_s + fleet.tick_s + ingest.lateness_max_s + ingest.idle_partition_s
        slow = self._settings.source.kind == "simulate" and 0 < simulate.speed < 1
        return allowed_s / simulate.speed if slow else allowed_s

    def _reasons(self, loop: Loop) -> tuple[str, ...]:
        if not loop.source.assigned():
            return ("no partition is assigned yet",)
        why_full = loop.dead_letters.room().why_full
        return (why_full,) if why_full else ()

    @staticmethod
    def _partitions(loop: Loop) -> tuple[PartitionStatus, ...]:
        paused = loop.paused()
        watermarks = loop.worker.watermarks
        rows = []
        for partition in sorted(loop.source.assigned()):
            watermark_ns = watermarks.watermark_ns(partition)
            rows.append(
                PartitionStatus(
                    partition.topic,
                    partition.partition,
                    next_offset=watermarks.next_offset(partition) or 0,
                    lag_records=loop.source.behind(partition),
                    watermark_ns=watermark_ns if watermark_ns >= 0 else None,
                    paused=partition in paused,
                )
            )
        return tuple(rows)
