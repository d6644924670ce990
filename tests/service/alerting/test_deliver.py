"""Delivery: in order, at each receiver's pace, once where possible, and never one receiver at another's expense."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import structlog

from service.alerting.contract import Delivery, Notification, Notifier, Outcome
from service.alerting.deliver import OUTCOMES, Deliverer
from service.alerting.outbox import Outbox
from service.alerting.pace import BACKOFF_S_MAX, backoff_s
from service.alerting.uncertain import PossibleRepeat, UncertainDelivery
from service.clock import SystemClock
from service.errors import CorruptState
from service.settings import AlertingSettings
from service.view import NOTIFICATION_OUTCOMES
from tests.fakes.clock import ManualClock
from tests.fakes.notifications import notification, resolved
from tests.fakes.sink import Answer, Sink
from tests.service.alerting.receivers import build

OK = Delivery(Outcome.DELIVERED)
DOWN = Delivery(Outcome.RETRY, "503")
GONE = Delivery(Outcome.REJECTED, "404")
HOUR_S = 3600.0


class Receiver:
    """A notifier that remembers what it was given, and answers from a script, then with `usual`."""

    type: ClassVar[str] = "fake"
    rate_per_s_max: ClassVar[float] = 1e9

    def __init__(self, script: Sequence[Delivery] = (), usual: Delivery = OK) -> None:
        self.script = list(script)
        self.usual = usual
        self.sent: list[Notification] = []
        self.on_send: Callable[[Notification], None] = lambda note: None

    def send(self, notification: Notification) -> Delivery:
        self.sent.append(notification)
        self.on_send(notification)
        return self.script.pop(0) if self.script else self.usual

    @property
    def names(self) -> list[str]:
        return [note.notification_id for note in self.sent]


class Bench:
    """An outbox and a deliverer on a clock that jumps from one due time to the next."""

    def __init__(self, folder: Path, receivers: dict[str, Any], **settings: Any) -> None:
        self.clock = ManualClock()
        self.settings = AlertingSettings(**settings)
        self.database = folder / "skinflint.db"
        self.receivers = receivers
        self.observed: list[tuple[str, str]] = []
        self.restart()

    def restart(self) -> None:
        """Begin anew on the same file, as after a crash."""
        self.outbox = Outbox(self.database, self.settings, self.clock)
        self.deliverer = Deliverer(self.outbox, self.receivers, self.clock, self.settings, self.observe, seed=1)

    def observe(self, receiver: str, outcome: str, seconds: float) -> None:
        self.observed.append((receiver, outcome))

    def put(self, *notes: Notification, to: Sequence[str] = ("a",)) -> None:
        self.outbox.put([(note, to) for note in notes])

    def run(self, seconds: float = 0.1) -> None:
        """Let the deliverer do all that becomes due within `seconds`."""
        end_s = self.clock.monotonic_s() + seconds
        while True:
            wait_s = self.deliverer.step()
            left_s = end_s - self.clock.monotonic_s()
            if wait_s is None or wait_s > left_s:
                self.clock.advance(max(0.0, left_s))
                return
            # A nanosecond more than asked for, since the clock counts in whole ones.
            self.clock.advance(wait_s + 1e-9 if wait_s else 0.0)

    def count(self, receiver: str, outcome: str) -> int:
        return self.deliverer.snapshot().outcomes[receiver, outcome]


def firing(groups: int) -> list[Notification]:
    """Return a firing message of each of so many groups."""
    return [notification(f"f{i}", owner=f"team-{i}") for i in range(groups)]


def flood(groups: int) -> list[Notification]:
    """Return firing and resolved messages of many groups, all firing ones first."""
    return firing(groups) + [resolved(f"r{i}", owner=f"team-{i}") for i in range(groups)]


def test_what_is_put_is_delivered_in_order_and_once(tmp_path: Path) -> None:
    receiver = Receiver()
    bench = Bench(tmp_path, {"a": receiver})
    bench.put(notification("n1"), resolved("n2"), notification("n3", owner="speech"))
    bench.run()
    bench.put(notification("n1"))
    bench.run(HOUR_S)
    assert ["n1", "n2", "n3"] == receiver.names
    assert notification("n1") == receiver.sent[0]
    assert [("a", "delivered")] * 3 == bench.observed


def test_outcomes_are_those_that_metrics_know_and_all_start_at_zero(tmp_path: Path) -> None:
    assert NOTIFICATION_OUTCOMES == OUTCOMES
    bench = Bench(tmp_path, {"a": Receiver(), "b": Receiver()})
    snapshot = bench.deliverer.snapshot()
    assert {(name, o): 0 for name in "ab" for o in OUTCOMES} == snapshot.outcomes
    assert ({}, 0.0) == (snapshot.waiting, snapshot.oldest_waiting_s)


def test_a_receiver_down_for_an_hour_then_gets_everything_once_and_in_order(tmp_path: Path) -> None:
    receiver = Receiver(usual=DOWN)
    bench = Bench(tmp_path, {"a": receiver})
    for i in range(30):
        bench.put(notification(f"f{i}", owner=f"team-{i % 5}"), resolved(f"r{i}", owner=f"team-{i % 5}"))
        bench.run(120)
    asked = len(receiver.sent)
    # Exponential waits: an hour of failure is a few dozen attempts, not thousands.
    assert 10 < asked < 150
    receiver.usual = OK
    receiver.sent.clear()
    bench.run(600)
    assert 60 == len(receiver.names) == len(set(receiver.names))
    for team in range(5):
        mine = [n for n in receiver.names if int(n[1:]) % 5 == team]
        assert [f"{kind}{i}" for i in range(team, 30, 5) for kind in "fr"] == mine
    assert (60, asked) == (bench.count("a", "delivered"), bench.count("a", "retried"))


def test_a_failing_receiver_does_not_delay_another(tmp_path: Path) -> None:
    bad, good = Receiver(usual=DOWN), Receiver()
    bench = Bench(tmp_path, {"bad": bad, "good": good})
    bench.put(*flood(20), to=("bad", "good"))
    bench.run()
    assert 40 == len(good.names)
    assert {"bad": 40} == bench.deliverer.snapshot().waiting


def test_one_message_that_a_receiver_cannot_stomach_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    receiver = Receiver()
    bench = Bench(tmp_path, {"a": receiver})
    poison = notification("poison", owner="odd")
    receiver.on_send = lambda note: setattr(receiver, "usual", DOWN if note.notification_id == "poison" else OK)
    bench.put(poison, *firing(20))
    bench.run(60)
    assert {f"f{i}" for i in range(20)} == set(receiver.names) - {"poison"}
    bench.run(23 * HOUR_S)
    assert receiver.names.count("poison") < 23 * HOUR_S / BACKOFF_S_MAX * 2 + 20


def test_each_receiver_gets_no_more_than_its_rate(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.rate_per_s_max = 1.0  # type: ignore[misc]  # as Slack's
    bench = Bench(tmp_path, {"a": receiver})
    times: list[float] = []
    receiver.on_send = lambda note: times.append(bench.clock.monotonic_s())
    bench.put(*flood(5))
    bench.run(60)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 9 == len(gaps)
    assert all(1.0 <= gap < 1.001 for gap in gaps)


def test_of_thousands_put_at_once_none_is_lost_and_firing_comes_before_resolved(tmp_path: Path) -> None:
    receiver = Receiver()
    bench = Bench(tmp_path, {"a": receiver})
    bench.outbox._connection.execute("PRAGMA synchronous = OFF")
    bench.put(*flood(1000))
    bench.run()
    assert 2000 == len(set(receiver.names))
    place = {name: i for i, name in enumerate(receiver.names)}
    assert all(place[f"f{i}"] < place[f"r{i}"] for i in range(1000))


@pytest.mark.parametrize(("asked_s", "waited_s"), [(37.0, 37.0), (1e9, HOUR_S), (0.0, 0.0), (-5.0, 0.0)])
def test_the_receivers_wish_for_a_pause_is_honoured_for_all_and_capped(
    tmp_path: Path, asked_s: float, waited_s: float
) -> None:
    receiver = Receiver([Delivery(Outcome.RETRY, "429", asked_s)])
    bench = Bench(tmp_path, {"a": receiver})
    times: list[float] = []
    receiver.on_send = lambda note: times.append(bench.clock.monotonic_s())
    bench.put(notification("n1"), notification("n2", owner="speech"))
    bench.run(2 * HOUR_S)
    assert ["n1", "n1", "n2"] == receiver.names
    assert waited_s == pytest.approx(times[1] - times[0], abs=1e-3)


def test_a_rejected_message_is_not_tried_again_and_counted(tmp_path: Path) -> None:
    receiver = Receiver([GONE])
    bench = Bench(tmp_path, {"a": receiver})
    bench.put(notification("n1"), resolved("n2"))
    with structlog.testing.capture_logs() as logs:
        bench.run(HOUR_S)
    assert ["n1", "n2"] == receiver.names
    assert (1, 1) == (bench.count("a", "rejected"), bench.count("a", "delivered"))
    (entry,) = [log for log in logs if log["log_level"] == "error"]
    assert ("notification rejected", "a", "n1", "404") == (
        entry["event"],
        entry["receiver"],
        entry["notification_id"],
        entry["detail"],
    )


def test_a_message_nobody_takes_expires_is_counted_and_logged(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"a": Receiver(usual=DOWN)}, expire_after_s=HOUR_S)
    bench.put(notification("n1"), to=("a", "gone"))
    with structlog.testing.capture_logs() as logs:
        bench.run(HOUR_S + 1)
    expired = [log for log in logs if log["event"] == "notification expired"]
    assert {"a", "gone"} == {log["receiver"] for log in expired}
    assert (1, {}) == (bench.count("a", "expired"), bench.deliverer.snapshot().waiting)
    assert None is bench.deliverer.step()


def test_an_exception_of_a_notifier_is_logged_with_its_stack_and_the_message_kept(
    tmp_path: Path,
) -> None:
    receiver, other = Receiver(), Receiver()
    bench = Bench(tmp_path, {"a": receiver, "b": other})

    def fail(note: Notification) -> None:
        receiver.on_send = lambda note: None
        raise ZeroDivisionError("a bug")

    receiver.on_send = fail
    bench.put(notification("n1"), to=("a", "b"))
    with structlog.testing.capture_logs() as logs:
        bench.run(60)
    assert (["n1", "n1"], ["n1"]) == (receiver.names, other.names)
    (entry,) = [log for log in logs if log["event"] == "notifier raised"]
    assert entry["exc_info"]
    assert 1 == bench.count("a", "retried")


def test_a_stored_message_that_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    receiver = Receiver()
    bench = Bench(tmp_path, {"a": receiver})
    bench.put(notification("n1"), resolved("n2"))
    bench.outbox._connection.execute("UPDATE notifications SET body = '{' WHERE notification_id = 'n1'")
    bench.run()
    assert (["n2"], 1) == (receiver.names, bench.count("a", "rejected"))


def test_after_a_crash_while_sending_the_repeat_is_said_to_be_possible(tmp_path: Path) -> None:
    receiver = Receiver()
    bench = Bench(tmp_path, {"a": receiver})

    def die(note: Notification) -> None:
        receiver.on_send = lambda note: None
        raise KeyboardInterrupt

    receiver.on_send = die
    bench.put(notification("n1"), resolved("n2"))
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    bench.restart()
    bench.run()
    assert ["n1", "n1", "n2"] == receiver.names
    assert [False, True, False] == [isinstance(note, PossibleRepeat) for note in receiver.sent]


def test_after_a_crash_that_followed_a_refusal_there_is_no_possible_repeat(tmp_path: Path) -> None:
    receiver = Receiver([DOWN])
    bench = Bench(tmp_path, {"a": receiver})
    bench.put(notification("n1"))
    bench.run()
    bench.restart()
    bench.run(60)
    assert [False, False] == [isinstance(note, PossibleRepeat) for note in receiver.sent]


def test_a_lost_answer_makes_the_next_attempt_a_possible_repeat(tmp_path: Path) -> None:
    receiver = Receiver([UncertainDelivery(Outcome.RETRY, "no answer in time")])
    bench = Bench(tmp_path, {"a": receiver})
    bench.put(notification("n1"))
    bench.run(60)
    assert [False, True] == [isinstance(note, PossibleRepeat) for note in receiver.sent]


def test_a_delivery_that_could_not_be_marked_is_marked_later_and_not_sent_again(
    tmp_path: Path,
) -> None:
    receiver = Receiver()
    bench = Bench(tmp_path, {"a": receiver})
    connection = bench.outbox._connection

    def fill_disk(note: Notification) -> None:
        connection.execute("PRAGMA query_only = ON")

    receiver.on_send = fill_disk
    bench.put(notification("n1"))
    bench.run(5)
    assert {"a": 1} == bench.deliverer.snapshot().waiting
    connection.execute("PRAGMA query_only = OFF")
    bench.run(600)
    assert (["n1"], {}) == (receiver.names, bench.deliverer.snapshot().waiting)


def test_the_age_of_the_oldest_waiting_message_is_known(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"a": Receiver(usual=DOWN)})
    bench.put(notification("n1"))
    bench.run(90)
    assert 90.0 == pytest.approx(bench.deliverer.snapshot().oldest_waiting_s)


def test_the_same_seed_gives_the_same_waits_and_they_stay_within_bounds() -> None:
    first = [backoff_s(n, random.Random(3)) for n in range(1, 400)]
    assert first == [backoff_s(n, random.Random(3)) for n in range(1, 400)]
    assert 0.5 <= first[0] <= 1.0
    assert BACKOFF_S_MAX / 2 <= first[-1] <= BACKOFF_S_MAX
    assert backoff_s(1, random.Random(3)) != backoff_s(1, random.Random(4))


class Threads:
    """A deliverer on real threads."""

    def __init__(self, folder: Path, receivers: dict[str, Notifier]) -> None:
        settings = AlertingSettings()
        self.clock = SystemClock()
        self.outbox = Outbox(folder / "skinflint.db", settings, self.clock)
        self.deliverer = Deliverer(self.outbox, receivers, self.clock, settings)
        self.deliverer.start()


def test_a_put_wakes_the_threads_at_once(tmp_path: Path) -> None:
    with Sink() as sink:
        bench = Threads(tmp_path, {"a": build("webhook", sink.url)})
        bench.outbox.put([(notification("n1"), ["a"])])
        sink.wait_for(1)
        bench.outbox.put([(resolved("n2"), ["a"])])
        ids = [request.headers["webhook-id"] for request in sink.wait_for(2)]
        assert bench.deliverer.stop(5)
    assert ["n1", "n2"] == ids
    bench.deliverer.raise_if_failed()
    assert {} == bench.outbox.counts()


def test_a_receiver_that_never_answers_delays_neither_the_others_nor_the_end(
    tmp_path: Path,
) -> None:
    with Sink(default=Answer(hang=True)) as stuck, Sink() as sink:
        receivers = {"stuck": build("webhook", stuck.url), "fast": build("webhook", sink.url)}
        bench = Threads(tmp_path, receivers)
        for i in range(5):
            bench.outbox.put([(notification(f"n{i}"), ["stuck", "fast"])])
        sink.wait_for(5)
        stuck.wait_for(1)
        assert not bench.deliverer.stop(0.05)
        # The next process opens the file while the last attempt still hangs.
        again = Outbox(bench.outbox.database, AlertingSettings(), bench.clock)
        row = again.due("stuck", bench.clock.now_ns())
    assert row is not None
    assert ("n0", True) == (row.notification_id, row.possible_repeat)


def test_a_message_accepted_with_a_lost_answer_reaches_an_id_aware_receiver_once(
    tmp_path: Path,
) -> None:
    with Sink([Answer(500), Answer(drop=True)]) as sink:
        bench = Bench(tmp_path, {"a": build("webhook", sink.url)})
        bench.put(notification("n1"))
        bench.run(60)
        ids = [request.headers["webhook-id"] for request in sink.requests]
    assert ["n1"] * 3 == ids


def test_a_damaged_outbox_ends_the_thread_and_the_loop_is_told(tmp_path: Path) -> None:
    bench = Threads(tmp_path, {"a": Receiver()})
    ended = threading.Event()
    thread = bench.deliverer._threads[0]

    def damaged(receiver: str, now_ns: int) -> None:
        ended.set()
        raise CorruptState("skinflint.db: malformed")

    bench.outbox.due = damaged  # type: ignore[method-assign]
    with structlog.testing.capture_logs():
        bench.deliverer.wake()
        assert ended.wait(5)
        thread.join(5)
    with pytest.raises(CorruptState, match="malformed"):
        bench.deliverer.raise_if_failed()
