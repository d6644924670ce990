"""Label sets that nothing needs are forgotten, and nobody can tell: neither from rows nor from state nor from letters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detectors.labels import LabelSets
from service.ingest.contract import Record, RecordBatch
from service.ingest.decode import Decoder
from service.ingest.fields import FieldTable
from service.pipeline.intake import Intake
from service.pipeline.saved_state import state_hash
from service.settings import FleetSettings, IngestSettings
from tests.service.pipeline.stream import START_NS, configuration, gpu, told, worker

GPUS, POD_ROUNDS, ROUNDS = 40, 6, 60
FIELDS = FieldTable.load()


class Bench:
    """Decoder, worker and intake, as the loop drives them without a thread."""

    def __init__(self, unused_max: int, scanning: bool = True, **fleet: int) -> None:
        ingest = IngestSettings().model_copy(update={"label_sets_unused_max": unused_max})
        settings = configuration(ingest=ingest, fleet=FleetSettings(**fleet))
        label_sets = LabelSets()
        self.worker = worker(settings, label_sets)
        self.intake = Intake(Decoder({}, ingest, FIELDS, label_sets, scanning), self.worker, ingest, None)
        self.label_sets = label_sets
        self.outcomes: list = []
        self.letters: list = []
        self.forgot = 0
        self._offset = 0

    def feed(self, values: list[dict]) -> None:
        """Take in one record for each value."""
        records = [Record(self._offset + i, -1, None, json.dumps(value).encode()) for i, value in enumerate(values)]
        self._offset += len(records)
        batch = RecordBatch("t", 0, self._offset, records)
        self.letters += self.intake.take(batch, self.intake.decode(batch)).lines(value_bytes_max=100)
        if self.intake.knows_too_many():
            self.intake.forget_label_sets()
            self.forgot += 1
        self.worker.advance(frozenset(), self.outcomes.append)


def reading(gpu_number: int, round_: int, pod: int) -> dict:
    """Return a message of a GPU whose pod changes with time."""
    return {
        "ts": START_NS // 10**6 + round_ * 15_000,
        "gpu": f"GPU-{gpu_number:04d}",
        "node": f"node-{gpu_number // 8}",
        "namespace": "team-a",
        "pod": f"train-{gpu_number}-{pod}",
        "sm": 0.0 if gpu_number % 4 == 0 else 0.5 + round_ % 7 * 0.01,
    }


def fed(bench: Bench) -> Bench:
    """Feed pods that come and go, come back, and ids that there is no room for."""
    for round_ in range(ROUNDS):
        made_up = [reading(1000 + round_ * 20 + k, round_, 0) for k in range(20)]
        bench.feed([reading(g, round_, round_ // POD_ROUNDS % 4) for g in range(GPUS)] + made_up)
    return bench


@pytest.mark.parametrize("scanning", [True, False])
def test_forgetting_changes_neither_state_nor_alerts_nor_letters(scanning):
    calm, tested = fed(Bench(10**6, scanning, entities_max=GPUS)), fed(Bench(60, scanning, entities_max=GPUS))
    assert (calm.forgot, tested.forgot > 10) == (0, True)
    assert told(tested.outcomes) == told(calm.outcomes)
    assert tested.letters == calm.letters != []
    assert state_hash(tested.worker.snapshot()) == state_hash(calm.worker.snapshot())


def test_a_flood_of_refused_ids_leaves_no_more_label_sets_than_the_bound():
    tested = fed(Bench(60, entities_max=GPUS))
    most = 2 * GPUS + 60 + 60  # of a tick that waits and of the one before; the bound; a batch
    assert len(tested.label_sets) <= most
    (scanner,) = tested.intake._decoder._scanning._scanners.values()
    assert len(scanner._labels) <= most


def test_a_cut_that_is_being_saved_still_sees_the_labels_of_its_waiting_rows():
    tested = Bench(60)
    tested.feed([reading(g, 0, 0) for g in range(GPUS)])
    waiting = tested.worker.pending.frozen()
    before = waiting.arrays()["labels"].joined().tobytes()
    tested.worker.finish(tested.outcomes.append)
    tested.intake.forget_label_sets()
    for round_ in range(1, 20):
        tested.feed([reading(g, round_, round_) for g in range(GPUS)])
    assert tested.forgot > 0
    assert waiting.arrays()["labels"].joined().tobytes() == before


def test_forgotten_ids_are_given_again_and_the_others_stay():
    label_sets = LabelSets()
    ids = [label_sets.intern(gpu(f"GPU-{i}")) for i in range(6)]
    frozen = label_sets.frozen()
    used = np.isin(ids, [1, 4])
    label_sets.forget(used)
    label_sets.forget(used)
    assert label_sets.known() == 2
    assert sorted(label_sets.intern(gpu(f"GPU-new-{i}")) for i in range(5)) == [0, 2, 3, 5, 6]
    assert (label_sets[1], label_sets[4]) == (gpu("GPU-1"), gpu("GPU-4"))
    assert [frozen[i] for i in ids] == [gpu(f"GPU-{i}") for i in range(6)]


def test_the_last_place_is_for_who_comes_first_in_the_log_whatever_number_a_label_set_has():
    for first_known in (True, False):
        label_sets = LabelSets()
        tested = worker(configuration(fleet=FleetSettings(entities_max=1)), label_sets)
        names = ["GPU-late", "GPU-early"] if first_known else ["GPU-early", "GPU-late"]
        for name in names:
            label_sets.intern(gpu(name))
        room = tested._admission.room(
            np.array([label_sets.intern(gpu(name)) for name in ("GPU-early", "GPU-late")], np.int32),
            np.ones(2, np.bool_),
        )
        assert room.tolist() == [True, False]
