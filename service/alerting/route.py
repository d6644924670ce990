"""Which receivers a notification goes to, and whether the routes name receivers that exist."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from service.alerting.contract import Notification
from service.errors import ConfigProblem
from service.settings import RouteSettings


def receivers_for(notification: Notification, routes: Sequence[RouteSettings]) -> tuple[str, ...]:
    """Return the receivers of the first route that matches, each once; none if no route does."""
    for route in routes:
        if fnmatchcase(notification.owner, route.owner) and fnmatchcase(notification.kind, route.kind):
            return tuple(dict.fromkeys(route.receivers))
    return ()


def check_routes(routes: Sequence[RouteSettings], receivers: Collection[str]) -> list[ConfigProblem]:
    """Return a problem for every name in `routes` that is not one of `receivers`."""
    known = ", ".join(sorted(receivers)) or "none"
    return [
        ConfigProblem(
            f"alerting.routes.{i}.receivers.{j}",
            f"unknown receiver {name!r}; alerting.receivers defines: {known}",
        )
        for i, route in enumerate(routes)
        for j, name in enumerate(route.receivers)
        if name not in receivers
    ]
