"""Which receivers a notification goes to; `service.config.routes` checks that the routes make sense."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from service.alerting.contract import Notification
from service.settings import RouteSettings


def receivers_for(notification: Notification, routes: Sequence[RouteSettings]) -> tuple[str, ...]:
    """Return the receivers of the first route that matches, each once; none if no route does."""
    for route in routes:
        if fnmatchcase(notification.owner, route.owner) and fnmatchcase(notification.kind, route.kind):
            return tuple(dict.fromkeys(route.receivers))
    return ()
