"""A simulated stream as rows, cut and mixed in any way that a log could have."""

from __future__ import annotations

import numpy as np

from detectors import DETECTORS
from detectors.batch import EventBatch
from detectors.labels import LabelSet, LabelSets
from service.app import configuration_type
from service.clock import SystemClock
from service.config import Configuration, load
from service.ingest.decode import Decoder
from service.ingest.fields import FieldTable
from service.ingest.simulate.source import SimulateSource
from service.pipeline.directory import Directory
from service.pipeline.prices import PriceBook
from service.pipeline.worker import TickOutcome, Worker
from service.settings import IngestSettings, SimulateSettings

START_NS = 1_790_000_000 * 10**9
TICK_NS = 15 * 10**9


def configuration(**sections) -> Configuration:
    """Return the defaults with whole sections replaced."""
    return load(None, {}, configuration_type()).model_copy(update=sections)


class Rows:
    """Rows of a simulated fleet, in order of time, with labels of their own table."""

    def __init__(self, nodes: int = 2, minutes: int = 45, seed: int = 5) -> None:
        self.label_sets = LabelSets()
        settings = SimulateSettings(nodes=nodes, seed=seed, duration_s=minutes * 60, speed=0)
        source = SimulateSource(settings, SystemClock(), "clean", start_ns=START_NS)
        decoder = Decoder({}, IngestSettings(), FieldTable.load(), self.label_sets)
        for partition in source.assigned():
            source.seek(partition, None)
        batches = []
        while found := source.poll(0, frozenset()):
            batches += [decoder.decode(batch).batch for batch in found]
        names = sorted({name for batch in batches for name in batch.columns})
        time_ns = np.concatenate([batch.event_time_ns for batch in batches])
        order = np.argsort(time_ns, kind="stable")
        self.time_ns = time_ns[order]
        self.label_set = np.concatenate([batch.label_set for batch in batches])[order]
        self.columns = {
            name: np.concatenate([b.columns.get(name, np.full(len(b), np.nan)) for b in batches])[order]
            for name in names
        }

    def __len__(self) -> int:
        return len(self.time_ns)

    def batch(self, rows, partition: int, offset: int, names=None) -> EventBatch:
        """Return some rows as a batch of one partition, perhaps with only some of their columns."""
        rows = np.asarray(rows, np.int64)
        kept = self.columns if names is None else {name: self.columns[name] for name in names}
        return EventBatch(
            "t", partition, offset + len(rows), np.arange(offset, offset + len(rows)), self.time_ns[rows],
            self.label_set[rows], {name: column[rows] for name, column in kept.items()},
        )  # fmt: skip


def worker(settings: Configuration, label_sets: LabelSets, resume=None) -> Worker:
    """Return a worker with all detectors."""
    detectors = {name: (cls, settings.detector(name)) for name, cls in DETECTORS.items()}
    return Worker(settings, detectors, Directory(PriceBook(settings.prices), {}), label_sets, resume)


def told(outcomes: list[TickOutcome]) -> list[tuple]:
    """Return what the outcomes mean to the world, without wall time."""
    return [(o.end_ns, o.rows, o.fired, o.resolved, o.notifications) for o in outcomes]


def core(snapshot) -> dict[str, bytes]:
    """Return a snapshot without positions in the log: what must not depend on how rows arrived."""
    return {
        name: array.tobytes() for name, array in snapshot.items() if name != "meta" and not name.startswith("pending.")
    }


def gpu(uuid: str = "GPU-1", **labels: str) -> LabelSet:
    """Return the labels of one held GPU."""
    held = {"namespace": "team-a", "pod": "p-0", "node": "n1", "model": "NVIDIA H100 80GB HBM3"}
    return LabelSet(uuid=uuid, **(held | labels))
