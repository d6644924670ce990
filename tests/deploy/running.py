"""Programs that run for a test on ports of loopback, and are ended with it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
DEADLINE_S = 60


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, its output in `log`, until the block is left."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def get(address: str) -> bytes:
    """Return the body of an answer; HTTPError for any status but 2xx."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        return bytes(answer.read())


def document(address: str) -> Any:
    """Return the JSON of an answer."""
    return json.loads(get(address))


def until(found: Callable[[], T], process: subprocess.Popen[bytes], what: str) -> T:
    """Return what `found` returns once it is something; a refused connection or an error status is nothing yet."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if result := found():
                return result
        assert process.poll() is None, f"{what}: the process has ended with {process.returncode}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    raise AssertionError(f"{what}: not within {DEADLINE_S} s")
