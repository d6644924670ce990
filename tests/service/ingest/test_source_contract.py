"""The promises of a Source, kept by files and by the simulator; test_kafka_source.py holds Kafka to the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from service.clock import SystemClock
from service.ingest.contract import Source
from service.ingest.file_source import FileSource
from service.ingest.simulate.source import SimulateSource
from service.settings import FileSettings, SimulateSettings
from tests.service.ingest.source_contract import PROMISES, Make


def _files(folder: Path) -> Make:
    paths = [folder / f"{name}.ndjson" for name in ("a", "b")]
    for path in paths:
        lines = [json.dumps({"file": path.name, "i": i}) for i in range(500)]
        path.write_text("\n".join(lines) + "\n")
    return lambda: FileSource(FileSettings(paths=[str(path) for path in paths]), SystemClock())


def _capture(folder: Path) -> Make:
    lines = [
        json.dumps(
            {
                "partition": partition,
                "offset": 3 * i,
                "timestamp": i,
                "key_b64": None,
                "value_b64": base64.b64encode(b"%d" % i).decode(),
                "headers": [],
            }
        )
        for partition in range(2)
        for i in range(300)
    ]
    path = folder / "capture.ndjson"
    path.write_text("\n".join(lines) + "\n")
    return lambda: FileSource(FileSettings(paths=[str(path)]), SystemClock())


def _simulated(folder: Path) -> Make:
    settings = SimulateSettings(nodes=2, speed=0, duration_s=1800)

    def make() -> Source:
        return SimulateSource(settings, SystemClock(), start_ns=1_790_000_000 * 10**9)

    return make


@pytest.mark.parametrize("keeper", [_files, _capture, _simulated], ids=lambda keeper: keeper.__name__.strip("_"))
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_the_source_keeps_its_promise(
    promise: Callable[[Make], None], keeper: Callable[[Path], Make], tmp_path: Path
) -> None:
    promise(keeper(tmp_path))
