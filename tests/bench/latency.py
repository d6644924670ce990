"""From an event to its alert: what an alert had to wait for, and how long after that it was in the notifier's hands."""

from __future__ import annotations

import math
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.bench.build import ours_python, peers_python
from tests.bench.engines import Cores, load_arguments, run
from tests.bench.works import Steady

Round = tuple[int, Sequence[int]]  # event time in ms, and by partition when its first record was produced


def awaited_ns(rounds: Sequence[Round], fired_ns: int, lateness_ns: int) -> int | None:
    """Return when the last record was produced that an alert of the tick that ended at fired_ns had to wait for.

    A tick closes when the newest event time of every partition has passed its end by the lateness. None: never.
    """
    first = bisect_left(rounds, fired_ns + lateness_ns, key=lambda each: each[0] * 10**6)
    return max(rounds[first][1]) if first < len(rounds) else None


def latencies_s(rounds: Sequence[Round], reached: Iterable[tuple[int, int]], lateness_ns: int) -> list[float]:
    """Return how long each alert took, in order: given are the end of its tick, and when it was where it should be."""
    waits = [(awaited_ns(rounds, fired_ns, lateness_ns), then_ns) for fired_ns, then_ns in reached]
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
    bootstrap: str, cores: Cores, rate: float, seconds: float, timeout_s: float, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Produce at a rate while ours reads on a core of its own; return figures and faults."""
    load = Steady.at(rate, seconds)
    create(bootstrap, load)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        ready = str(Path(folder) / "ready")
        service = [ours_python(), "-m", "tests.bench.alerts", bootstrap, *load_arguments(load)[1:], ready]
        reading = pool.submit(run, service, cores.of(1), timeout_s)
        command = [peers_python(), "-m", "tests.bench.paced", bootstrap, *load_arguments(load), str(rate), ready]
        produced = run(command, str(cores.engines[1]), timeout_s)
        found = reading.result()
    figures = _figures(load, produced, found)
    if "p99_s" in figures:
        say(f"latency at {rate:,.0f} messages/s: p50 {figures['p50_s']:.3f} s, p99 {figures['p99_s']:.3f} s")
    return figures, faults(load, found)


def create(bootstrap: str, load: Steady) -> None:
    """Create the topic of a load."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(load.topic, load.partitions, 1)])
    admin.close()


def _figures(load: Steady, produced: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    rounds, lateness_ns = produced["rounds"], found["lateness_ns"]
    stored = latencies_s(rounds, [(fired_ns, put_ns) for _, fired_ns, put_ns, _ in found["handed"]], lateness_ns)
    ordered = latencies_s(rounds, [(fired_ns, then_ns) for _, fired_ns, _, then_ns in found["handed"]], lateness_ns)
    figures = {
        "messages_per_s": produced["messages_per_s"],
        "producer_late_max_s": produced["late_max_s"],
        "broker_ack_max_s": produced["ack_max_s"],
        "gpus": load.gpus,
        "alerts": len(ordered),
        "checkpoints": found["checkpoints"],
        "ticks": found["ticks"],
        "peak_rss_bytes": found["peak_rss_bytes"],
    }
    if ordered:
        figures |= {"outbox_p50_s": percentile(stored, 0.5), "outbox_p99_s": percentile(stored, 0.99)}
        figures |= {
            "min_s": ordered[0],
            "p50_s": percentile(ordered, 0.5),
            "p99_s": percentile(ordered, 0.99),
            "max_s": ordered[-1],
        }
    return figures
