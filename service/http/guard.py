"""What every request must pass and every answer carries: method, Host, no body, security headers."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problem import problem_response
from service.loopback import is_loopback

METHODS = ("GET", "HEAD")

SECURITY_HEADERS: dict[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI layer around everything else.

    With `loopback_only` the Host header must name this machine: a page of another site that makes its own name
    resolve to 127.0.0.1 (DNS rebinding) would otherwise read the fleet through the visitor's browser.
    """

    def __init__(self, app: ASGIApp, *, loopback_only: bool, head_bytes_max: int) -> None:
        self._app = app
        self._loopback_only = loopback_only
        self._head_bytes_max = head_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        refused = self._refusal(scope)
        app = refused if refused is not None else self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if _head_bytes(scope) > self._head_bytes_max:
            # h11 looks at the limit only while the head is incomplete; one that arrives whole passes it.
            detail = f"request line and headers: expected at most {self._head_bytes_max} bytes"
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            return problem_response(status, detail, {"connection": "close"})
        if scope["method"] not in METHODS:
            detail = f"method {scope['method'][:20]}: expected GET, everything here is read-only"
            allow = {"allow": ", ".join(METHODS), "connection": "close"}
            return problem_response(HTTPStatus.METHOD_NOT_ALLOWED, detail, allow)
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            detail = "body: expected none, no request here takes one"
            return problem_response(HTTPStatus.BAD_REQUEST, detail, {"connection": "close"})
        if self._loopback_only and not is_loopback(_host_name(headers.get("host", ""))):
            detail = "Host: expected localhost or a loopback address, since the server listens on loopback only"
            return problem_response(HTTPStatus.MISDIRECTED_REQUEST, detail)
        return None


def _host_name(host: str) -> str:
    """Return the name of a Host header, without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _head_bytes(scope: Scope) -> int:
    target = len(scope["raw_path"]) + len(scope["query_string"])
    return target + sum(len(name) + len(value) for name, value in scope["headers"])
