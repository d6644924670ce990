"""The outbox: durable before any send, in order, bounded, and honest about what may have been sent before."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.alerting.outbox import KEEP_DAYS, PRUNE_ROWS_MAX, Mark, Outbox, OutboxRow, RowStatus
from service.alerting.saved import UnreadableRow, decode_notification, encode_notification
from service.errors import CorruptState, Unavailable
from service.settings import AlertingSettings
from tests.fakes.clock import ManualClock
from tests.fakes.notifications import alert, notification, resolved

ROOT = Path(__file__).parents[3]
DAY_S = 86_400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "skinflint.db"


def opened(database: Path, clock: ManualClock, **settings: Any) -> Outbox:
    return Outbox(database, AlertingSettings(**settings), clock)


def due(outbox: Outbox, clock: ManualClock, receiver: str = "a") -> OutboxRow | None:
    return outbox.due(receiver, clock.now_ns())


def due_id(outbox: Outbox, clock: ManualClock, receiver: str = "a") -> str:
    row = due(outbox, clock, receiver)
    return row.notification_id if row else ""


def sent(outbox: Outbox, clock: ManualClock, receiver: str = "a") -> None:
    row = due(outbox, clock, receiver)
    assert row is not None
    outbox.mark_sending(row)
    outbox.mark(Mark(row, RowStatus.DELIVERED))


def column(database: Path, name: str) -> list[Any]:
    with sqlite3.connect(database) as connection:
        return [row[0] for row in connection.execute(f"SELECT {name} FROM notifications ORDER BY seq")]


def test_what_was_put_is_found_again_by_the_next_process(database: Path, clock: ManualClock) -> None:
    first = opened(database, clock)
    assert 2 == first.put([(notification("n1"), ["a", "b"])])
    # The first is not closed: a crash would not close it either.
    second = opened(database, clock)
    row = due(second, clock, "b")
    assert row is not None
    assert notification("n1") == decode_notification(row.body)
    assert {"a": 1, "b": 1} == second.counts()
    assert not row.possible_repeat


def test_a_replay_puts_nothing_twice_not_even_after_delivery(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    messages = [(notification("n1"), ["a"]), (notification("n2"), ["a"])]
    assert 2 == outbox.put(messages)
    sent(outbox, clock)
    assert 0 == outbox.put(messages)
    assert 1 == outbox.put([(notification("n1"), ["a", "b"])])
    assert {"a": 1, "b": 1} == outbox.counts()


def test_a_put_is_all_or_nothing(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    bad = dataclasses.replace(notification("n2"), event_time_ns=2**70)
    with pytest.raises(OverflowError):
        outbox.put([(notification("n1"), ["a"]), (bad, ["a"])])
    assert (None, {}) == (due(outbox, clock), outbox.counts())
    assert 1 == outbox.put([(notification("n1"), ["a"])])


def test_a_put_tells_whoever_waits_only_when_there_is_something_new(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    calls: list[int] = []
    outbox.on_put(lambda: calls.append(1))
    outbox.put([(notification("n1"), ["a"])])
    outbox.put([(notification("n1"), ["a"])])
    outbox.put([(notification("n2"), [])])
    assert [1] == calls


def test_within_a_group_the_next_waits_for_the_one_before(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("fire"), ["a"]), (resolved("over"), ["a"])])
    row = due(outbox, clock)
    assert row is not None
    assert "fire" == row.notification_id
    outbox.mark_sending(row)
    assert due(outbox, clock) is None
    outbox.mark(Mark(row, RowStatus.PENDING, "503", clock.now_ns() + 10**9))
    assert due(outbox, clock) is None
    clock.advance(1)
    assert "fire" == due_id(outbox, clock)
    sent(outbox, clock)
    assert "over" == due_id(outbox, clock)


def test_other_groups_and_other_receivers_do_not_wait(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("n1"), ["a", "b"]), (notification("n2", owner="speech"), ["a"])])
    row = due(outbox, clock)
    assert row is not None
    outbox.mark(Mark(row, RowStatus.PENDING, "503", clock.now_ns() + 10**12))
    assert ("n2", "n1") == (due_id(outbox, clock), due_id(outbox, clock, "b"))


def test_the_order_is_that_of_putting(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    names = [f"n{i:02}" for i in range(20)]
    outbox.put([(notification(n, owner=f"team-{i % 7}"), ["a"]) for i, n in enumerate(names)])
    seen = []
    while name := due_id(outbox, clock):
        seen.append(name)
        sent(outbox, clock)
    assert names == seen


def test_a_rejected_message_makes_way_for_the_next(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("fire"), ["a"]), (resolved("over"), ["a"])])
    row = due(outbox, clock)
    assert row is not None
    outbox.mark(Mark(row, RowStatus.REJECTED, "404"))
    assert "over" == due_id(outbox, clock)
    assert ["404", ""] == column(database, "detail")


def test_a_crash_while_sending_makes_a_possible_repeat(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("n1"), ["a"])])
    row = due(outbox, clock)
    assert row is not None
    outbox.mark_sending(row)
    again = due(opened(database, clock), clock)
    assert again is not None
    assert (True, 1) == (again.possible_repeat, again.attempts)


def test_an_uncertain_attempt_makes_a_possible_repeat_that_stays_one(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("n1"), ["a"])])
    for uncertain in (False, True, False):
        row = due(outbox, clock)
        assert row is not None
        outbox.mark_sending(row)
        outbox.mark(Mark(row, RowStatus.PENDING, "", clock.now_ns(), uncertain))
    final = due(outbox, clock)
    assert final is not None
    assert (True, 3) == (final.possible_repeat, final.attempts)


CRASH = """
import os, signal, sys
from pathlib import Path
from service.alerting.outbox import Mark, Outbox, RowStatus
from service.clock import SystemClock
from service.settings import AlertingSettings
from tests.fakes.notifications import notification
clock = SystemClock()
outbox = Outbox(Path(sys.argv[1]), AlertingSettings(), clock)
def reached(point):
    if point == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
