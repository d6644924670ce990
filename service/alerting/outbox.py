"""The outbox: every message is durable here before anybody tries to send it, and stays until accepted or given up.

Why one table and no queue in memory: what is still to be sent, in which order, and what was sent before (so that a
replay of the log does not send it again) are the same rows.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from service.alerting.contract import Notification
from service.alerting.saved import encode_notification, group_key
from service.alerting.tables import DUE, NEXT_ATTEMPT, check, open_database
from service.clock import Clock
from service.errors import CorruptState, Unavailable
from service.settings import AlertingSettings

# A replay older than this sends again what it sent then; the checkpoint is seconds old, a rebuild from the log days.
KEEP_DAYS = 30
PRUNE_ROWS_MAX = 1000
RETRY_AFTER_S_MAX = 3600
_NS = 1_000_000_000


class RowStatus(StrEnum):
    """Life of a row; the last three are final."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    EXPIRED = "expired"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One notification for one receiver."""

    seq: int
    notification_id: str
    receiver: str
    body: str
    enqueued_ns: int
    attempts: int
    possible_repeat: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """What came of an attempt: a final status, or PENDING with the time of the next attempt."""

    row: OutboxRow
    status: RowStatus
    detail: str = ""
    next_attempt_ns: int = 0
    possible_repeat: bool = False


