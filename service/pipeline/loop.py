"""The loop: poll, take in, close ticks, send off, checkpoint. One thread, one order of things."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from service.alerting.contract import Notification
from service.clock import Clock
from service.errors import ConfigError, ConfigProblem, Unavailable
from service.ingest.breaker import Breaker
from service.ingest.contract import Source, TopicPartition
from service.ingest.letters import DeadLetters, Letters
from service.logs import get_logger
from service.pipeline.ahead import DecodingAhead
from service.pipeline.checkpoint import CheckpointStore
from service.pipeline.idleness import Idleness
from service.pipeline.intake import Intake
from service.pipeline.saver import Saver
from service.pipeline.worker import TickOutcome, Worker
from service.settings import Settings

log = get_logger(__name__)

POLL_S = 0.5
HELD_POLL_S = 0.005  # while a tick waits for a checkpoint to be read, which writes 4 MB in that time
TICKS_PER_ROUND_MAX = 200  # so that a long gap in event time does not keep the loop from polling
BACKOFF_FIRST_S, BACKOFF_LAST_S = 0.2, 5.0

T = TypeVar("T")


class _Abandoned(Exception):
    """Told to stop while something was unavailable: what was taken in since the last checkpoint is not safe yet."""


class Outlet(Protocol):
    """Where notifications go; they are durable when `put` returns. Raises Unavailable."""

    def put(self, notifications: Sequence[Notification]) -> None: ...

    def full(self) -> bool:
        """Tell whether reading should wait until something was delivered."""
        ...


class Observer(Protocol):
    """Sees the loop's progress; never changes it."""

    def on_tick(self, worker: Worker, outcome: TickOutcome) -> None: ...

    def on_round(self, loop: Loop) -> None:
        """The loop came round."""
        ...

    def on_checkpoint(self, seconds: float) -> None:
        """A checkpoint is durable; it took so long."""
        ...

    def on_trouble(self, what: str) -> None:
        """Something is unavailable; the loop goes on trying."""
        ...


