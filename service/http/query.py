"""Query strings read strictly: an unknown parameter or a value out of bounds is a Problem, never ignored."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.datastructures import QueryParams

from service.http.problem import Problem

LIMIT_MAX = 1000
LIMIT_DEFAULT = 100
TEXT_CHARS_MAX = 256


def bad(detail: str) -> Problem:
    """Return the Problem for a request that the client must change."""
    return Problem(HTTPStatus.BAD_REQUEST, detail)


class Query:
    """Parameters of one request; `allowed` are all that the endpoint knows, each at most once."""

    def __init__(self, params: QueryParams, allowed: Sequence[str]) -> None:
        items = params.multi_items()
        names = [name for name, _ in items]
        for name, value in items:
            if name not in allowed:
                expected = ", ".join(allowed) or "none"
                raise bad(f"parameter {name[:40]!r}: expected one of: {expected}")
            if names.count(name) > 1:
                raise bad(f"parameter {name}: expected once")
            if len(value) > TEXT_CHARS_MAX:
                raise bad(f"parameter {name}: expected at most {TEXT_CHARS_MAX} characters")
        self._values = dict(items)

    def text(self, name: str) -> str | None:
        """Return the parameter as it is; None where it is absent. An empty one is a value: "without any"."""
        return self._values.get(name)

    def integer(self, name: str, default: int, lowest: int, highest: int) -> int:
        """Return the parameter as a number within its bounds."""
        value = self._values.get(name)
        if value is None:
            return default
        if value.isascii() and value.isdigit() and lowest <= int(value) <= highest:
            return int(value)
        raise bad(f"parameter {name}: expected a whole number {lowest}..{highest}, got {value[:40]!r}")

    def limit(self) -> int:
        """Return how many rows a page may have."""
        return self.integer("limit", LIMIT_DEFAULT, 1, LIMIT_MAX)

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """Return the parameter if it is one of `allowed`; None where it is absent."""
        value = self._values.get(name)
        if value is None or value in allowed:
            return value
        raise bad(f"parameter {name}: expected one of: {', '.join(allowed)}; got {value[:40]!r}")

    def cursor(self, types: Sequence[type]) -> list[Any] | None:
        """Return the values packed by `pack_cursor`, checked against `types`; None on the first page."""
        value = self._values.get("cursor")
        if value is None:
            return None
        try:
            packed = json.loads(base64.urlsafe_b64decode(value.encode("ascii")))
        except (binascii.Error, UnicodeError, ValueError, RecursionError):
            packed = None
        if isinstance(packed, list) and [type(item) for item in packed] == list(types):
            return packed
        raise bad("parameter cursor: expected the next_cursor of the previous page, unchanged")


def pack_cursor(values: Sequence[object]) -> str:
    """Return an opaque text that leads to the row after the one whose sort values these are."""
    return base64.urlsafe_b64encode(json.dumps(list(values)).encode()).decode("ascii")
