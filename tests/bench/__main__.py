"""make bench: ours beside its peers on a real Apache Kafka, the same topics and the same work, on cores of their own.

usage: python -m tests.bench [--quick] [--scale SHARE] [--markdown] [--last | --operation]. Writes build/bench.json and a
picture.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tests.bench import operation
from tests.bench.build import ROOT, Missing
from tests.bench.engines import Cores, Failed
from tests.bench.plot import svg
from tests.bench.report import Result, grids
from tests.bench.runs import FULL, QUICK, Bench, Plan
from tests.kafka.broker import Broker, BrokerError

RESULT = ROOT / "build" / "bench.json"
PICTURES = {False: ROOT / "docs" / "bench.svg", True: ROOT / "build" / "bench.svg"}  # a quick run is no figure to show


def arguments() -> argparse.Namespace:
    """Read the command line; QUICK in the environment is what `make bench QUICK=1` sets."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    quick = os.environ.get("QUICK", "") not in {"", "0"}
    parser.add_argument("--quick", action="store_true", default=quick, help="few messages, cheap peers, three minutes")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the messages to use; a full run has 1")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--last", action="store_true", help="run nothing, print the last result")
    parser.add_argument(
        "--operation", action="store_true", help="measure only how large fleets are operated; keep the rest"
    )
    return parser.parse_args()


@contextmanager
def broker_on(core: int) -> Iterator[Broker]:
    """Run an Apache Kafka that has one core to itself: a child inherits where its parent may run."""
    broker = Broker()
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        broker.start()
        os.sched_setaffinity(0, own)
        yield broker
    finally:
        os.sched_setaffinity(0, own)
        broker.stop()


def measure(plan: Plan, console: Console) -> Result:
    """Run everything that the plan names."""
    cores = Cores.here()
    bench = Bench(plan, cores, lambda words: console.print(words, style="dim", highlight=False))
    bench.kernels()
    with broker_on(cores.broker) as broker:
        bench.works(broker.address)
        bench.latency(broker.address)
        bench.flood(broker.address)
        bench.curves(broker.address)
    return bench.result


def measure_operation(console: Console) -> Result:
    """Measure starts, scrapes and checkpoints, and put them beside the figures of the last run."""
    result: Result = json.loads(RESULT.read_text()) if RESULT.exists() else Bench.empty(FULL)
    result |= {"operation": {}, "faults": []}
    cores = Cores.here()
    with broker_on(cores.broker) as broker:
        for gpus in operation.GPUS:
            figures = operation.measure(broker.address, cores, gpus, FULL.engine_timeout_s, console.print)
            result["operation"][str(gpus)] = figures
    return result


def write(result: Result, picture: Path | None) -> None:
    """Keep the figures, and draw those of W1."""
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if picture is not None:
        picture.write_text(svg(result))


def main() -> int:
    """Measure, write, print; say what was wrong, and fail if anything was."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the broker and the engine end with us
    console = Console(width=None if sys.stdout.isatty() else 140)
    if chosen.last:
        result = json.loads(RESULT.read_text())
    else:
        plan = (QUICK if chosen.quick else FULL).scaled(chosen.scale)
        try:
            said = Console(stderr=True)
            result = measure_operation(said) if chosen.operation else measure(plan, said)
        except (BrokerError, Failed, Missing) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        write(result, None if chosen.operation else PICTURES[chosen.quick or chosen.scale < 1])
    for grid in grids(result):
        if chosen.markdown:
            print(grid.markdown(), end="\n\n")
        else:
            grid.print(console)
    for fault in result["faults"]:
        print(f"bench: {fault}", file=sys.stderr)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
