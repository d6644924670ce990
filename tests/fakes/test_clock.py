"""The manual clock keeps the promises of a Clock."""

from __future__ import annotations

import threading

import pytest

from service.clock import Clock
from tests.fakes.clock import NOON_NS, ManualClock


def test_it_stands_still_until_it_is_moved() -> None:
    clock: Clock = ManualClock()
    assert (NOON_NS, 0.0) == (clock.now_ns(), clock.monotonic_s())
    assert (NOON_NS, 0.0) == (clock.now_ns(), clock.monotonic_s())


def test_waiting_moves_it_by_just_that_much() -> None:
    clock = ManualClock()
    clock.wait(1.5)
    assert (NOON_NS + 1_500_000_000, 1.5) == (clock.now_ns(), clock.monotonic_s())


def test_a_step_of_the_wall_clock_leaves_monotonic_time_alone() -> None:
    clock = ManualClock()
    clock.step_wall(-3600)
    assert (NOON_NS - 3600 * 10**9, 0.0) == (clock.now_ns(), clock.monotonic_s())


def test_a_blocking_wait_ends_when_time_has_come_and_not_before() -> None:
    clock = ManualClock(blocking=True)
    thread = threading.Thread(target=clock.wait, args=(10,), daemon=True)
    thread.start()
    clock.until_waiting(1)
    clock.advance(9.999)
    thread.join(0.05)
    assert thread.is_alive()
    clock.advance(0.001)
    thread.join(5)
    assert not thread.is_alive()


def test_nobody_waiting_is_noticed() -> None:
    with pytest.raises(TimeoutError, match="0 of 1 threads wait"):
        ManualClock(blocking=True).until_waiting(1, timeout_s=0.01)
