"""What one client may cost: connections, header bytes and time are bounded before a request reaches the application."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the server. Past each of them the connection is cut, without a word."""

    connections_max: int = 64  # beyond, the connection that waits longest makes room
    head_bytes_max: int = 16 * 1024  # request line and headers
    head_timeout_s: float = 10.0  # from connecting, or from the last answer, to complete headers
    idle_timeout_s: int = 5  # between two requests
    answer_timeout_s: float = 30.0  # from complete headers until the client has taken the answer


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines and a connection limit.

    uvicorn itself waits for ever for headers that trickle in, and its concurrency limit answers 503 to everyone
    once slow clients hold all places. Here a slow client loses its place to the next one.
    """

    limits: ClassVar[Limits] = Limits()
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.connected_s = self.loop.time()
        self._watch()
        if len(self.connections) > self.limits.connections_max:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() or self.transport.get_write_buffer_size():
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def answering(self) -> bool:
        """Tell whether a request is being answered, or its answer is still on the way to the client."""
        in_work = self.cycle is not None and not self.cycle.response_complete
        return in_work or self.transport.get_write_buffer_size() > 0

    def _watch(self) -> None:
        self._stop_watching()
        limit = self.limits.answer_timeout_s if self.answering() else self.limits.head_timeout_s
        self._deadline = self.loop.call_later(limit, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        waiting = [other for other in self.connections if isinstance(other, BoundedProtocol) and not other.answering()]
        victim = min(waiting, key=lambda other: other.connected_s, default=self)
        victim.transport.abort()
        self.connections.discard(victim)


def protocol_with(limits: Limits) -> type[BoundedProtocol]:
    """Return the protocol class that keeps `limits`; uvicorn takes a class and no arguments for it."""
    return type("ConfiguredProtocol", (BoundedProtocol,), {"limits": limits})
