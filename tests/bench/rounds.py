"""The service as it runs, each round of its loop timed: python -m tests.bench.rounds CONFIG, until SIGTERM.

Prints one line of JSON: for each round when it ended on the monotonic clock, its seconds, of which in each stage, and whether
a checkpoint was being written.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service import app, config
from service.clock import SystemClock
from service.logs import configure
from service.pipeline.loop import Loop, Observer
from service.pipeline.worker import TickOutcome, Worker
from tests.bench.ours import Stopwatch, peak_rss_bytes

ROUND_MIN_S = 0.003  # shorter ones are not kept


class Rounds:
    """Takes the time of rounds from outside, and of the stages in them."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []
        self.checkpoints_s: list[float] = []
        self.ticks = 0
        self._watch = Stopwatch()
        self._collecting_s = 0.0
        gc.callbacks.append(self._collect)

    def watch(self, loop: Any) -> None:
        """See how long the rounds of this loop take."""
        round_, saver = loop._round, loop._saver
        for owner, method, stage in (
            (loop.source, "poll", "poll"),
            (loop.worker, "advance", "tick"),
            (loop, "_checkpoint", "cut"),
            (saver, "release", "release"),
            (loop, "_take", "take"),
        ):
            self._watch.wrap(owner, method, stage)

        def timed() -> None:
            self._watch.seconds.clear()
            began_s, saving = time.monotonic(), saver.busy()
            round_()
            now_s = time.monotonic()
            if now_s - began_s >= ROUND_MIN_S:
                stages = dict(self._watch.seconds)
                found = {"ended_s": now_s, "seconds": now_s - began_s, "saving": saving or saver.busy()}
                self.rounds.append(found | {"stages_s": stages})

        loop._round = timed

    def _collect(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_s = time.monotonic()
        else:
            self._watch.seconds["gc"] += time.monotonic() - self._collecting_s

    def on_round(self, loop: Loop) -> None: ...

    def on_tick(self, worker: Worker, outcome: TickOutcome) -> None:
        self.ticks += 1

    def on_checkpoint(self, seconds: float) -> None:
        self.checkpoints_s.append(seconds)

    def on_trouble(self, what: str) -> None: ...


def main() -> None:
    """Run until told to stop, and print."""
    rounds, stop = Rounds(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    class Watched(app.Pipeline):
        def loop(
            self, dead_letters: Any, outlet: Any, store: Any, observers: Sequence[Observer], stop: threading.Event
        ) -> Loop:
            loop = super().loop(dead_letters, outlet, store, [*observers, rounds], stop)
            rounds.watch(loop)
            return loop

    app.Pipeline = Watched  # type: ignore[misc]
    settings = config.load(Path(sys.argv[1]), {}, app.configuration_type())
    configure(settings.log)
    app.run_service(settings, SystemClock(), stop)
    found = {"rounds": rounds.rounds, "checkpoints_s": rounds.checkpoints_s, "ticks": rounds.ticks}
    found |= {"peak_rss_bytes": peak_rss_bytes()}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
