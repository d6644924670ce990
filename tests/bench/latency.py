"""From an event to its alert: what an alert had to wait for, and how long after that it was in the notifier's hands."""

from __future__ import annotations

import math
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench.build import ours_python, peers_python
from tests.bench.engines import Cores, load_arguments, run
from tests.bench.works import Steady

LATENESS_NS = 30 * 10**9  # ingest.lateness_max_s, by default
PRODUCER_SHARE = 0.5  # of what it can while nobody reads: beyond that one would measure its own queue
Round = tuple[int, Sequence[int]]  # event time in ms, and by partition when its first record was produced


def awaited_ns(rounds: Sequence[Round], fired_ns: int, lateness_ns: int = LATENESS_NS) -> int | None:
    """Return when the last record was produced that an alert of the tick that ended at fired_ns had to wait for.

    A tick closes when the newest event time of every partition has passed its end by the lateness. None: never.
    """
    first = bisect_left(rounds, fired_ns + lateness_ns, key=lambda each: each[0] * 10**6)
    return max(rounds[first][1]) if first < len(rounds) else None


def latencies_s(rounds: Sequence[Round], reached: Iterable[tuple[int, int]]) -> list[float]:
    """Return how long each alert took, in order: given are the end of its tick, and when it was where it should be."""
    waits = [(awaited_ns(rounds, fired_ns), then_ns) for fired_ns, then_ns in reached]
    return sorted((then_ns - since_ns) / 1e9 for since_ns, then_ns in waits if since_ns is not None)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of all does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def faults(load: Steady, found: dict[str, Any]) -> list[str]:
    """Return what was not told, or told without cause."""
    told = {gpu for gpu, *_ in found["handed"]}
    expected = load.idle_gpus()
    wrong = []
    if found["messages"] != load.messages:
        wrong.append(f"{found['messages']} messages read, {load.messages} are there")
    if missing := expected - told:
        wrong.append(f"{len(missing)} of {len(expected)} alerts are missing")
    if other := told - expected:
        wrong.append(f"{len(other)} GPUs found that do not idle")
    if found["rejected"]:
        wrong.append(f"{found['rejected']} records rejected")
    return [f"latency: {words}" for words in wrong]


def measure(
    bootstrap: str, cores: Cores, half_rate: float, seconds: float, timeout_s: float, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Produce at half of ours' rate, or at what the producer can, while ours reads; return figures and faults."""
    beside, own = str(cores.engines[1]), cores.of(1)

    def paced(load: Steady, *more: str) -> dict[str, Any]:
        command = [peers_python(), "-m", "tests.bench.paced", bootstrap, *load_arguments(load), *more]
        return run(command, beside, timeout_s)

    able = paced(Steady.at(half_rate, seconds))["messages_per_s"]
    rate = min(half_rate, PRODUCER_SHARE * able)
    load = Steady.at(rate, seconds)
    say(f"latency: {rate:,.0f} messages/s; half of ours is {half_rate:,.0f}, the producer can {able:,.0f}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        ready = str(Path(folder) / "ready")
        service = [ours_python(), "-m", "tests.bench.alerts", bootstrap, *load_arguments(load)[1:], ready]
        reading = pool.submit(run, service, own, timeout_s)
        produced = paced(load, str(rate), ready)
        found = reading.result()
    rounds = produced["rounds"]
    stored = latencies_s(rounds, [(fired_ns, put_ns) for _, fired_ns, put_ns, _ in found["handed"]])
    ordered = latencies_s(rounds, [(fired_ns, handed_ns) for _, fired_ns, _, handed_ns in found["handed"]])
    figures = {
        "messages_per_s": produced["messages_per_s"],
        "half_of_ours_per_s": half_rate,
        "producer_max_per_s": able,
        "producer_queue_max_s": produced["queue_max_s"],
        "gpus": load.gpus,
        "alerts": len(ordered),
        "ticks": found["ticks"],
        "peak_rss_bytes": found["peak_rss_bytes"],
    }
    if ordered:
        figures |= {"outbox_p50_s": percentile(stored, 0.5), "outbox_p99_s": percentile(stored, 0.99)}
        figures |= {"p50_s": percentile(ordered, 0.5), "p99_s": percentile(ordered, 0.99), "max_s": ordered[-1]}
    return figures, faults(load, found)
