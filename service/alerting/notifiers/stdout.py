"""Notifications on standard output, for a first look and for whatever reads our output."""

from __future__ import annotations

import builtins
import sys
from typing import Annotated, ClassVar, Literal, Self, TextIO

from pydantic import Field

from service.alerting.contract import Delivery, Notification, Outcome
from service.alerting.payload import encode_payload
from service.alerting.render import render
from service.clock import Clock
from service.settings import Section


class StdoutParams(Section):
    """A receiver that prints."""

    type: Literal["stdout"]
    """Kind of receiver."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Name by which routes refer to it."""
    format: Literal["text", "json"] = "text"
    """text for people, json for one line per notification (the payload of the webhook)."""


class StdoutNotifier:
    """Prints each notification and flushes."""

    type: ClassVar[str] = "stdout"
    rate_per_s_max: ClassVar[float] = 1000.0
    params_type: ClassVar[builtins.type[Section]] = StdoutParams  # `type` is taken, above

    def __init__(self, params: StdoutParams, page_url: str, stream: TextIO) -> None:
        self._format = params.format
        self._page_url = page_url
        self._stream = stream

    @classmethod
    def from_params(cls, params: StdoutParams, clock: Clock, page_url: str) -> Self:
        """Build it on this process's standard output."""
        return cls(params, page_url, sys.stdout)

    def send(self, notification: Notification) -> Delivery:
        """Print; a reader that has gone away may come back with the next process, so the message is kept."""
        try:
            self._stream.write(self._text(notification))
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return Delivery(Outcome.RETRY, "standard output cannot be written")
        return Delivery(Outcome.DELIVERED)

    def _text(self, notification: Notification) -> str:
        if self._format == "json":
            return encode_payload(notification, self._page_url).decode() + "\n"
        link = f"{self._page_url}\n" if self._page_url else ""
        return f"{render(notification).text()}\n{link}\n"
