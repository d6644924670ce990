"""How tests build every notifier of the index, pointed at a URL."""

from __future__ import annotations

from typing import Any

from service.alerting.contract import Notifier
from service.alerting.guard import HttpParams
from service.alerting.notifiers import NOTIFIERS
from service.clock import Clock, SystemClock

SECRET = "whsec_" + "c2tpbmZsaW50LXRlc3Qtc2VjcmV0LTAx"
OTHER_SECRET = "whsec_" + "c2tpbmZsaW50LXRlc3Qtc2VjcmV0LTAy"
PAGE_URL = "https://skinflint.example/fleet"

HTTP_TYPES = [name for name, kind in NOTIFIERS.items() if issubclass(kind.params_type, HttpParams)]


def params(kind: str, url: str, **changes: Any) -> dict[str, Any]:
    """Return parameters of a receiver of this kind as a configuration gives them."""
    known: dict[str, Any] = {"type": kind, "name": "team"}
    if kind in HTTP_TYPES:
        known |= {"url": url, "allow_http_loopback": True, "timeout_s": 5}
    if "secret" in NOTIFIERS[kind].params_type.model_fields:
        known |= {"secret": SECRET}
    return known | changes


def build(kind: str, url: str, clock: Clock | None = None, **changes: Any) -> Notifier:
    """Return a notifier of this kind."""
    parsed = NOTIFIERS[kind].params_type.model_validate(params(kind, url, **changes))
    return NOTIFIERS[kind].from_params(parsed, clock or SystemClock(), PAGE_URL)
