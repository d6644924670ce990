"""How fast the fold kernels fold, at three sizes of fleet, beside a plain pass over the same bytes: python -m tests.bench.kernels.

The pass reads every row and adds to all of the state that rows can reach: what memory alone would take.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from kernels.activity import activity_select
from kernels.ewma import ewma_add
from kernels.histogram import histogram_add
from kernels.latest import latest_add
from kernels.window import window_add

START_NS = 1_790_000_000 * 10**9
ROWS_MIN = 200_000
Array = NDArray[np.generic]


@dataclass(frozen=True)
class Fold:
    """One kernel over prepared rows: what it reads, and what it writes."""

    name: str
    run: Callable[[], None]
    rows: int
    reads: list[Array]
    writes: list[Array]


def folds(entities: int) -> list[Fold]:
    """Return each fold kernel over rows spread evenly over the entities, sorted as a tick sorts them."""
    rows = max(ROWS_MIN, entities)
    rng = np.random.default_rng(1)
    entity = np.sort(np.arange(rows, dtype=np.int32) % entities)
    time_ns = START_NS + np.arange(rows, dtype=np.int64) % (rows // entities + 1) * 10**9
    value = rng.random(rows)
    panes: list[Array] = [np.full(1, -1, np.int64)]
    panes += [np.zeros((entities, 5), np.uint16) for _ in range(2)] + [np.zeros((entities, 5)) for _ in range(4)]
    ewma: list[Array] = [np.zeros(entities, np.int64), np.full(entities, np.nan), np.zeros(entities)]
    bins: list[Array] = [np.zeros(entities, np.int64), np.zeros((entities, 20), np.float32)]
    latest: list[Array] = [np.full(entities, np.nan), np.zeros(entities, np.int64)]
    seen, out = np.zeros((entities, 3), np.int64), np.empty(rows)
    span_ns = (rows // entities + 1) * 10**9

    def later(fold: Callable[[], None]) -> Callable[[], None]:
        """Fold rows that are newer than those of the round before: old ones would be passed over, and look fast."""

        def run() -> None:
            time_ns[:] += span_ns
            fold()

        return run

    narrow: list[Array] = [entity, time_ns, value]
    return [
        Fold("ewma_add", later(lambda: ewma_add(*narrow, 300.0, *ewma)), rows, narrow, ewma),
        Fold("window_add", later(lambda: window_add(*narrow, 60 * 10**9, 0.5, *panes)), rows, narrow, panes),
        Fold("histogram_add", later(lambda: histogram_add(*narrow, 0.0, 0.05, 3600.0, *bins)), rows, narrow, bins),
        Fold("latest_add", later(lambda: latest_add(*narrow, *latest)), rows, narrow, latest),
        Fold(
            "activity_select",
            later(lambda: activity_select(*narrow, value, value, 10**11, seen, out)),
            rows,
            narrow,
            [seen, out],
        ),
    ]


def plain_pass(fold: Fold) -> Callable[[], None]:
    """Return a pass over the same bytes: a sum of what is read, an addition to what is written."""

    def run() -> None:
        for array in fold.reads:
            array.sum()
        for array in fold.writes:
            np.add(array, 0, out=array)

    return run


def seconds(works: list[Callable[[], None]], rounds: int) -> list[float]:
    """Return the median seconds of each work; they take turns within a round, after one that does not count."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, times in zip(works, taken, strict=True):
            began_s = time.perf_counter()
            work()
            if number:
                times.append(time.perf_counter() - began_s)
    return [median(times) for times in taken]


def measure(sizes: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Return for each kernel and size: nanoseconds per row and column, and how many plain passes it takes."""
    found = {}
    for entities in sizes:
        prepared = folds(entities)
        times = seconds([fold.run for fold in prepared] + [plain_pass(fold) for fold in prepared], rounds)
        half = len(prepared)
        for fold, taken_s, pass_s in zip(prepared, times[:half], times[half:], strict=True):
            found[f"{fold.name}, {entities:,} GPUs"] = {
                "ns_per_row_and_column": taken_s / fold.rows * 1e9,
                "plain_passes": taken_s / pass_s,
            }
    return found


def main() -> None:
    """Measure the sizes given, or the three that count."""
    sizes = [int(size) for size in sys.argv[1:]] or [1_000, 50_000, 1_000_000]
    print(json.dumps(measure(sizes, 5)))


if __name__ == "__main__":
    main()
