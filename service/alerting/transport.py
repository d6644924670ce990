"""The one way out over HTTP: a POST to a guarded address, with deadlines, bounds and no secrets in its errors.

Why httpcore and not httpx on top of it: httpx does not hand the network layer through, which is where the address is
pinned and the deadline kept, and it logs every URL at level info, while a Slack URL is a secret.
"""

from __future__ import annotations

import email.utils
import functools
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore

from service.alerting.contract import Delivery, Outcome
from service.alerting.guard import Guard, HttpParams, Refused, Resolver, Target, system_resolver
from service.alerting.uncertain import UncertainDelivery
from service.clock import Clock

Dial = Callable[[str, int, float], socket.socket]
"""(address, port, timeout_s) → connected socket; raises OSError."""

REPLY_BYTES_MAX = 64 * 1024
# A TLS record; in writes of this size the socket's own timeout bounds the whole write.
_WRITE_BYTES_MAX = 16 * 1024
# Besides 5xx. 401 and 403 are among them because people mend credentials within the hours a message waits.
_RETRY_STATUS = frozenset({401, 403, 408, 409, 423, 425, 429})


@dataclass(frozen=True, slots=True)
class Posted:
    """What came of one POST; `reply` is the beginning of the answer's body, untrusted."""

    delivery: Delivery
    reply: bytes = b""


