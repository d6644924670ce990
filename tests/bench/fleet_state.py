"""A state folder that knows a fleet already, so that its arrival takes no part: python -m tests.bench.fleet_state CONFIG MESSAGES GPUS."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from service import app, config
from service.clock import SystemClock
from service.ingest.contract import Record, RecordBatch
from service.ingest.file_source import FileSource
from service.pipeline.checkpoint import Checkpoint, FileCheckpointStore, StateDirectory
from tests.bench.works import GPUS_PER_NODE, START_MS, STEADY, STEP_MIN_S, Load, named

ROUNDS = 3
BATCH = 50_000


def batches(load: Load) -> Iterator[RecordBatch]:
    """Give a few rounds that lie before the topic's first one; the topic itself is still to be read from its beginning."""
    random_ = random.Random(7)
    for round_ in range(-ROUNDS, 0):
        time_ms = START_MS + round_ * STEP_MIN_S * 1000
        for partition in range(load.partitions):
            gpus = range(partition, load.gpus, load.partitions)
            for at in range(0, len(gpus), BATCH):
                records = [
                    Record(i, time_ms, None, _value(load, gpu, time_ms, random_))
                    for i, gpu in enumerate(gpus[at : at + BATCH])
                ]
                yield RecordBatch(load.topic, partition, 0, records)


def _value(load: Load, gpu: int, time_ms: int, random_: random.Random) -> bytes:
    util = round(random_.random() * 40 + 60, 1)
    reading = {"ts": time_ms, "gpu": load.gpu_name(gpu), "node": f"node-{gpu // GPUS_PER_NODE:04d}", "util": util}
    reading |= {
        "sm": round(util / 100 * 0.8, 4),
        "mem": 40000 + gpu % 1000,
        "power": round(250 + random_.random() * 400, 1),
    }
    return json.dumps(reading, separators=(",", ":")).encode()


def main() -> None:
    """Take the rounds in, close their ticks, and save."""
    file, messages, gpus = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    settings = config.load(file, {}, app.configuration_type())
    clock = SystemClock()
    pipeline = app.Pipeline(settings, FileSource(settings.source.file, clock), None, clock)
    for batch in batches(named(STEADY.name, messages, gpus, 4)):
        assert not pipeline.intake.take(batch, pipeline.intake.decode(batch))
    pipeline.worker.finish(lambda _: None)
    directory = StateDirectory(Path(settings.state.directory))
    store = FileCheckpointStore(directory)
    extras = {
        "dead_letter_kind": "file",
        "dead_letter_position": 0,
        "intake": pipeline.intake.snapshot(),
        "breaker": pipeline.breaker.snapshot(),
    }
    arrays = pipeline.worker.snapshot()
    store.save(Checkpoint(arrays, extras))
    store.close()
    directory.release()
    print(json.dumps({"gpus": len(pipeline.worker.entities), "bytes": sum(a.nbytes for a in arrays.values())}))


if __name__ == "__main__":
    main()
