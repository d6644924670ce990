"""Logs: one line an event on standard error, JSON for machines or coloured for a terminal, libraries' lines included.

Why ProcessorFormatter: kafka-python and uvicorn speak to the standard library; routed through one handler, their lines get
the same shape, the same escaping and the same limits as ours.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.settings import LogSettings

# At debug kafka-python prints SASL passwords; httpx at info prints whole webhook URLs, which are secrets;
# httpcore and numba at debug print thousands of lines a second.
LOWEST_LEVELS: Final[Mapping[str, int]] = {
    "kafka": logging.INFO,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "numba": logging.WARNING,
}
# uvicorn sets up loggers of its own where it is let; their lines belong in the same stream.
_ROUTED: Final = ("uvicorn", "uvicorn.error", "uvicorn.access")
_MULTILINE: Final = frozenset({"exception", "stack"})


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error), in place of whatever was set up before."""
    stream = stream or sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_allowed)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *_renderers(console, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in _ROUTED:
        routed = logging.getLogger(name)
        routed.handlers.clear()
        routed.propagate = True


def quieten_client() -> None:
    """Keep the Kafka client's complaints about its own slowness out of a command's output: nobody can act on them there."""
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module. Events are constant words, facts are keys; never a line per row."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _renderers(console: bool, stream: TextIO) -> list[Processor]:
    if console:
        return [_escape, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    return [_json_line]


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    line = json.dumps(_finite({**first, **event}), default=str)
    return line.replace("\x7f", "\\u007f")


def _finite(value: Any) -> Any:
    """Return the value with null for NaN and infinities, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make control characters of foreign text visible, so that a GPU's name cannot forge lines or drive a terminal."""
    return {str(key): _escaped(value, key in _MULTILINE) for key, value in event.items()}


def _escaped(value: Any, multiline: bool) -> Any:
    if isinstance(value, int | float | None):
        return value
    keep = "\n\t" if multiline else ""
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1]
        for character in str(value)
    )


def _allowed(record: logging.LogRecord) -> bool:
    return record.levelno >= LOWEST_LEVELS.get(record.name.partition(".")[0], 0)
