"""Ours on one topic, as the service runs it: python -m tests.bench.ours BOOTSTRAP WORK MESSAGES GPUS PARTITIONS.

Source, decoder, worker with every detector, outbox and checkpoints are the service's own; only the page and the sending of
messages are left out. Prints one line of JSON: the rate from the first batch in hand to the last checkpoint, the GPUs of
the alerts that fired, what was rejected, peak memory, and the seconds of each stage.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from service import app, config
from service.alerting.outbox import Outbox
from service.clock import SystemClock
from service.config import Configuration
from service.ingest.contract import RecordBatch
from service.ingest.dead_letter import DeadLetterFile
from service.ingest.kafka_source import KafkaSource
from service.logs import configure
from service.pipeline.checkpoint import FileCheckpointStore, StateDirectory
from service.pipeline.directory import Directory
from service.pipeline.intake import Intake
from service.pipeline.loop import Loop
from service.pipeline.prices import PriceBook
from service.pipeline.warm_up import warm_up
from service.pipeline.worker import TickOutcome, Worker
from tests.bench.works import Load

IDLE_KINDS = ("idle_held", "truly_idle")


def settings_of(bootstrap: str, load: Load, folder: Path, **more: dict[str, Any]) -> Configuration:
    """Return the default configuration with this topic and this fleet, and `more` by section.

    Idleness fires after ten minutes, as the peers' does.
    """
    count = max(100_000, 2 * load.gpus)
    values: dict[str, Any] = {
        "source": {
            "kind": "kafka",
            "kafka": {
                "bootstrap_servers": [bootstrap],
                "topics": [load.topic],
                "formats": {load.topic: load.work.format},
                "group_id": f"ours-{time.time_ns()}",
            },
        },
        "fleet": {"entities_max": count},
        "state": {"directory": str(folder / "state")},
        "detectors": {"idle_waste": {"for_s": dict.fromkeys(IDLE_KINDS, 300)}},
        "log": {"level": "warning"},
    }
    for section, chosen in more.items():
        values[section] = values.get(section, {}) | chosen
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return config.load(file, {}, app.configuration_type())


class Stopwatch:
    """Sums the seconds spent inside methods that it wraps; the product knows nothing of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, method: str, stage: str) -> None:
        """Count the time of `owner.method` under `stage`."""
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                self.seconds[stage] += time.perf_counter() - began_s

        setattr(owner, method, timed)


class Finish:
    """Notes when the first batch came in, stops the loop when the last message did; also sees which alerts fire."""

    def __init__(self, stopwatch: Stopwatch, stop: threading.Event, messages: int, marks: Sequence[int]) -> None:
        self.began_s = 0.0
        self.passed: list[dict[str, float]] = []
        self._marks = deque(marks)
        self.idle_gpus: set[str] = set()
        self.other_alerts = 0
        self._stopwatch = stopwatch
        self._stop = stop
        self._messages = messages
        self._next_offsets: dict[int, int] = {}

    def watch(self, intake: Intake, worker: Worker) -> None:
        """See what these take in."""
        for owner, method, stage in (
            (intake, "decode", "decode"),
            (intake, "take", "take"),
            (worker, "advance", "tick"),
            (worker, "snapshot", "checkpoint"),
        ):
            self._stopwatch.wrap(owner, method, stage)
        inner = intake.take

        def take(batch: RecordBatch, decoded: Any) -> Any:
            if not self.began_s:
                self.began_s = time.perf_counter()
                self._stopwatch.seconds.clear()
            letters = inner(batch, decoded)
            # Offsets without gaps count the messages, whatever a batch looks like inside.
            self._next_offsets[batch.partition] = batch.next_offset
            return letters

        intake.take = take  # type: ignore[method-assign]

    def seen(self) -> int:
        """Return how many messages were taken in."""
        return sum(self._next_offsets.values())

    def on_round(self, loop: Loop) -> None:
        while self._marks and self.seen() >= self._marks[0]:
            seconds = time.perf_counter() - self.began_s
            mark = {"messages": self._marks.popleft(), "seen": self.seen(), "seconds": seconds}
            self.passed.append(mark | {"peak_rss_bytes": peak_rss_bytes()})
        if self.seen() >= self._messages:
            self._stop.set()

    def on_tick(self, worker: Worker, outcome: TickOutcome) -> None:
        for alert in outcome.fired:
            if alert.kind in IDLE_KINDS:
                self.idle_gpus.add(alert.labels.uuid or alert.labels.gpu)
            else:
                self.other_alerts += 1

    def on_checkpoint(self, seconds: float) -> None: ...

    def on_trouble(self, what: str) -> None: ...


def peak_rss_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(settings: Configuration, load: Load, cleanup: ExitStack, marks: Sequence[int] = ()) -> dict[str, Any]:
    """Read the topic to its end and return what there is to say about it, also after so many messages each."""
    clock, stop, stopwatch = SystemClock(), threading.Event(), Stopwatch()
    configure(settings.log)
    warm_up(settings, app.chosen_detectors(settings), Directory(PriceBook(settings.prices), {}))
    directory = StateDirectory(Path(settings.state.directory))
    cleanup.callback(directory.release)
    outbox = Outbox(directory.database, settings.alerting, clock)
    cleanup.callback(outbox.close)
    store = FileCheckpointStore(directory)
    cleanup.callback(store.close)
    source = KafkaSource(settings.source.kafka, clock)
    cleanup.callback(source.close)
    letters = DeadLetterFile(directory.dead_letters, settings.ingest.dead_letter, 0)
    cleanup.callback(letters.close)
    pipeline = app.Pipeline(settings, source, None, clock)
    finish = Finish(stopwatch, stop, load.messages, marks)
    stopwatch.wrap(source, "poll", "poll")
    stopwatch.wrap(store, "save", "checkpoint")
    finish.watch(pipeline.intake, pipeline.worker)
    loop = pipeline.loop(letters, app.Mailbox(outbox, settings.alerting, lambda: None), store, [finish], stop)
    loop.run()
    seconds = time.perf_counter() - finish.began_s
    return _said(load, loop, finish, stopwatch, seconds)


def _said(load: Load, loop: Loop, finish: Finish, stopwatch: Stopwatch, seconds: float) -> dict[str, Any]:
    stages = dict(stopwatch.seconds)
    stages["ingest"] = stages.pop("take", 0.0)
    beside = stages["decode"] if len(os.sched_getaffinity(0)) > 1 else 0.0  # on the other core, not in the loop's time
    stages["rest"] = seconds + beside - sum(stages.values())
    return {
        "messages_per_s": finish.seen() / seconds,
        "messages": finish.seen(),
        "alerts": len(finish.idle_gpus),
        "idle_gpus": sorted(finish.idle_gpus),
        "other_alerts": finish.other_alerts,
        "rejected": sum(loop.intake.letters_by_reason.values()),
        "rejected_by_reason": dict(loop.intake.letters_by_reason),
        "marks": finish.passed,
        "rows": loop.intake.outcomes["rows"],
        "gpus": len(loop.worker.entities),
        "checkpoints": loop.checkpoints,
        "peak_rss_bytes": peak_rss_bytes(),
        "seconds": seconds,
        "stages_s": stages,
    }


def main() -> None:
    """Run in a folder that is removed afterwards."""
    bootstrap, work, *numbers = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as cleanup:
        load = Load.of(work, *map(int, numbers))
        print(json.dumps(run(settings_of(bootstrap, load, Path(folder)), load, cleanup)), flush=True)


if __name__ == "__main__":
    main()
