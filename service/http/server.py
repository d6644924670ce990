"""The HTTP server: Starlette under uvicorn, in one daemon thread beside the loop."""

from __future__ import annotations

import socket
import threading
from http import HTTPStatus
from importlib import resources
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.clock import Clock
from service.errors import ConfigError, ConfigProblem
from service.http.api import Api, Endpoint
from service.http.guard import Guard
from service.http.limits import Limits, protocol_with
from service.http.problem import Problem, problem_response
from service.loopback import is_loopback
from service.settings import HttpSettings
from service.view import Publisher

_START_TIMEOUT_S = 30
_BACKLOG = 128

PAGE_FILES: dict[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "render.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def setting_problems(settings: HttpSettings) -> list[ConfigProblem]:
    """Return a problem where the page would be open to others without anybody having said that it may be."""
    if is_loopback(settings.host) or settings.allow_beyond_loopback:
        return []
    message = (
        f"{settings.host!r} is not a loopback address and there is no login: "
        "expected 127.0.0.1, or allow_beyond_loopback: true"
    )
    return [ConfigProblem("http.host", message)]


class HttpServer:
    """Serves /metrics, the probes, the API and the page until it is stopped."""

    def __init__(
        self,
        settings: HttpSettings,
        publisher: Publisher,
        registry: CollectorRegistry,
        clock: Clock,
        *,
        stuck_after_s: float = 120,
        limits: Limits | None = None,
    ) -> None:
        """Check the settings; raises ConfigError for an address beyond loopback that was not allowed."""
        self._settings = settings
        self._loopback = is_loopback(settings.host)
        if problems := setting_problems(settings):
            raise ConfigError(problems)
        api = Api(publisher, registry, clock, stuck_after_s)
        self._limits = limits or Limits()
        self._app = Starlette(
            routes=[*api.routes(), *_page_routes()],
            middleware=[
                Middleware(
                    Guard,
                    loopback_only=self._loopback,
                    head_bytes_max=self._limits.head_bytes_max,
                )
            ],
            exception_handlers={
                HTTPException: _http_problem,
                Problem: _problem,
                Exception: _bug,
            },
        )
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Listen and serve; return the address as people type it. Raises ConfigError if the port cannot be had."""
        listener = self._bind()
        self._server = _Server(self._config())
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="http", daemon=True)
        self._thread.start()
        if not self._server.up.wait(_START_TIMEOUT_S):
            raise RuntimeError(f"the HTTP server did not start within {_START_TIMEOUT_S} s")
        host, port = listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self, deadline_s: float) -> None:
        """Finish the requests that are being answered, at most for `deadline_s`, then cut the rest."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(1)

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            loop="asyncio",
            http=protocol_with(self._limits),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # a warning for every malformed request would let strangers fill the logs
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=self._limits.idle_timeout_s,
            h11_max_incomplete_event_size=self._limits.head_bytes_max,
        )

    def _bind(self) -> socket.socket:
        host, port = self._settings.host, self._settings.port
        family, kind, address = resolved(self._settings)
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)  # a port that another process holds shows only here on some systems
        except OSError as problem:
            listener.close()
            raise _refused(
                "port",
                f"cannot listen on {host}:{port}: {problem.strerror}; expected a free port, or 0 to take any free one",
            ) from problem
        return listener


def resolved(settings: HttpSettings) -> tuple[socket.AddressFamily, socket.SocketKind, Any]:
    """Return what to listen on: family, kind and address. Raises ConfigError for a host that is none."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as problem:
        raise _refused("host", f"cannot resolve {settings.host!r}: {problem.strerror}") from problem
    return family, kind, address


class _Server(uvicorn.Server):
    """uvicorn's server that says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


def _page_routes() -> list[Route]:
    """Return the page's files, read once: no path of a request ever reaches the disk."""
    folder = resources.files("service.http") / "page"
    routes = []
    for name, media_type in PAGE_FILES.items():
        path = "/" if name == "index.html" else f"/page/{name}"
        routes.append(Route(path, _file((folder / name).read_bytes(), media_type)))
    return routes


def _file(content: bytes, media_type: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Response(content, headers={"content-type": media_type})

    return endpoint


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = error.detail
    if status == HTTPStatus.NOT_FOUND:
        paths = "/, /metrics, /livez, /readyz, /api/v1/summary, /api/v1/gpus, /api/v1/alerts"
        detail = f"no such path: expected one of: {paths}"
    return problem_response(status, detail)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error.status, error.detail)


async def _bug(request: Request, error: Exception) -> Response:
    return problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault in this service; its log holds the stack")


def _refused(key: str, message: str) -> ConfigError:
    return ConfigError([ConfigProblem(f"http.{key}", message)])
