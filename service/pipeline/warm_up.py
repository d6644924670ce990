"""Warm-up: every kernel is compiled, or read from the cache, before the first real row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detectors.batch import EventBatch
from detectors.columns import COLUMNS
from detectors.contract import Detector
from detectors.labels import LabelSet, LabelSets
from detectors.params import Params
from service.ingest.fields import FieldTable
from service.ingest.scanners.contract import Bounds
from service.ingest.scanning import warm_up_scanners
from service.pipeline.directory import Directory
from service.pipeline.present import Presenter
from service.pipeline.worker import Worker
from service.settings import Settings

_START_NS = 1_700_000_000 * 10**9


def warm_up(settings: Settings, detectors: Mapping[str, tuple[type[Detector], Params]], directory: Directory) -> None:
    """Push a few rows through a worker that is thrown away.

    Compiling holds the interpreter lock for seconds; within a consumer group that would cost heartbeats, so this comes
    before the source is opened.
    """
    warm_up_scanners(FieldTable.load(), Bounds(0, 1 << 62, 0, 1 << 20, 1 << 20))
    label_sets = LabelSets()
    worker = Worker(settings, detectors, directory, label_sets, None)
    label_set = label_sets.intern(LabelSet(uuid="GPU-warm-up", pod="warm-up"))
    step_ns = int(settings.fleet.tick_s * 1e9)
    n = 3
    time_ns = _START_NS + np.arange(n, dtype=np.int64) * step_ns
    batch = EventBatch(
        topic="warm-up",
        partition=0,
        next_offset=n,
        offset=np.arange(n, dtype=np.int64),
        event_time_ns=time_ns,
        label_set=np.full(n, label_set, np.int32),
        columns={column.name: np.zeros(n) for column in COLUMNS},
    )
    worker.ingest(batch)
    worker.finish(lambda _: None)
    for detector in worker.detectors.values():
        detector.evidence(0)
    Presenter().view(worker)
