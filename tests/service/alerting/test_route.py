"""Which receivers a notification goes to."""

from __future__ import annotations

import pytest

from service.alerting.route import check_routes, receivers_for
from service.settings import AlertingSettings, RouteSettings
from tests.fakes.notifications import notification

ROUTES = [
    RouteSettings(owner="vision*", kind="idle_*", receivers=["vision"]),
    RouteSettings(kind="hung_collective", receivers=["oncall", "finops", "oncall"]),
    RouteSettings(owner="speech", receivers=["finops"]),
]


@pytest.mark.parametrize(
    ("owner", "kind", "receivers"),
    [
        ("vision", "idle_held", ("vision",)),
        ("vision-lab", "idle_held", ("vision",)),
        ("Vision", "idle_held", ()),
        ("vision", "hung_collective", ("oncall", "finops")),
        ("speech", "hung_collective", ("oncall", "finops")),
        ("speech", "idle_held", ("finops",)),
        ("other", "keep_alive", ()),
        ("", "hung_collective", ("oncall", "finops")),
    ],
)
def test_the_first_route_that_matches_is_taken(owner: str, kind: str, receivers: tuple[str, ...]) -> None:
    assert receivers == receivers_for(notification(owner=owner, kind=kind), ROUTES)


def test_by_default_everything_goes_to_the_console() -> None:
    routes = AlertingSettings().routes
    assert ("console",) == receivers_for(notification(owner="", kind="anything"), routes)
    assert [] == check_routes(routes, {"console"})


def test_unknown_receivers_are_all_named_with_their_places() -> None:
    problems = check_routes(ROUTES, {"vision", "finops"})
    assert ["alerting.routes.1.receivers.0", "alerting.routes.1.receivers.2"] == [problem.path for problem in problems]
    expected = "unknown receiver 'oncall'; alerting.receivers defines: finops, vision"
    assert {expected} == {problem.message for problem in problems}
    assert "defines: none" in check_routes(ROUTES, ())[0].message
