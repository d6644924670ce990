"""An HTTP server on loopback that records what it gets and answers from a script."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

_CHUNK = b"x" * 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """One scripted reply."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b"ok"
    body_bytes: int = 0  # announce and send so many bytes of filler in place of `body`
    drip_interval_s: float = 0.0  # send the head byte by byte, waiting this long after each
    hang: bool = False  # take the request and never answer
    drop: bool = False  # take the request and close the connection


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class _Record:
    requests: list[Request] = field(default_factory=list)
    bytes_sent: int = 0


class Sink:
    """Use as a context manager. Answers come from `script` in turn; then `default`. Redirect targets are other Sinks."""

    def __init__(self, script: Sequence[Answer] = (), default: Answer = Answer()) -> None:
        self._script = list(script)
        self._default = default
        self._record = _Record()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler_type())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """An address with a secret in its path, as Slack's have."""
        return f"http://127.0.0.1:{self.port}/hook/T00/s3cr3tPath"

    @property
    def requests(self) -> list[Request]:
        """What arrived so far, in order."""
        with self._changed:
            return list(self._record.requests)

    @property
    def bytes_sent(self) -> int:
        """Bytes of bodies that were written to sockets."""
        return self._record.bytes_sent

    def then(self, *answers: Answer) -> None:
        """Answer the next requests with these."""
        with self._changed:
            self._script.extend(answers)

    def always(self, answer: Answer) -> None:
        """Answer with this once the script is used up."""
        with self._changed:
            self._default = answer

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Request]:
        """Return the requests once there are `count`; TimeoutError if they do not come."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._record.requests) >= count, timeout_s):
                raise TimeoutError(f"{len(self._record.requests)} of {count} requests came")
            return list(self._record.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, request: Request) -> Answer:
        with self._changed:
            self._record.requests.append(request)
            self._changed.notify_all()
            return self._script.pop(0) if self._script else self._default

    def _handler_type(self) -> type[BaseHTTPRequestHandler]:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = sink._take(Request(self.path, headers, body))
                self.close_connection = True
                try:
                    sink._reply(self, answer)
                except OSError:
                    return  # the client hung up, which is what some tests are about

            def do_GET(self) -> None:
                """Record whoever follows a redirect."""
                self.do_POST()

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        return Handler

    def _reply(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.hang:
            self._closing.wait()
        if answer.hang or answer.drop:
            return
        length = answer.body_bytes or len(answer.body)
        lines = [f"HTTP/1.1 {answer.status} Scripted", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self._write_head(handler, head, answer.drip_interval_s)
        if not answer.body_bytes:
            handler.wfile.write(answer.body)
            return
        while self._record.bytes_sent < answer.body_bytes and not self._closing.is_set():
            handler.wfile.write(_CHUNK)
            self._record.bytes_sent += len(_CHUNK)

    def _write_head(self, handler: BaseHTTPRequestHandler, head: bytes, interval_s: float) -> None:
        if not interval_s:
            handler.wfile.write(head)
            return
        for byte in head:
            handler.wfile.write(bytes([byte]))
            if self._closing.wait(interval_s):
                return
