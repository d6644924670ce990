"""The composition root: every object is built here once, in the order in which events flow."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from detectors import DETECTORS
from detectors.contract import Detector
from detectors.labels import LabelSets
from detectors.params import Params
from kernels.cache import FOLDER
from service.alerting.contract import Notification, Notifier
from service.alerting.deliver import Deliverer
from service.alerting.notifiers import NOTIFIERS
from service.alerting.outbox import Outbox
from service.alerting.route import receivers_for
from service.clock import Clock
from service.config import Configuration, settings_type
from service.http import HttpServer
from service.ingest.breaker import Breaker
from service.ingest.contract import Source
from service.ingest.dead_letter import DeadLetterFile
from service.ingest.decode import Decoder
from service.ingest.fields import FieldTable
from service.ingest.file_source import FileSource
from service.ingest.kafka_dead_letters import DeadLetterTopic
from service.ingest.kafka_seam import raw_problem
from service.ingest.kafka_source import KafkaSource
from service.ingest.letters import DeadLetters
from service.ingest.simulate.source import SimulateSource
from service.logs import get_logger
from service.metrics import register
from service.pipeline.ahead import DecodingAhead
from service.pipeline.checkpoint import Checkpoint, FileCheckpointStore, StateDirectory
from service.pipeline.directory import Directory
from service.pipeline.intake import Intake
from service.pipeline.loop import Loop, Observer
from service.pipeline.prices import PriceBook
from service.pipeline.replay import Progress, Recorder
from service.pipeline.reporter import Reporter
from service.pipeline.tenure import undisturbed
from service.pipeline.warm_up import warm_up
from service.pipeline.worker import Worker
from service.settings import AlertingSettings, Settings
from service.view import Publisher
from service.watchdog import Watchdog

STOP_DEADLINE_S = 8.0
UNBOUNDED_BYTES = 1 << 62  # for a replay, whose letters are asked for, in one file

log = get_logger(__name__)


def configuration_type() -> type[Configuration]:
    """Return the type of the whole configuration, plug-ins included."""
    return settings_type(
        {name: detector.params_type for name, detector in DETECTORS.items()},
        {name: notifier.params_type for name, notifier in NOTIFIERS.items()},
    )


def chosen_detectors(settings: Configuration) -> dict[str, tuple[type[Detector], Params]]:
    """Return each detector with its parameters."""
    return {name: (detector, settings.detector(name)) for name, detector in DETECTORS.items()}


def build_source(settings: Settings, clock: Clock) -> Source:
    """Return the source that the configuration names."""
    chosen = settings.source
    match chosen.kind:
        case "kafka":
            return KafkaSource(chosen.kafka, clock)
        case "file":
            return FileSource(chosen.file, clock)
        case "simulate":
            return SimulateSource(chosen.simulate, clock)


def build_notifiers(settings: Configuration, clock: Clock) -> dict[str, Notifier]:
    """Return the configured receivers by name."""
    return {
        receiver.name: NOTIFIERS[receiver.type].from_params(receiver, clock, settings.alerting.page_url)
        for receiver in settings.alerting.receivers
    }


class Mailbox:
    """The loop's outlet: routes each notification and makes it durable in the outbox."""

    def __init__(self, outbox: Outbox, settings: AlertingSettings, count_unrouted: Callable[[], object]) -> None:
        self._outbox = outbox
        self._routes = settings.routes
        self._count_unrouted = count_unrouted

    def put(self, notifications: Sequence[Notification]) -> None:
        """Keep the notifications for their receivers; one for nobody is said aloud."""
        addressed = [(n, receivers_for(n, self._routes)) for n in notifications]
        self._outbox.put(addressed)
        for notification, receivers in addressed:
            if not receivers:
                self._count_unrouted()
                log.warning("no route matches", kind=notification.kind, owner=notification.owner)

    def full(self) -> bool:
        """Tell whether too many wait for delivery."""
        return self._outbox.full()


class Pipeline:
    """Worker, decoder and loop around one source, fresh or from a checkpoint; what a service and a replay share."""

    def __init__(
        self,
        settings: Configuration,
        source: Source,
        resume: Checkpoint | None,
        clock: Clock,
        *,
        scanning: bool = True,
    ) -> None:
        """Without `scanning` the reference parser reads every record, with the same result."""
        self.settings = settings
        self.source = source
        self.clock = clock
        self.directory = Directory(PriceBook(settings.prices), settings.fleet.teams)
        self.fields = FieldTable.load()
        label_sets = LabelSets()
        decoder = Decoder(settings.source.kafka.formats, settings.ingest, self.fields, label_sets, scanning)
        arrays = resume.arrays if resume is not None else None
        extras: Mapping[str, Any] = resume.extras if resume is not None else {}
        self.worker = Worker(settings, chosen_detectors(settings), self.directory, label_sets, arrays)
        self.intake = Intake(decoder, self.worker, settings.ingest, extras.get("intake"))
        self.resumed = resume is not None
        self.breaker = Breaker(settings.ingest.dead_letter, extras.get("breaker"))

    def loop(
        self,
        dead_letters: DeadLetters,
        outlet: Any,
        store: FileCheckpointStore | None,
        observers: Sequence[Observer],
        stop: threading.Event,
    ) -> Loop:
        """Return the loop that drives it all."""
        return Loop(
            settings=self.settings,
            source=self.source,
            intake=self.intake,
            worker=self.worker,
            dead_letters=dead_letters,
            breaker=self.breaker,
            ahead=DecodingAhead(threaded=len(os.sched_getaffinity(0)) > 1),
            outlet=outlet,
            store=store,
            observers=observers,
            clock=self.clock,
            stop=stop,
        )