class Exchange:
    """One attempt: its deadlines, and whether anything was written yet."""

    def __init__(self, clock: Clock, params: HttpParams) -> None:
        self._clock = clock
        now_s = clock.monotonic_s()
        self._end_s = now_s + params.timeout_s
        self._connect_end_s = min(self._end_s, now_s + params.connect_timeout_s)
        self.wrote = False

    def left_s(self, connecting: bool = False) -> float:
        """Return the seconds left; TimeoutError if there are none."""
        end_s = self._connect_end_s if connecting else self._end_s
        left_s = end_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class _Stream(httpcore.NetworkStream):
    """A socket whose every step may take what is left of the attempt; timeouts per step would never end a slow drip."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._socket = sock
        self._exchange = exchange

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._socket.settimeout(self._exchange.left_s())
            return self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(error) from error
        except OSError as error:
            raise httpcore.ReadError(error) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._exchange.wrote = True
        try:
            for start in range(0, len(buffer), _WRITE_BYTES_MAX):
                self._socket.settimeout(self._exchange.left_s())
                self._socket.sendall(buffer[start : start + _WRITE_BYTES_MAX])
        except TimeoutError as error:
            raise httpcore.WriteTimeout(error) from error
        except OSError as error:
            raise httpcore.WriteError(error) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            self._socket.settimeout(self._exchange.left_s(connecting=True))
            return _Stream(
                ssl_context.wrap_socket(self._socket, server_hostname=server_hostname),
                self._exchange,
            )
        except OSError as error:
            self._socket.close()
            raise _connect_error(error) from error

    def get_extra_info(self, info: str) -> Any:
        """Return nothing: the pool asks only in order to reuse a connection, and ours serve once."""
        return None


class _Backend(httpcore.NetworkBackend):
    """Connects to the guarded addresses, whatever name it is asked for; that name goes into SNI and Host only."""

    def __init__(self, addresses: list[str], dial: Dial, exchange: Exchange) -> None:
        self._addresses = addresses
        self._dial = dial
        self._exchange = exchange

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: OSError = OSError("no address")
        for address in self._addresses:
            try:
                left_s = self._exchange.left_s(connecting=True)
                return _Stream(self._dial(address, port, left_s), self._exchange)
            except OSError as error:
                failure = error
        raise _connect_error(failure) from failure


class Poster:
    """Posts to one receiver. Never raises for what the network or the other side does."""

    def __init__(
        self,
        params: HttpParams,
        clock: Clock,
        resolve: Resolver = system_resolver,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """OSError (ssl.SSLError among them) if `ca_file` cannot be used."""
        self._params = params
        self._clock = clock
        self._guard = Guard(params, resolve)
        self._dial = dial or _dial
        self._tls = tls or _tls_context(params.ca_file)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        """POST `body` once and say what came of it."""
        try:
            target = self._guard.target(url)
        except Refused as refusal:
            return Posted(Delivery(Outcome.REJECTED, str(refusal)))
        exchange = Exchange(self._clock, self._params)
        try:
            addresses = self._guard.addresses(target)
            return self._exchange(target, body, headers, _Backend(addresses, self._dial, exchange))
        except Refused as refusal:
            return Posted(Delivery(Outcome.REJECTED, str(refusal)))
        except (
            OSError,
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.RemoteProtocolError,
        ) as error:
            kind = UncertainDelivery if exchange.wrote else Delivery
            return Posted(kind(Outcome.RETRY, f"{target.host}: {_words(error)}"))

    def _exchange(self, target: Target, body: bytes, headers: Mapping[str, str], backend: _Backend) -> Posted:
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        sent = {
            **headers,
            "User-Agent": "skinflint",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        with (
            httpcore.ConnectionPool(ssl_context=self._tls, network_backend=backend) as pool,
            pool.stream("POST", url, headers=list(sent.items()), content=body) as response,
        ):
            reply = _beginning(response)
            return Posted(self._judge(target.host, response.status, response.headers), reply)

    def _judge(self, host: str, status: int, headers: list[tuple[bytes, bytes]]) -> Delivery:
        detail = f"{host}: HTTP {status}"
        if 200 <= status < 300:
            return Delivery(Outcome.DELIVERED, detail)
        if 300 <= status < 400:
            return Delivery(Outcome.REJECTED, f"{detail}, redirects are not followed")
        if status in _RETRY_STATUS:
            return Delivery(Outcome.RETRY, detail, self._retry_after_s(headers))
        if status >= 500:
            return UncertainDelivery(Outcome.RETRY, detail, self._retry_after_s(headers))
        return Delivery(Outcome.REJECTED, detail)

    def _retry_after_s(self, headers: list[tuple[bytes, bytes]]) -> float | None:
        """Return what Retry-After asks for, in seconds or as a date; None if it is absent or makes no sense."""
        text = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
        value = text.decode("latin-1").strip()
        if value.isascii() and value.isdigit():
            return float(value[:10])
        try:
            until = email.utils.parsedate_to_datetime(value)
            return max(0.0, until.timestamp() - self._clock.now_ns() / 1e9)
        except (ValueError, OverflowError, OSError):
            return None


def _beginning(response: httpcore.Response) -> bytes:
    """Read at most REPLY_BYTES_MAX; a reply cut short is as good, since the status has decided."""
    reply = b""
    try:
        for chunk in response.iter_stream():
            reply += chunk
            if len(reply) >= REPLY_BYTES_MAX:
                break
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError):
        return reply[:REPLY_BYTES_MAX]
    return reply[:REPLY_BYTES_MAX]


def _dial(address: str, port: int, timeout_s: float) -> socket.socket:
    sock = socket.create_connection((address, port), timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@functools.lru_cache(maxsize=8)
def _tls_context(ca_file: str) -> ssl.SSLContext:
    """Build a context once per set of authorities: reading the system's takes tens of milliseconds."""
    context = httpcore.default_ssl_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def _connect_error(error: OSError) -> httpcore.ConnectError | httpcore.ConnectTimeout:
    kind = httpcore.ConnectTimeout if isinstance(error, TimeoutError) else httpcore.ConnectError
    return kind(error)


def _words(error: Exception) -> str:
    """Say what went wrong in words of ours: texts of libraries may quote what must stay secret."""
    # The pool drops the cause of what it raises again, so the cause is also the argument.
    cause = error.args[0] if error.args and isinstance(error.args[0], OSError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate does not verify: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or 'no reason given'}"
    if isinstance(cause, socket.gaierror):
        return "the name does not resolve"
    if isinstance(cause, TimeoutError) or isinstance(error, httpcore.TimeoutException):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "the connection broke or the answer was not HTTP"