class Outbox:
    """Notifications and what became of them, in a SQLite database that the checkpoint manifest shares.

    Every method may be called from any thread. A full disk or a locked database raises Unavailable, and then nothing
    was changed; a damaged database raises CorruptState.
    """

    def __init__(self, database: Path, settings: AlertingSettings, clock: Clock) -> None:
        """Open `database`, creating it if need be, and take back rows whose sending a crash interrupted."""
        self._database = database
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._on_put: Callable[[], None] = _nothing
        with self._errors():
            self._connection = open_database(database)
        try:
            with self._transaction() as connection:
                check(connection)
                connection.execute(
                    "UPDATE notifications SET status = 'pending', possible_repeat = 1 WHERE status = 'sending'"
                )
                waiting = connection.execute(
                    "SELECT receiver, count(*) FROM notifications WHERE finished_ns IS NULL GROUP BY receiver"
                ).fetchall()
        except BaseException:
            self._connection.close()
            raise
        self._waiting: Counter[str] = Counter(dict(waiting))

    @property
    def database(self) -> Path:
        """The file, for whoever keeps tables of their own in it."""
        return self._database

    def close(self) -> None:
        """Close the database; what is still called afterwards raises Unavailable."""
        with self._lock:
            self._connection.close()

    def on_put(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each put that added something, on the thread that put."""
        self._on_put = callback

    def put(self, messages: Iterable[tuple[Notification, Sequence[str]]]) -> int:
        """Add each notification once per receiver, in this order, in one transaction; return how many rows are new.

        Durable on return. A pair of notification id and receiver that is known, sent or not, is ignored.
        """
        now_ns = self._clock.now_ns()
        rows = [
            (
                note.notification_id,
                receiver,
                group_key(note),
                body,
                note.event_time_ns,
                now_ns,
                now_ns,
            )
            for note, receivers in messages
            for body in (encode_notification(note),)
            for receiver in receivers
        ]
        added: Counter[str] = Counter()
        with self._transaction() as connection:
            for row in rows:
                added[row[1]] += connection.execute(
                    "INSERT OR IGNORE INTO notifications (notification_id, receiver, group_key, body, event_time_ns,"
                    " enqueued_ns, next_attempt_ns, status) VALUES (?, ?, ?, ?, ?, ?, ?, 'pending')",
                    row,
                ).rowcount
        with self._lock:
            self._waiting += added
        if added.total():
            self._on_put()
        return added.total()

    def due(self, receiver: str, now_ns: int) -> OutboxRow | None:
        """Return the oldest row that may be sent now: within a group only the first unfinished one ever may.

        A time of next attempt further away than any retry may be comes from a clock that was set back, and is due.
        """
        wait_ns_max = RETRY_AFTER_S_MAX * _NS
        found = self._one(DUE, receiver=receiver, now_ns=now_ns, wait_ns_max=wait_ns_max)
        return _row(found) if found else None

    def next_attempt_ns(self, receiver: str) -> int | None:
        """Return when the next row of `receiver` becomes due; None if none waits."""
        found = self._one(NEXT_ATTEMPT, receiver=receiver)
        return found[0] if found else None

    def mark_sending(self, row: OutboxRow) -> None:
        """Write down that an attempt begins; if we die before its mark, the next one is a possible repeat."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE notifications SET status = 'sending', attempts = attempts + 1 WHERE seq = ?",
                (row.seq,),
            )

    def mark(self, mark: Mark) -> None:
        """Write down what came of an attempt. Text of a delivered message is dropped, its id stays."""
        final = mark.status is not RowStatus.PENDING
        finished_ns = self._clock.now_ns() if final else None
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE notifications SET status = ?, detail = ?, next_attempt_ns = ?, finished_ns = ?,"
                " possible_repeat = possible_repeat | ?, body = iif(? = 'delivered', '', body)"
                " WHERE seq = ? AND finished_ns IS NULL",
                (
                    mark.status.value,
                    mark.detail,
                    mark.next_attempt_ns,
                    finished_ns,
                    int(mark.possible_repeat),
                    mark.status.value,
                    mark.row.seq,
                ),
            ).rowcount
        if final and changed:
            self._finished({mark.row.receiver: 1})

    def expire(self, now_ns: int) -> list[OutboxRow]:
        """Give up what waits for longer than expire_after_s, whatever its receiver, and return it."""
        before_ns = now_ns - round(self._settings.expire_after_s * _NS)
        with self._transaction() as connection:
            found = connection.execute(
                "UPDATE notifications SET status = 'expired', finished_ns = ?"
                " WHERE finished_ns IS NULL AND enqueued_ns <= ? AND status = 'pending'"
                " RETURNING seq, notification_id, receiver, body, enqueued_ns, attempts, possible_repeat",
                (now_ns, before_ns),
            ).fetchall()
        rows = [_row(each) for each in found]
        self._finished(Counter(row.receiver for row in rows))
        return rows

    def prune(self, now_ns: int) -> int:
        """Forget at most PRUNE_ROWS_MAX rows that were finished KEEP_DAYS ago; return how many."""
        before_ns = now_ns - KEEP_DAYS * 86_400 * _NS
        with self._transaction() as connection:
            return connection.execute(
                "DELETE FROM notifications WHERE seq IN"
                " (SELECT seq FROM notifications WHERE finished_ns <= ? ORDER BY finished_ns LIMIT ?)",
                (before_ns, PRUNE_ROWS_MAX),
            ).rowcount

    def oldest_enqueued_ns(self) -> int | None:
        """Return when the oldest unfinished row was put (wall time); None if there is none."""
        found = self._one("SELECT min(enqueued_ns) FROM notifications WHERE finished_ns IS NULL")
        return found[0] if found else None

    def counts(self) -> dict[str, int]:
        """Return how many rows wait, by receiver."""
        with self._lock:
            return dict(self._waiting)

    def full(self) -> bool:
        """Tell whether so many rows wait that reading must stop. Costs nothing; `put` itself never refuses."""
        with self._lock:
            return self._waiting.total() >= self._settings.outbox_rows_max

    def _finished(self, by_receiver: dict[str, int]) -> None:
        with self._lock:
            self._waiting -= Counter(by_receiver)

    def _one(self, query: str, **values: int | str) -> tuple[Any, ...] | None:
        with self._lock, self._errors():
            found: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return found

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # Some errors (a full disk) have rolled back already, and then there is nothing to undo.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
            raise Unavailable(f"{self._database}: {error}") from error
        except sqlite3.IntegrityError:
            raise  # a row of ours that the schema refuses is a bug, and the file is sound
        except sqlite3.DatabaseError as error:
            raise CorruptState(f"{self._database}: {error}") from error


def _row(columns: tuple[Any, ...]) -> OutboxRow:
    seq, notification_id, receiver, body, enqueued_ns, attempts, repeat = columns
    return OutboxRow(seq, notification_id, receiver, body, enqueued_ns, attempts, bool(repeat))


def _nothing() -> None:
    """Stand in until somebody wants to know about puts."""
