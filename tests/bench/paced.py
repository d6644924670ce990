"""A steady producer, in the peers' venv: python -m tests.bench.paced BOOTSTRAP WORK MESSAGES GPUS PARTITIONS RATE READY.

It encodes the whole load, waits until the file READY is there, and sends each piece of it when it is due: while it produces it
does next to nothing, since it shares a core with the broker. Prints when each round's first record was handed to the socket.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.bench.batches import Piece, check, request, rounds, stamp
from tests.bench.works import START_MS, Steady, begun, named

PIECE_S = 0.01  # a producer that lingers for so long
READY_TIMEOUT_S = 240.0
ACK_TIMEOUT_S = 60.0


class Connection:
    """One connection to the one broker; its answers are read on a thread, in the order of the requests."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        host, port = bootstrap.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), ACK_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._topic = topic
        self._sent_s: list[float] = []
        self._acks = threading.Thread(target=self._read, daemon=True)
        self._done = threading.Event()
        self._failure: Exception | None = None
        self.acked = 0
        self.ack_max_s = 0.0
        self._acks.start()

    def send(self, piece: Piece) -> int:
        """Send a piece; return the wall time in ns at which it was handed to the socket."""
        now_ns = time.time_ns()
        for batch in piece:
            stamp(batch, now_ns // 10**6)
        parts = request(len(self._sent_s), self._topic, piece)
        self._sent_s.append(time.monotonic())
        self._socket.sendall(b"".join(parts))
        return now_ns

    def finish(self) -> None:
        """Return when everything is acknowledged."""
        until_s = time.monotonic() + ACK_TIMEOUT_S
        while self.acked < len(self._sent_s) and self._failure is None and time.monotonic() < until_s:
            self._done.wait(0.01)
        if self.acked < len(self._sent_s):
            raise RuntimeError(f"{len(self._sent_s) - self.acked} requests were not acknowledged: {self._failure}")

    def _read(self) -> None:
        try:
            while True:
                response = self._exactly(int.from_bytes(self._exactly(4), "big"))
                check(response, self._topic)
                self.ack_max_s = max(self.ack_max_s, time.monotonic() - self._sent_s[self.acked])
                self.acked += 1
        except Exception as error:
            self._failure = error
            self._done.set()

    def _exactly(self, size: int) -> bytes:
        text = bytearray()
        while len(text) < size:
            if not (more := self._socket.recv(size - len(text))):
                raise ConnectionError("the broker closed the connection")
            text += more
        return bytes(text)


def write(bootstrap: str, load: Steady, rate: float, ready: Path) -> dict[str, Any]:
    """Write the whole load, and say what was produced when: event time in ms, wall times in ns by partition."""
    pieces_per_round = max(1, round(load.gpus / rate / PIECE_S))
    made = list(rounds(load, pieces_per_round))
    connection = Connection(bootstrap, load.topic)
    until_s = time.monotonic() + READY_TIMEOUT_S
    while not ready.exists():
        if time.monotonic() > until_s:
            raise TimeoutError(f"{ready} is not there: ours did not start")
        time.sleep(0.05)
    begun(ready).touch()
    produced, late_max_s = [], 0.0
    piece_s = load.gpus / rate / pieces_per_round
    began_s = time.monotonic()
    for number, pieces in enumerate(made):
        first_ns = 0
        for at, piece in enumerate(pieces):
            due_s = began_s + (number * pieces_per_round + at) * piece_s
            time.sleep(max(0.0, due_s - time.monotonic()))
            late_max_s = max(late_max_s, time.monotonic() - due_s)
            handed_ns = connection.send(piece)
            first_ns = first_ns or handed_ns
        produced.append([START_MS + number * load.step_s * 1000, [first_ns] * load.partitions])
    seconds = time.monotonic() - began_s
    connection.finish()
    found = {"messages_per_s": load.messages / seconds, "messages": load.messages, "rounds": produced}
    return found | {"late_max_s": late_max_s, "ack_max_s": connection.ack_max_s}


def main() -> None:
    """Write, and print what came of it."""
    bootstrap, work, *rest = sys.argv[1:]
    load = named(work, *map(int, rest[:3]))
    assert isinstance(load, Steady)
    print(json.dumps(write(bootstrap, load, float(rest[3]), Path(rest[4]))), flush=True)


if __name__ == "__main__":
    main()