reached("open")
outbox.put([(notification("n1"), ["a"]), (notification("n2", owner="speech"), ["a"])])
reached("put")
row = outbox.due("a", clock.now_ns())
outbox.mark_sending(row)
reached("sending")
outbox.mark(Mark(row, RowStatus.DELIVERED))
reached("marked")
"""


@pytest.mark.parametrize(
    ("point", "waiting", "repeats"),
    [("open", [], []), ("put", ["n1", "n2"], []), ("sending", ["n1", "n2"], ["n1"]), ("marked", ["n2"], [])],
)
def test_a_kill_at_any_point_loses_nothing_that_was_put(
    database: Path, point: str, waiting: list[str], repeats: list[str]
) -> None:
    command = [sys.executable, "-c", CRASH, str(database), point]
    died = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert -signal.SIGKILL == died.returncode
    clock = ManualClock(now_ns=4 * 10**18)
    outbox = opened(database, clock)
    rows = []
    while row := due(outbox, clock):
        rows.append(row)
        sent(outbox, clock)
    assert waiting == [row.notification_id for row in rows]
    assert repeats == [row.notification_id for row in rows if row.possible_repeat]


def test_what_waits_too_long_is_given_up_whatever_its_receiver(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock, expire_after_s=3600)
    outbox.put([(notification("old"), ["a", "gone"])])
    clock.advance(3599)
    outbox.put([(notification("new"), ["a"])])
    assert [] == outbox.expire(clock.now_ns())
    clock.advance(1)
    expired = outbox.expire(clock.now_ns())
    assert [("old", "a"), ("old", "gone")] == [(r.notification_id, r.receiver) for r in expired]
    assert {"a": 1} == outbox.counts()
    assert "new" == due_id(outbox, clock)
    assert ["expired", "expired", "pending"] == column(database, "status")


def test_a_row_that_is_being_sent_does_not_expire_under_the_senders_hands(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock, expire_after_s=60)
    outbox.put([(notification("n1"), ["a"])])
    row = due(outbox, clock)
    assert row is not None
    outbox.mark_sending(row)
    clock.advance(61)
    assert [] == outbox.expire(clock.now_ns())
    outbox.mark(Mark(row, RowStatus.DELIVERED))
    assert {} == outbox.counts()


def test_full_counts_what_waits_and_put_never_refuses(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock, outbox_rows_max=100)
    outbox.put([(notification(f"n{i}", owner=str(i)), ["a"]) for i in range(99)])
    assert not outbox.full()
    outbox.put([(notification("last"), ["a"]), (notification("more"), ["a"])])
    assert outbox.full()
    assert opened(database, clock, outbox_rows_max=100).full()
    sent(outbox, clock)
    sent(outbox, clock)
    assert not outbox.full()
    assert {"a": 99} == outbox.counts()


def test_finished_rows_are_forgotten_after_their_days_a_bounded_number_at_a_time(
    database: Path, clock: ManualClock
) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("n1"), ["a"]), (notification("n2"), ["a"])])
    sent(outbox, clock)
    clock.advance(KEEP_DAYS * DAY_S - 1)
    assert 0 == outbox.prune(clock.now_ns())
    clock.advance(1)
    assert 1 == outbox.prune(clock.now_ns())
    assert ["n2"] == column(database, "notification_id")
    with sqlite3.connect(database) as connection:
        connection.executemany(
            "INSERT INTO notifications (notification_id, receiver, group_key, body, event_time_ns,"
            " enqueued_ns, next_attempt_ns, status, finished_ns) VALUES (?, 'a', '', '', 0, 0, 0, 'delivered', 0)",
            [(f"old{i}",) for i in range(PRUNE_ROWS_MAX + 5)],
        )
    assert [PRUNE_ROWS_MAX, 5, 0] == [outbox.prune(clock.now_ns()) for _ in range(3)]


def test_of_a_delivered_message_only_the_id_is_kept(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("n1"), ["a"])])
    sent(outbox, clock)
    assert [""] == column(database, "body")


def test_a_clock_set_back_does_not_stop_delivery(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("n1"), ["a"])])
    clock.step_wall(-2 * DAY_S)
    assert "n1" == due_id(outbox, clock)


def test_the_time_of_the_next_attempt_is_that_of_the_first_of_each_group(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    assert outbox.next_attempt_ns("a") is None
    outbox.put([(notification("n1"), ["a"]), (resolved("n2"), ["a"]), (notification("n3", owner="x"), ["a"])])
    start_ns = clock.now_ns()
    for wait_ns in (7, 3):
        row = due(outbox, clock)
        assert row is not None
        outbox.mark(Mark(row, RowStatus.PENDING, "", start_ns + wait_ns))
    assert start_ns + 3 == outbox.next_attempt_ns("a")


def test_the_file_is_for_its_owner_alone(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification("n1"), ["a"])])
    for file in (database, database.with_name("skinflint.db-wal")):
        assert 0o600 == stat.S_IMODE(file.stat().st_mode)


def test_commits_survive_power_loss_as_far_as_sqlite_can_say(database: Path, clock: ManualClock) -> None:
    connection = opened(database, clock)._connection
    assert ("wal",) == connection.execute("PRAGMA journal_mode").fetchone()
    assert (2,) == connection.execute("PRAGMA synchronous").fetchone()
    assert (5000,) == connection.execute("PRAGMA busy_timeout").fetchone()


def filled(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    outbox.put([(notification(f"n{i:03}", owner=str(i)), ["a"]) for i in range(200)])
    outbox.close()


@pytest.mark.parametrize("damage", ["garbage", "page", "cut"])
def test_a_damaged_file_is_refused_by_name(database: Path, clock: ManualClock, damage: str) -> None:
    filled(database, clock)
    content = bytearray(database.read_bytes())
    if damage == "garbage":
        content[:100] = os.urandom(100)
    elif damage == "page":
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 4096] = b"\xff" * 4096
    else:
        del content[len(content) // 2 :]
    database.write_bytes(content)
    with pytest.raises(CorruptState, match=r"skinflint\.db: "):
        opened(database, clock)


def test_a_file_of_a_newer_version_is_refused(database: Path, clock: ManualClock) -> None:
    filled(database, clock)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE outbox_schema SET version = 7")
    with pytest.raises(CorruptState, match="outbox version 7, expected at most 1"):
        opened(database, clock)


def test_a_database_locked_by_another_is_unavailable_and_nothing_is_half_done(
    database: Path, clock: ManualClock
) -> None:
    outbox = opened(database, clock)
    outbox._connection.execute("PRAGMA busy_timeout = 10")
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"skinflint\.db: database is locked"):
            outbox.put([(notification("n1"), ["a"])])
        other.execute("ROLLBACK")
    assert {} == outbox.counts()
    assert 1 == outbox.put([(notification("n1"), ["a"])])


def test_a_full_disk_is_unavailable_and_passes(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    (pages,) = outbox._connection.execute("PRAGMA page_count").fetchone()
    outbox._connection.execute(f"PRAGMA max_page_count = {pages}")
    messages = [(notification(f"n{i}"), ["a"]) for i in range(50)]
    with pytest.raises(Unavailable, match="full"):
        outbox.put(messages)
    assert ({}, None) == (outbox.counts(), due(outbox, clock))
    outbox._connection.execute("PRAGMA max_page_count = 100000")
    assert 50 == outbox.put(messages)


def test_others_may_keep_their_tables_in_the_same_file(database: Path, clock: ManualClock) -> None:
    outbox = opened(database, clock)
    with sqlite3.connect(outbox.database) as connection:
        connection.execute("CREATE TABLE manifest (path TEXT)")
    assert 1 == outbox.put([(notification("n1"), ["a"])])


def test_a_notification_survives_its_way_through_json() -> None:
    note = notification(alerts=(alert(usd_per_hour=None, evidence={"a": 1.5, "b": "x", "c": 2}), alert()))
    assert note == decode_notification(encode_notification(note))
    clean = alert().labels._replace(node="<!here>\n\x00\u202e")
    note = notification(alerts=(alert(labels=clean),))
    assert note == decode_notification(encode_notification(note))


def test_names_that_are_no_text_do_not_keep_a_notification_back() -> None:
    note = notification(owner="a\ud800b", alerts=(alert(labels=alert().labels._replace(pod="\udfff")),))
    found = decode_notification(encode_notification(note))
    assert ("a\ufffdb", "\ufffd") == (found.owner, found.alerts[0].labels.pod)


def test_figures_that_json_cannot_hold_become_unknown() -> None:
    nan = float("nan")
    evidence = {"duty_ratio": nan, "power_watts": float("inf")}
    note = notification(usd_per_hour=nan, alerts=(alert(usd_so_far=nan, evidence=evidence),))
    found = decode_notification(encode_notification(note))
    assert (None, None) == (found.usd_per_hour, found.alerts[0].usd_so_far)
    assert {"duty_ratio": "unknown", "power_watts": "unknown"} == found.alerts[0].evidence


@pytest.mark.parametrize("text", ["", "{}", "[", '{"notification_id": 3}'])
def test_text_that_is_no_notification_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableRow):
        decode_notification(text)
