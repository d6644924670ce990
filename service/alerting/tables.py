"""The outbox's tables in SQLite: schema, opening with its checks, and the two queries that deserve an explanation."""

from __future__ import annotations

import sqlite3
from pathlib import Path

BUSY_TIMEOUT_S = 5.0
_SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox_schema (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS notifications (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    notification_id TEXT NOT NULL,
    receiver        TEXT NOT NULL,
    group_key       TEXT NOT NULL,
    body            TEXT NOT NULL,
    event_time_ns   INTEGER NOT NULL,
    enqueued_ns     INTEGER NOT NULL,
    finished_ns     INTEGER,
    status          TEXT NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_ns INTEGER NOT NULL,
    detail          TEXT NOT NULL DEFAULT '',
    possible_repeat INTEGER NOT NULL DEFAULT 0,
    UNIQUE (notification_id, receiver)
) STRICT;
CREATE INDEX IF NOT EXISTS notifications_waiting ON notifications (receiver, group_key, seq) WHERE finished_ns IS NULL;
CREATE INDEX IF NOT EXISTS notifications_age ON notifications (enqueued_ns) WHERE finished_ns IS NULL;
CREATE INDEX IF NOT EXISTS notifications_finished ON notifications (finished_ns) WHERE finished_ns IS NOT NULL;
"""

# The oldest unfinished row of each group of a receiver. The recursion steps from group to group through the index, so
# that its cost follows the number of groups and not that of rows, which is what counts while a receiver is down.
_HEADS = """
WITH RECURSIVE groups(group_key) AS (
    SELECT min(group_key) FROM notifications WHERE receiver = :receiver AND finished_ns IS NULL
    UNION ALL
    SELECT (SELECT min(n.group_key) FROM notifications n
            WHERE n.receiver = :receiver AND n.finished_ns IS NULL AND n.group_key > groups.group_key)
    FROM groups WHERE groups.group_key IS NOT NULL
), heads(seq) AS (
    SELECT (SELECT min(n.seq) FROM notifications n
            WHERE n.receiver = :receiver AND n.finished_ns IS NULL AND n.group_key = groups.group_key)
    FROM groups WHERE groups.group_key IS NOT NULL
)
"""
DUE = (
    _HEADS
    + """
SELECT n.seq, n.notification_id, n.receiver, n.body, n.enqueued_ns, n.attempts, n.possible_repeat
FROM heads JOIN notifications n USING (seq)
WHERE n.status = 'pending' AND (n.next_attempt_ns <= :now_ns OR n.next_attempt_ns > :now_ns + :wait_ns_max)
ORDER BY n.seq LIMIT 1
"""
)
NEXT_ATTEMPT = (
    _HEADS + "SELECT min(n.next_attempt_ns) FROM heads JOIN notifications n USING (seq) WHERE n.status = 'pending'"
)


def open_database(database: Path) -> sqlite3.Connection:
    """Open or create the file, readable by its owner alone, and return a connection for any thread."""
    database.touch(mode=0o600)
    connection = sqlite3.connect(database, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL may lose the last commits on power loss, and `put` promises otherwise.
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: sqlite3.Connection) -> None:
    """Raise a DatabaseError, which becomes CorruptState, unless the file is whole and of a version that we know."""
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"integrity check failed: {verdict}")
    found = connection.execute("SELECT max(version) FROM outbox_schema").fetchone()[0]
    if found is None:
        connection.execute("INSERT INTO outbox_schema VALUES (?)", (_SCHEMA_VERSION,))
    elif found > _SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"outbox version {found}, expected at most {_SCHEMA_VERSION}")
