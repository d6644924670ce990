"""Operation of a large fleet: start to ready, /metrics and the page's documents, and what checkpoints cost the loop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.build import ROOT, ours_python, peers_python
from tests.bench.engines import Cores, Failed, load_arguments, run
from tests.bench.latency import create
from tests.bench.ours import settings_of
from tests.bench.works import STEADY, Steady, begun

GPUS = (100_000, 1_000_000)
RATE = 200_000
COUNTED_S = 25.0  # rounds are counted for so long, the second half of it beside scrapes
SETTLING_S, LEARNING_S = 4.0, 15e-6  # before that, and a GPU: a resumed fleet's raw labels are learned anew
ENCODING_TIMEOUT_S = 240.0
IDLE_S = 3.0  # between the start and the first scrape
START_TIMEOUT_S = 120.0
DOCUMENTS = ("/api/v1/summary", "/api/v1/gpus?limit=1000", "/api/v1/gpus?q=beef", "/api/v1/alerts")
SCRAPES = 5
SCRAPE_PAUSE_S = 1.0


class Fleet:
    """A fleet of a size, a topic that it will report to, and a state folder that knows it or does not."""

    def __init__(self, bootstrap: str, gpus: int, folder: Path, timeout_s: float) -> None:
        self.settling_s = SETTLING_S + LEARNING_S * gpus
        self.load = Steady(STEADY, gpus, int(RATE * (self.settling_s + COUNTED_S) / gpus), 4)
        self._timeout_s = timeout_s
        self.port = _free_port()
        self.bootstrap = bootstrap
        http = {"port": self.port, "gpu_series_max": 100_000}
        settings_of(bootstrap, self.load, folder, http=http)
        self.config = folder / "config.yaml"

    def know(self, cores: str) -> dict[str, Any]:
        """Put the fleet into the state folder."""
        command = [ours_python(), "-m", "tests.bench.fleet_state", str(self.config)]
        return run([*command, str(self.load.messages), str(self.load.gpus)], cores, self._timeout_s)

    @contextmanager
    def running(self, cores: str, module: str, *arguments: str) -> Iterator[tuple[float, list[str]]]:
        """Run the service until the block ends; give the seconds until it was ready, and afterwards what it printed."""
        command = ["taskset", "-c", cores, ours_python(), "-m", module, *arguments]
        printed: list[str] = []
        with tempfile.TemporaryFile("w+") as out:
            began_s = time.monotonic()
            process = subprocess.Popen(command, cwd=ROOT, stdout=out, env=os.environ | {"PYTHONPATH": str(ROOT)})
            try:
                self._wait_until_ready(process, began_s)
                yield time.monotonic() - began_s, printed
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                finally:
                    process.kill()
                    out.seek(0)
                    printed += out.read().splitlines()

    def _wait_until_ready(self, process: subprocess.Popen[bytes], began_s: float) -> None:
        while time.monotonic() - began_s < START_TIMEOUT_S:
            if process.poll() is not None:
                raise Failed(f"the service ended with {process.returncode}")
            try:
                self.get("/readyz")
                return
            except OSError:
                time.sleep(0.02)
        raise Failed(f"not ready after {START_TIMEOUT_S:.0f} s")

    def get(self, path: str, packed: bool = False) -> dict[str, Any]:
        """Ask for a document; return when on the monotonic clock, the seconds that it took, and its bytes."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"accept-encoding": "gzip" if packed else "identity"}
        )
        began_s = time.monotonic()
        with urllib.request.urlopen(asked, timeout=60) as answer:
            size = len(answer.read())
        now_s = time.monotonic()
        return {"path": path, "from_s": began_s, "until_s": now_s, "seconds": now_s - began_s, "bytes": size}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def measure(bootstrap: str, cores: Cores, gpus: int, timeout_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the figures of a fleet of this size."""
    own = cores.of(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fleet = Fleet(bootstrap, gpus, folder, timeout_s)
        create(bootstrap, fleet.load)
        service = ("service", "run", "--config", str(fleet.config))
        starts = {}
        for start in ("cold", "fresh"):  # the first compiles what is not in the cache
            with fleet.running(own, *service) as (starts[start], _):
                pass
        known = fleet.know(own)
        with fleet.running(own, *service) as (starts["resumed"], _):
            pass
        found = {
            "gpus": gpus,
            "state_bytes": known["bytes"],
            "fresh_s": starts["fresh"],
            "resumed_s": starts["resumed"],
        }
        say(f"{gpus:,} GPUs: ready after {found['fresh_s']:.2f} s fresh, {found['resumed_s']:.2f} s resumed")
        found |= _under_load(fleet, cores, folder)
    say(f"{gpus:,} GPUs: " + ", ".join(f"{name} {value}" for name, value in found["gaps"].items()))
    return found


def _under_load(fleet: Fleet, cores: Cores, folder: Path) -> dict[str, Any]:
    """Scrape before and during ingest; return what that took, and the gaps of the loop."""
    load, ready = fleet.load, folder / "ready"
    producer = [
        peers_python(),
        "-m",
        "tests.bench.paced",
        fleet.bootstrap,
        *load_arguments(load),
        str(RATE),
        str(ready),
    ]
    began = subprocess.Popen(
        ["taskset", "-c", str(cores.engines[1]), *producer],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        with fleet.running(cores.of(2), "tests.bench.rounds", str(fleet.config)) as (_, printed):
            time.sleep(IDLE_S)
            idle = [fleet.get(path) for path in ("/metrics", *DOCUMENTS) for _ in range(SCRAPES)]
            packed = fleet.get("/metrics", packed=True)
            ready.touch()
            _wait_until_begun(began, ready)
            from_s = time.monotonic() + fleet.settling_s
            busy = _scrape_until(fleet, began, from_s + COUNTED_S / 2)
            until_s = time.monotonic() - SCRAPE_PAUSE_S  # the producer ended within the last pause
        produced = json.loads(began.communicate(timeout=60)[0].splitlines()[-1])
    finally:
        began.kill()
    timed = json.loads(printed[-1])
    rounds = [
        each for each in timed["rounds"] if from_s <= each["ended_s"] - each["seconds"] and each["ended_s"] <= until_s
    ]
    gaps = longest(rounds, [(each["from_s"], each["until_s"]) for each in busy])
    return {
        "gaps": gaps,
        "idle": _worst(idle),
        "ingest": _worst(busy),
        "metrics_gzip_bytes": packed["bytes"],
        "checkpoints": len(timed["checkpoints_s"]),
        "checkpoint_max_s": max(timed["checkpoints_s"], default=0.0),
        "peak_rss_bytes": timed["peak_rss_bytes"],
        "ticks": timed["ticks"],
        "messages_per_s": produced["messages_per_s"],
        "producer_late_max_s": produced["late_max_s"],
    }


def _wait_until_begun(producer: subprocess.Popen[bytes], ready: Path) -> None:
    until_s = time.monotonic() + ENCODING_TIMEOUT_S
    while not begun(ready).exists():
        if producer.poll() is not None or time.monotonic() > until_s:
            raise Failed("the producer did not begin")
        time.sleep(0.05)


def _scrape_until(fleet: Fleet, producer: subprocess.Popen[bytes], from_s: float) -> list[dict[str, Any]]:
    """Ask for everything in turns from an instant on, until the producer has ended."""
    made = []
    paths = ("/metrics", *DOCUMENTS)
    while producer.poll() is None:
        time.sleep(SCRAPE_PAUSE_S)
        if time.monotonic() >= from_s:
            made.append(fleet.get(paths[len(made) % len(paths)]))
    return made


def _worst(asked: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return by path the longest time and the bytes."""
    found: dict[str, dict[str, float]] = {}
    for each in asked:
        seconds = max(each["seconds"], found.get(each["path"], {}).get("seconds", 0.0))
        found[each["path"]] = {"seconds": seconds, "bytes": each["bytes"]}
    return found


def longest(rounds: Sequence[dict[str, Any]], asked: Sequence[tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Return by what went on beside it how long the loop stopped at most, and its longest stages.

    A stop is a round without its ticks and its poll, which waits for the broker; or a garbage collection, also within those.
    What goes on beside them makes ticks and polls longer, too: that is told as their longest, and not as a stop.
    """
    stops: dict[str, dict[str, float]] = {}
    for each in rounds:
        from_s, until_s = each["ended_s"] - each["seconds"], each["ended_s"]
        scraped = any(begin_s <= until_s and from_s <= end_s for begin_s, end_s in asked)
        beside = {(False, False): "nothing", (True, False): "saving", (False, True): "scrape", (True, True): "both"}
        stages = each["stages_s"]
        stop_s = each["seconds"] - stages.get("tick", 0.0) - stages.get("poll", 0.0)
        stop_s = max(stop_s, stages.get("gc", 0.0))
        found = stops.setdefault(beside[bool(each["saving"]), scraped], {"rounds": 0})
        found["rounds"] += 1
        for name, value in ({"stop": stop_s} | stages).items():
            found[name] = max(found.get(name, 0.0), value)
    return stops
