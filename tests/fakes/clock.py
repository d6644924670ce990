"""A clock that moves only when told to."""

from __future__ import annotations

import threading

NOON_NS = 1_767_960_000 * 10**9
"""2026-01-09 12:00 UTC."""


class ManualClock:
    """Implements service.clock.Clock.

    `wait` moves the clock on by itself, as if nothing else happened meanwhile. With blocking=True it stops its thread
    until another thread has advanced the clock far enough; `until_waiting` tells that one when to.
    """

    def __init__(self, now_ns: int = NOON_NS, blocking: bool = False) -> None:
        self._wall_ns = now_ns
        self._monotonic_ns = 0
        self._blocking = blocking
        self._waiting = 0
        self._changed = threading.Condition()

    def now_ns(self) -> int:
        return self._wall_ns

    def monotonic_s(self) -> float:
        return self._monotonic_ns / 1e9

    def wait(self, seconds: float) -> None:
        if not self._blocking:
            self.advance(seconds)
            return
        with self._changed:
            end_ns = self._monotonic_ns + round(seconds * 1e9)
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._monotonic_ns >= end_ns)
            self._waiting -= 1

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        with self._changed:
            self._wall_ns += round(seconds * 1e9)
            self._monotonic_ns += round(seconds * 1e9)
            self._changed.notify_all()

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; monotonic time goes on undisturbed."""
        with self._changed:
            self._wall_ns += round(seconds * 1e9)

    def until_waiting(self, threads: int, timeout_s: float = 10.0) -> None:
        """Return once so many threads are blocked in `wait`; TimeoutError if that does not come about."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting >= threads, timeout_s):
                raise TimeoutError(f"{self._waiting} of {threads} threads wait")
