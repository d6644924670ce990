"""make bench: how fast kernels fold, the decoder reads, and the whole pipeline replays; medians of interleaved rounds.

usage: python -m tests.bench [--quick]. Writes build/bench.json (work → rows per second, every round).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from kernels.activity import activity_select
from kernels.ewma import ewma_add
from kernels.histogram import histogram_add
from kernels.latest import latest_add
from kernels.window import window_add
from service import app, config
from service.clock import SystemClock
from service.ingest.contract import RecordBatch
from service.ingest.simulate.source import SimulateSource
from service.logs import configure
from service.settings import LogSettings, SimulateSettings

START_NS = 1_790_000_000 * 10**9
Work = tuple[Callable[[], None], int]  # what to run, and how many rows it is


def kernels(entities: int, rows: int) -> dict[str, Work]:
    """Return each fold kernel over rows spread evenly over the entities, sorted as a tick sorts them."""
    rng = np.random.default_rng(1)
    entity = np.sort(np.arange(rows, dtype=np.int32) % entities)
    time_ns = START_NS + np.arange(rows, dtype=np.int64) % (rows // entities + 1) * 10**9
    value = rng.random(rows)
    wide = rng.random((rows, 8))
    panes = [np.full((entities, 5), -1, np.int64), *(np.zeros((entities, 5), np.int32) for _ in range(2))]
    panes += [np.zeros((entities, 5)) for _ in range(4)]
    ewma = [np.zeros(entities, np.int64), np.full(entities, np.nan), np.zeros(entities)]
    bins = [np.zeros(entities, np.int64), np.zeros((entities, 20))]
    latest = [np.full((entities, 8), np.nan), np.zeros((entities, 8), np.int64)]
    seen, out = np.zeros((entities, 3), np.int64), np.empty(rows)
    span_ns = (rows // entities + 1) * 10**9

    def later(fold: Callable[[], None]) -> Callable[[], None]:
        """Fold rows that are newer than those of the round before: old ones would be passed over, and look fast."""

        def run() -> None:
            time_ns[:] += span_ns
            fold()

        return run

    return {
        "ewma_add": (later(lambda: ewma_add(entity, time_ns, value, 300.0, *ewma)), rows),
        "window_add": (later(lambda: window_add(entity, time_ns, value, 60 * 10**9, 0.5, *panes)), rows),
        "histogram_add": (later(lambda: histogram_add(entity, time_ns, value, 0.0, 0.05, 3600.0, *bins)), rows),
        "latest_add, 8 columns": (later(lambda: latest_add(entity, time_ns, wide, *latest)), rows * 8),
        "activity_select": (
            later(lambda: activity_select(entity, time_ns, value, value, value, 10**11, seen, out)),
            rows,
        ),
    }


def decoding(nodes: int) -> dict[str, Work]:
    """Return the reference decoder over native records of a simulated fleet."""
    settings = config.load(None, {}, app.configuration_type())
    source = SimulateSource(SimulateSettings(nodes=nodes, duration_s=900, speed=0), SystemClock(), start_ns=START_NS)
    for partition in source.assigned():
        source.seek(partition, None)
    batches: list[RecordBatch] = []
    while found := source.poll(0, frozenset()):
        batches += found
    pipeline = app.Pipeline(settings, source, None, SystemClock())
    decoder = pipeline.intake._decoder

    def run() -> None:
        for batch in batches:
            decoder.decode(batch)

    return {"decode native JSON": (run, sum(len(batch.records) for batch in batches))}


def replaying(nodes: int, hours: float) -> dict[str, Work]:
    """Return the whole pipeline over a simulated fleet, from bytes to alerts; simulating is part of it."""
    settings = config.load(None, {}, app.configuration_type())
    rows = int(nodes * 8 * hours * 240)

    def run() -> None:
        fleet = SimulateSettings(nodes=nodes, duration_s=hours * 3600, speed=0)
        source = SimulateSource(fleet, SystemClock(), "clean", start_ns=START_NS)
        with tempfile.TemporaryDirectory() as folder:
            app.replay_source(settings, source, Path(folder), SystemClock())

    return {f"simulate and replay, {nodes * 8} GPUs": (run, rows)}


def measure(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Return rows per second of each work, one figure a round; works take turns within a round."""
    for run, _ in works.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (run, rows) in works.items():
            started_s = time.perf_counter()
            run()
            found[name].append(rows / (time.perf_counter() - started_s))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", default=bool(os.environ.get("QUICK")))
    quick = parser.parse_args().quick
    configure(LogSettings(level="warning"))
    works: dict[str, Work] = {}
    for entities in (1_000, 50_000) if quick else (1_000, 50_000, 1_000_000):
        works |= {
            f"{name}, {entities:,} GPUs": work for name, work in kernels(entities, max(200_000, entities)).items()
        }
    works |= decoding(16) | replaying(16 if quick else 128, 1)
    found = measure(works, 3 if quick else 5)
    table = Table("work", "rows/s, median", "ns a row")
    for name, rates in found.items():
        table.add_row(name, f"{median(rates):,.0f}", f"{1e9 / median(rates):,.1f}")
    Console().print(table)
    Path("build").mkdir(exist_ok=True)
    Path("build/bench.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
