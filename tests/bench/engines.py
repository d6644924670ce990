"""The engines by work, ours first, and how one of them is run: pinned to its cores, timed out, weighed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench.build import ROOT, class_path, ours_python, peers_python, rust_binary
from tests.bench.works import Load

OURS = "ours"
OURS_TWO = "ours, two cores"

Command = Callable[[str, Load], list[str]]


@dataclass(frozen=True)
class Engine:
    """One way to do a work. `command` builds what it needs, or raises Missing."""

    name: str
    command: Command
    quick: bool = False
    cores: int = 1


class Failed(Exception):
    """An engine ended badly, or not at all."""


def load_arguments(load: Load) -> list[str]:
    """Return the arguments from which another process makes the same load."""
    return [load.work.name, *map(str, (load.messages, load.gpus, load.partitions))]


def ours(bootstrap: str, load: Load) -> list[str]:
    """Return the command of our own service on this load."""
    return [ours_python(), "-m", "tests.bench.ours", bootstrap, *load_arguments(load)]


def _python(module: str) -> Command:
    return lambda bootstrap, load: [
        peers_python(), "-m", f"tests.bench.peers.{module}", bootstrap, load.topic, str(load.messages)
    ]  # fmt: skip


def _java(main_class: str, *arguments: str) -> Command:
    quiet = ["-Xmx1g", "-Djava.io.tmpdir=.", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    return lambda bootstrap, load: [
        "java", *quiet, "-cp", class_path(), main_class, bootstrap, load.topic, str(load.messages), *arguments
    ]  # fmt: skip


def _rust(bootstrap: str, load: Load) -> list[str]:
    return [rust_binary(), bootstrap, load.topic, str(load.messages)]


ENGINES: dict[str, Sequence[Engine]] = {
    "W1": (
        Engine(OURS, ours, quick=True),
        Engine(OURS_TWO, ours, quick=True, cores=2),
        Engine("Rust rdkafka + serde_json", _rust),
        Engine("plain Java + Jackson", _java("PlainJava"), quick=True),
        Engine("confluent-kafka + orjson + dict, tuned", _python("confluent_json"), quick=True),
        Engine("Kafka Streams, in memory", _java("Streams", "mem")),
        Engine("Kafka Streams, RocksDB", _java("Streams", "rocks")),
        Engine("kafka-python + orjson + dict", _python("kafka_python_json"), quick=True),
        Engine("bytewax", _python("bytewax_json")),
        Engine("quixstreams", _python("quixstreams_json")),
    ),
    "W2": (
        Engine(OURS, ours, quick=True),
        Engine("confluent-kafka + opentelemetry-proto (upb), tuned", _python("confluent_otlp"), quick=True),
    ),
    "W3": (
        Engine(OURS, ours, quick=True),
        Engine("confluent-kafka + orjson + dict, tuned", _python("confluent_adapter"), quick=True),
    ),
}


@dataclass(frozen=True)
class Cores:
    """Which cores the broker and the engines have. With two cores, an engine of two shares one with the broker."""

    broker: int
    engines: tuple[int, ...]

    @staticmethod
    def here() -> Cores:
        """Return the cores of this process: the first for the broker, the next ones for engines."""
        own = sorted(os.sched_getaffinity(0))
        if len(own) < 2:
            raise Failed("at least two cores are needed: one for the broker, one for the engine")
        return Cores(own[0], (own[1], own[2] if len(own) > 2 else own[0]))

    def of(self, count: int) -> str:
        """Return the cores of an engine as taskset reads them."""
        return ",".join(map(str, self.engines[:count]))


@contextmanager
def scratch() -> Iterator[dict[str, Any]]:
    """Give an engine a folder to work in that goes with it: stores, native libraries, state."""
    with tempfile.TemporaryDirectory(prefix="skinflint-bench-") as folder:
        yield {"cwd": folder, "env": os.environ | {"TMPDIR": folder, "PYTHONPATH": str(ROOT)}}


def run(command: Sequence[str], cores: str, timeout_s: float) -> dict[str, Any]:
    """Run one engine and return the line that it printed, with its peak memory. Raises Failed."""
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors, scratch() as place:
        process = subprocess.Popen(["taskset", "-c", cores, *command], stdout=printed, stderr=errors, **place)
        killer = threading.Timer(timeout_s, process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            killer.cancel()
            if process.returncode is None:
                process.kill()
        if process.returncode == -signal.SIGKILL:
            raise Failed(f"not done after {timeout_s:.0f} s")
        if process.returncode:
            words = _lines(errors)
            raise Failed(words[-1] if words else f"exit status {process.returncode}")
        found: dict[str, Any] = json.loads(_lines(printed)[-1])
        return found | {"peak_rss_bytes": usage.ru_maxrss * 1024}


def _lines(file: Any) -> list[str]:
    file.seek(0)
    return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def faults(load: Load, engine: str, found: dict[str, Any]) -> list[str]:
    """Return what an engine got wrong: messages that it did not read, GPUs that it did not find, or found without cause."""
    expected = load.idle_gpus()
    wrong = []
    if found["messages"] != load.messages:
        wrong.append(f"{found['messages']} messages read, {load.messages} are there")
    if found["alerts"] != len(expected):
        wrong.append(f"{found['alerts']} idle GPUs found, {len(expected)} are there")
    if set(found.get("idle_gpus", expected)) != expected:
        wrong.append("other GPUs found than those that idle")
    if found.get("rejected"):
        wrong.append(f"{found['rejected']} records rejected")
    return [f"{load.work.name}, {engine}: {words}" for words in wrong]
