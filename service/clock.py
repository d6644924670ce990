"""Time as an argument: the loop, the retries and the watchdog ask a Clock, never the system."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for people and signatures; monotonic time for durations and deadlines."""

    def now_ns(self) -> int:
        """Return UTC wall time in nanoseconds since 1970."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never steps."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after `seconds` of this clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)  # the one place that sleeps: everything else is handed a clock