def compile_kernels(settings: Configuration) -> Path | None:
    """Compile every kernel, also those that only Kafka needs, and return the folder where they are kept, if any."""
    warm_up(settings, chosen_detectors(settings), Directory(PriceBook(settings.prices), settings.fleet.teams))
    raw_problem(settings.source.kafka)  # its trial reads a log
    return FOLDER


def run_service(settings: Configuration, clock: Clock, stop: threading.Event) -> None:
    """Run until `stop` is set or a finite input has ended. Raises what ends the process; the caller names exit codes."""
    with ExitStack() as cleanup:
        notifiers = build_notifiers(settings, clock)
        directory = StateDirectory(Path(settings.state.directory))
        cleanup.callback(directory.release)
        publisher = Publisher(clock)
        registry = CollectorRegistry()
        timings = register(registry, publisher, settings.http, clock, version("skinflint"))
        stuck_after_s = settings.watchdog.stuck_after_s
        server = HttpServer(settings.http, publisher, registry, clock, stuck_after_s=stuck_after_s)
        address = server.start()
        cleanup.callback(server.stop, STOP_DEADLINE_S / 4)
        log.info("page, API and metrics are served", address=address)
        warm_up(settings, chosen_detectors(settings), Directory(PriceBook(settings.prices), settings.fleet.teams))
        outbox = Outbox(directory.database, settings.alerting, clock)
        cleanup.callback(outbox.close)
        store = FileCheckpointStore(directory)
        cleanup.callback(store.close)
        pipeline, saved = _resumed(settings, store, clock, cleanup)
        timings.raw_batches.set(isinstance(pipeline.source, KafkaSource) and pipeline.source.reads_raw())
        dead_letters = _dead_letters(settings, directory, saved, clock)
        cleanup.callback(dead_letters.close)
        deliverer = Deliverer(outbox, notifiers, clock, settings.alerting)
        deliverer.start()
        cleanup.callback(deliverer.stop, STOP_DEADLINE_S / 2)
        watchdog = Watchdog(stuck_after_s, clock)
        reporter = Reporter(publisher, timings, settings, deliverer, watchdog, clock)
        mailbox = Mailbox(outbox, settings.alerting, timings.unrouted.inc)
        loop = pipeline.loop(dead_letters, mailbox, store, [reporter], stop)
        watchdog.start()
        cleanup.callback(watchdog.stop)
        with undisturbed():
            # Readers see the resumed state at once: on a quiet topic no tick may close for long.
            reporter.on_round(loop)
        log.info("started", source=settings.source.kind, resumed=pipeline.resumed, address=address)
        loop.run()
        _serve_until_stopped(loop, reporter, stop)


def _resumed(
    settings: Configuration, store: FileCheckpointStore, clock: Clock, cleanup: ExitStack
) -> tuple[Pipeline, Mapping[str, Any] | None]:
    """Return the pipeline as of the last checkpoint, and what that holds besides; the arrays are the pipeline's then."""
    with undisturbed():
        resume = store.load()
        source = build_source(settings, clock)
        cleanup.callback(source.close)
        pipeline = Pipeline(settings, source, resume, clock)
    return pipeline, None if resume is None else resume.extras


def _serve_until_stopped(loop: Loop, reporter: Reporter, stop: threading.Event) -> None:
    """After a finite input: the result stays to be looked at until somebody ends the process."""
    if not loop.finished:
        return
    log.info("the input has ended; the page stays up until the process is stopped")
    while not stop.wait(1):
        reporter.on_round(loop)


def _dead_letters(
    settings: Settings, directory: StateDirectory, saved: Mapping[str, Any] | None, clock: Clock
) -> DeadLetters:
    chosen = settings.ingest.dead_letter
    if chosen.kind == "kafka":
        return DeadLetterTopic(settings.source.kafka, chosen, clock)
    position: int | None = 0
    if saved is not None:
        # Letters of an earlier time with a file stay, when letters went to a topic meanwhile.
        same = saved["dead_letter_kind"] == "file"
        position = int(saved["dead_letter_position"]) if same else None
    return DeadLetterFile(directory.dead_letters, chosen, position)


def run_replay(
    settings: Configuration, inputs: Sequence[str], out: Path, clock: Clock, progress: Progress | None = None
) -> dict[str, Any]:
    """Replay recorded input into the folder `out`; return the summary."""
    files = settings.source.file.model_copy(update={"paths": list(inputs), "follow": False})
    return replay_source(settings, FileSource(files, clock), out, clock, progress)


def replay_source(
    settings: Configuration, source: Source, out: Path, clock: Clock, progress: Progress | None = None
) -> dict[str, Any]:
    """Run a finite source through the pipeline, fresh, into the folder `out`; return the summary."""
    recorder = Recorder(out, settings.fleet.tick_s, progress)
    kept = settings.ingest.dead_letter.model_copy(update={"bytes_max": UNBOUNDED_BYTES})
    letters = DeadLetterFile(out / "dead_letters.ndjson", kept, 0)
    pipeline = Pipeline(settings, source, None, clock)
    loop = pipeline.loop(letters, recorder, None, [recorder], threading.Event())
    try:
        loop.run()
        return recorder.finish(loop)
    finally:
        letters.close()
        source.close()
