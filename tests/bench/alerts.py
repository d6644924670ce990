"""The service as it runs, and when its alerts are handed to a notifier: python -m tests.bench.alerts BOOTSTRAP MESSAGES GPUS
PARTITIONS READY.

Everything is the service's own, page and checkpoints included; only the receiver is ours. Writes the file READY when it
reads, and ends when every message was read and every alert told, or no more come. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from service import app
from service.alerting.contract import Delivery, Notification, Outcome
from service.alerting.notifiers.stdout import StdoutNotifier
from service.clock import SystemClock
from service.logs import configure
from service.pipeline.loop import Loop, Observer
from service.pipeline.worker import TickOutcome, Worker
from tests.bench.ours import IDLE_KINDS, settings_of
from tests.bench.works import STEADY, Steady, named

GIVE_UP_S = 10.0
# Messages are not held back on purpose, and name every alert.
ALERTING = {"group_wait_s": 0, "group_interval_s": 0, "alerts_per_notification_max": 1000}


class Handed:
    """A notifier that notes what it is handed, and when."""

    type: ClassVar[str] = "stdout"
    rate_per_s_max: ClassVar[float] = StdoutNotifier.rate_per_s_max

    def __init__(self) -> None:
        self.alerts: list[tuple[str, int, int]] = []  # GPU, end of the tick that it fired at, wall time

    def send(self, notification: Notification) -> Delivery:
        """Take note of the alerts that are new."""
        now_ns = time.time_ns()
        if notification.reason == "firing" and notification.kind in IDLE_KINDS:
            self.alerts += [(a.labels.uuid or a.labels.gpu, a.fired_ns, now_ns) for a in notification.alerts]
        return Delivery(Outcome.DELIVERED)


class End:
    """Watches the loop: says that it reads, and stops it when all is told."""

    def __init__(self, load: Steady, handed: Handed, ready: Path, stop: threading.Event) -> None:
        self.found: dict[str, Any] = {}
        self.ticks = self.checkpoints = 0
        self.put_ns: dict[int, int] = {}  # by the end of a tick, when its alerts were in the outbox
        self._load = load
        self._handed = handed
        self._ready = ready
        self._stop = stop
        self._wanted = len(load.idle_gpus())
        self._read_s: float | None = None

    def on_round(self, loop: Loop) -> None:
        if len(loop.source.assigned()) == self._load.partitions and not self._ready.exists():
            self._ready.touch()
        read = sum(loop.worker.watermarks.next_offsets().values())
        if read < self._load.messages:
            return
        self._read_s = self._read_s or time.monotonic()
        if len(self._handed.alerts) >= self._wanted or time.monotonic() - self._read_s > GIVE_UP_S:
            rejected = sum(loop.intake.letters_by_reason.values())
            self.found = {"messages": read, "rejected": rejected, "ticks": self.ticks, "checkpoints": self.checkpoints}
            self._stop.set()

    def on_tick(self, worker: Worker, outcome: TickOutcome) -> None:
        self.ticks += 1
        if outcome.fired:
            self.put_ns[outcome.end_ns] = time.time_ns()

    def on_checkpoint(self, seconds: float) -> None:
        self.checkpoints += 1

    def on_trouble(self, what: str) -> None: ...


def run(bootstrap: str, load: Steady, ready: Path, folder: Path) -> dict[str, Any]:
    """Run the service on the load."""
    stop, handed = threading.Event(), Handed()
    end = End(load, handed, ready, stop)

    class Watched(app.Pipeline):
        def loop(
            self, dead_letters: Any, outlet: Any, store: Any, observers: Sequence[Observer], stop: threading.Event
        ) -> Loop:
            return super().loop(dead_letters, outlet, store, [*observers, end], stop)

    app.Pipeline = Watched  # type: ignore[misc]
    app.build_notifiers = lambda settings, _: {each.name: handed for each in settings.alerting.receivers}
    settings = settings_of(bootstrap, load, folder, alerting=ALERTING, http={"port": 0})
    configure(settings.log)
    app.run_service(settings, SystemClock(), stop)
    lateness_ns = int(settings.ingest.lateness_max_s * 1e9)
    found = end.found | {"lateness_ns": lateness_ns}
    return found | {"handed": [(gpu, fired, end.put_ns.get(fired, now), now) for gpu, fired, now in handed.alerts]}


def main() -> None:
    """Run in a folder that is removed afterwards."""
    bootstrap, messages, gpus, partitions, ready = sys.argv[1:]
    load = named(STEADY.name, int(messages), int(gpus), int(partitions))
    assert isinstance(load, Steady)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(bootstrap, load, Path(ready), Path(folder))), flush=True)


if __name__ == "__main__":
    main()
