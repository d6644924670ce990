"""One service, many lives: runs it again and again on the same state and kills each life with SIGKILL.

Imports and kernels are paid once: every life is a fork. A life ends by its own hand at a random instant, which is a real
kill -9 in the middle of whatever it was doing. usage: python -m tests.faults.lives CONFIG KILLS SEED DELAY_MAX_S
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

from service import app, config
from service.clock import SystemClock
from service.config import Configuration
from service.logs import configure
from service.pipeline.directory import Directory
from service.pipeline.prices import PriceBook
from service.pipeline.snapshot_file import decode
from service.pipeline.warm_up import warm_up

SETTLE_TIMEOUT_S = 15


def live(settings: Configuration, killed_after_s: float | None) -> None:
    """Run the service in this process; it may be killed, and is asked to stop by SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if killed_after_s is not None:
        timer = threading.Timer(killed_after_s, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    app.run_service(settings, SystemClock(), stop)


def born(settings: Configuration, killed_after_s: float | None) -> int:
    """Fork a life and return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        live(settings, killed_after_s)
    except BaseException as error:
        print(f"life ended: {error!r}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def latest(directory: Path) -> tuple[dict, dict] | None:
    """Return arrays and extras of the newest checkpoint."""
    if not (directory / "skinflint.db").exists():
        return None
    connection = sqlite3.connect(directory / "skinflint.db", timeout=10)
    try:
        row = connection.execute("SELECT file FROM checkpoints ORDER BY sequence DESC LIMIT 1").fetchone()
        return decode(io.BytesIO((directory / row[0]).read_bytes()), row[0]) if row else None
    except (sqlite3.OperationalError, FileNotFoundError):
        return None
    finally:
        connection.close()


def run_until(settings: Configuration, settled) -> None:
    """Let one life go on until `settled(arrays)` holds for its newest checkpoint, then stop it."""
    child = born(settings, None)
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline:
        found = latest(Path(settings.state.directory))
        if found is not None and settled(found[0]):
            os.kill(child, signal.SIGTERM)
            assert os.waitpid(child, 0)[1] == 0
            return
        if os.waitpid(child, os.WNOHANG)[0]:
            raise AssertionError("the last life ended by itself")
        threading.Event().wait(0.05)
    os.kill(child, signal.SIGABRT)  # its stacks say where it hangs
    os.waitpid(child, 0)
    meta = json.loads(found[0]["meta"].tobytes()) if found else {}
    raise AssertionError(f"not settled after {SETTLE_TIMEOUT_S} s: {meta.get('watermarks')} {meta.get('next_tick')}")


def prepare(config_file: Path) -> Configuration:
    """Load the configuration and compile everything."""
    settings = config.load(config_file, {}, app.configuration_type())
    configure(settings.log)
    warm_up(settings, app.chosen_detectors(settings), Directory(PriceBook(settings.prices), {}))
    return settings


def main() -> None:
    faulthandler.enable()
    config_file, kills, seed, delay_max_s = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    settings = prepare(config_file)
    rng = random.Random(seed)
    ends = [int(end) for end in sys.argv[5].split(",")]
    killed = 0
    for _ in range(kills):
        child = born(settings, rng.uniform(0, delay_max_s))
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    run_until(settings, lambda arrays: _settled(arrays, ends, settings))
    print(f"killed {killed}")


def _settled(arrays: dict, ends: list[int], settings: Configuration) -> bool:
    meta = json.loads(arrays["meta"].tobytes())
    progress = {name[1]: saved for name, saved in meta["watermarks"]}
    if any(progress.get(p, {}).get("next_offset", -1) < end for p, end in enumerate(ends)):
        return False
    newest = max(saved["watermark_ns"] for saved in progress.values())
    tick_ns = int(settings.fleet.tick_s * 1e9)
    return meta["next_tick"] == (newest - int(settings.ingest.lateness_max_s * 1e9)) // tick_ns


if __name__ == "__main__":
    main()
