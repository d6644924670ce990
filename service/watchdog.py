"""The watchdog: a process that is stuck ends itself, with the stacks of all threads, so that a supervisor restarts it."""

from __future__ import annotations

import faulthandler
import os
import threading

from service.clock import Clock
from service.logs import get_logger

STUCK_EXIT_CODE = 70

log = get_logger(__name__)


class Watchdog:
    """Expects `tick` at least every `stuck_after_s`. Its thread does nothing but look at the clock.

    kafka-python can hang in ways that no timeout of its own ends (a dead IO thread, a dead generator in the fetcher);
    leaving at once is safe, since the checkpoint is the truth.
    """

    def __init__(self, stuck_after_s: float, clock: Clock) -> None:
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._last_s = clock.monotonic_s()
        self._stopped = threading.Event()

    def tick(self) -> None:
        """Say that the loop came round."""
        self._last_s = self._clock.monotonic_s()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def is_stuck(self) -> bool:
        """Tell whether the loop has been silent for too long."""
        return self._clock.monotonic_s() - self._last_s > self._stuck_after_s

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._stuck_after_s / 10)):
            if self.is_stuck():
                log.critical("the loop is stuck; ending the process", stuck_after_s=self._stuck_after_s)
                faulthandler.dump_traceback(file=2, all_threads=True)
                os._exit(STUCK_EXIT_CODE)
