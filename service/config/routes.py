"""Routes and receivers: whether each route leads to receivers that exist, and from alerts that can happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from service.config.fields import meant
from service.errors import ConfigProblem
from service.settings import RouteSettings


def check_receivers(names: Sequence[str]) -> list[ConfigProblem]:
    """Return a problem for every name that two receivers have."""
    return [
        ConfigProblem("alerting.receivers", f'{count} receivers are named "{name}"')
        for name, count in Counter(names).items()
        if count > 1
    ]


def check_route(
    i: int, route: RouteSettings, receivers: Collection[str], kinds: Collection[str]
) -> list[ConfigProblem]:
    """Return a problem for every receiver that does not exist, and one where no kind of alert fits; no kinds: any does."""
    problems = [
        ConfigProblem(
            f"alerting.routes[{i}].receivers",
            f'no receiver is named "{name}"; '
            f"{meant(name, receivers) or 'alerting.receivers has: ' + (', '.join(receivers) or 'none')}",
        )
        for name in route.receivers
        if name not in receivers
    ]
    if kinds and not any(fnmatchcase(kind, route.kind) for kind in kinds):
        hint = meant(route.kind, kinds) or "kinds are: " + ", ".join(kinds)
        problems.append(ConfigProblem(f"alerting.routes[{i}].kind", f"no kind of alert matches {route.kind!r}; {hint}"))
    return problems