class Loop:
    """Runs until `stop` is set or a finite input has ended.

    What a crash costs: everything after the last checkpoint is read again, and gives the same states, the same alert
    ids and the same dead letters. Order within a round: letters before checkpoint, notifications before checkpoint,
    checkpoint before commit.

    A checkpoint is a cut between two rounds, at most one at a time: the saver writes it while rounds go on, a later round
    takes note that it is durable, and only then are its offsets committed. See `Cut` for how ticks wait for it.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        intake: Intake,
        worker: Worker,
        dead_letters: DeadLetters,
        breaker: Breaker,
        ahead: DecodingAhead,
        outlet: Outlet,
        store: CheckpointStore | None,
        observers: Sequence[Observer],
        clock: Clock,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self.source = source
        self.intake = intake
        self.worker = worker
        self.dead_letters = dead_letters
        self._breaker = breaker
        self._ahead = ahead
        self._outlet = outlet
        self._saver = Saver(store, clock) if store is not None else None
        self._observers = observers
        self._clock = clock
        self._stop = stop
        self._idleness = Idleness(settings.ingest.idle_partition_s)
        self._idle: frozenset[TopicPartition] = frozenset()
        self._sought: set[TopicPartition] = set()
        self._checkpointed_s = clock.monotonic_s()
        self._changed = False
        self._held = False  # a tick is due, and a checkpoint still reads the state that it would change
        self.checkpoints = 0
        self.checkpoint_at_ns: int | None = None
        self.finished = False

    def run(self) -> None:
        """Go round until told to stop; then take a last checkpoint."""
        try:
            while not self._stop.is_set() and not self.finished:
                self._round()
            self._note_saved(wait=True)
            if self._changed:
                self._checkpoint()
                self._note_saved(wait=True)
        except _Abandoned:
            log.warning("stopped without a last checkpoint; the rows since the one before are read again")
        finally:
            self._ahead.close()
            if self._saver is not None:
                self._saver.close()

    def _round(self) -> None:
        self._note_saved(wait=False)
        self._assign()
        # With something underway or held back there is work to do: a poll that waits would only delay it.
        wait_s = 0.0 if self._ahead.partitions() else HELD_POLL_S if self._held else POLL_S
        batches = self._insist("source", lambda: self.source.poll(wait_s, self.paused()))
        for gap in self.source.gaps():
            self.intake.note_gap(gap)
        self._ahead.put(batches, self.intake.decode)
        crowded = self.intake.knows_too_many()
        busy = self._take(everything=crowded)
        if crowded:
            self.intake.forget_label_sets()
        idle = self._idleness.update(self.source, busy, self._clock.monotonic_s())
        self._idle = idle - self._ahead.partitions()
        closed = self._advance()
        self._changed |= bool(batches) or bool(busy) or closed > 0
        if not (batches or self._ahead.partitions() or self._held) and closed < TICKS_PER_ROUND_MAX:
            self._finish_if_ended()
        elapsed_s = self._clock.monotonic_s() - self._checkpointed_s
        if self._changed and not self._saving() and elapsed_s >= self._settings.state.checkpoint_interval_s:
            self._checkpoint()
        for observer in self._observers:
            observer.on_round(self)

    def _saving(self) -> bool:
        return self._saver is not None and self._saver.busy()

    def _advance(self) -> int:
        """Close the ticks that are due, unless a checkpoint still reads what they would change."""
        self._held = False
        if self._saver is not None and self._saver.busy():
            if not self.worker.is_due(self._idle):
                return 0
            self._held = not self._saver.release()
        return 0 if self._held else self.worker.advance(self._idle, self._on_tick, TICKS_PER_ROUND_MAX)

    def _assign(self) -> None:
        assigned = self.source.assigned()
        taken = self._sought - assigned
        if assigned != self._sought:
            self._take(everything=True)  # where a partition goes on is known once all of it was taken in
        # All gone at once is a lost connection: they come back. Some gone means that somebody else has them.
        if taken and assigned:
            names = ", ".join(f"{topic}-{partition}" for topic, partition in sorted(taken))
            message = (
                f"partitions {names} went to another member of the group; expected to be its only member: "
                "with state on a local disk one process reads all partitions"
            )
            raise ConfigError([ConfigProblem("source.kafka.group_id", message)])
        for partition in sorted(assigned - self._sought):
            self.source.seek(partition, self.worker.watermarks.next_offset(partition))
        self.worker.watermarks.assign(assigned)
        self._sought = set(assigned)

    def paused(self) -> frozenset[TopicPartition]:
        """Return the partitions that must wait now."""
        if self._outlet.full() or self.dead_letters.room().why_full:
            return self.source.assigned()
        watermarks = self.worker.watermarks
        if self.worker.pending.rows > self._settings.ingest.pending_rows_max:
            return watermarks.all_but_slowest(self._idle)
        return watermarks.ahead(self._idle)

    def _take(self, everything: bool) -> set[TopicPartition]:
        """Take in what is decoded, or wait for everything to be; return the partitions that had rows."""
        busy = set()
        for batch, decoded in self._ahead.take(everything):
            rows = self.intake.outcomes["rows"]
            letters = self.intake.take(batch, decoded)
            if len(letters):
                self._keep(letters)
            partition = TopicPartition(batch.topic, batch.partition)
            self._breaker.observe(partition, letters.records, letters.poison())
            if self.intake.outcomes["rows"] > rows:
                busy.add(partition)
        return busy

    def _keep(self, letters: Letters) -> None:
        self._insist("dead letters", lambda: self.dead_letters.write(letters))

    def _on_tick(self, outcome: TickOutcome) -> None:
        if outcome.fired or outcome.resolved:
            kinds = Counter(alert.kind for alert in outcome.fired)
            log.info("alerts changed", fired=dict(kinds), resolved=len(outcome.resolved), as_of_ns=outcome.end_ns)
        if outcome.notifications:
            self._insist("outbox", lambda: self._outlet.put(outcome.notifications))
        for observer in self._observers:
            observer.on_tick(self.worker, outcome)

    def _finish_if_ended(self) -> None:
        if self.source.live or not all(map(self.source.ended, self.source.assigned())):
            return
        self._note_saved(wait=True)
        self.worker.finish(self._on_tick)
        self.finished = True

    def _checkpoint(self) -> None:
        """Begin to save where we are: letters are durable first, so that no offset is passed before its letter."""
        if self._saver is None:
            self.dead_letters.flush()
            self._changed = False
            return
        position = self._insist("dead letters", self.dead_letters.flush)
        extras: Mapping[str, Any] = {
            "dead_letter_kind": self._settings.ingest.dead_letter.kind,
            "dead_letter_position": position,
            "intake": self.intake.snapshot(),
            "breaker": self._breaker.snapshot(),
        }
        self._checkpointed_s = self._clock.monotonic_s()
        self._saver.begin(self.worker.cut(), extras, self.worker.watermarks.next_offsets())
        self._changed = False

    def _note_saved(self, wait: bool) -> None:
        """Take note of a checkpoint that has become durable; one that failed is made up for by the next."""
        try:
            saved = self._saver.outcome(wait) if self._saver is not None else None
        except Unavailable as trouble:
            self._changed = True
            self._tell(f"checkpoint: {trouble}")
            return
        if saved is None:
            return
        self.checkpoints += 1
        for observer in self._observers:
            observer.on_checkpoint(saved.seconds)
        self.checkpoint_at_ns = saved.taken_ns
        self.source.commit(saved.next_offsets)
        log.debug("checkpoint", rows=self.intake.outcomes["rows"], entities=len(self.worker.entities))

    def _insist(self, what: str, attempt: Callable[[], T]) -> T:
        """Try until it works, or raise _Abandoned when told to stop meanwhile: then no checkpoint may follow."""
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                return attempt()
            except Unavailable as trouble:
                self._tell(f"{what}: {trouble}")
                if self._stop.is_set():
                    raise _Abandoned from trouble
                if self._stop.wait(min(trouble.retry_after_s or backoff_s, BACKOFF_LAST_S)):
                    raise _Abandoned from trouble
                backoff_s = min(2 * backoff_s, BACKOFF_LAST_S)

    def _tell(self, what: str) -> None:
        log.warning("unavailable", what=what)
        for observer in self._observers:
            observer.on_trouble(what)
