"""Which receivers a notification goes to."""

from __future__ import annotations

import pytest

from service.alerting.route import receivers_for
from service.config.routes import check_route
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
    assert [] == check_route(0, routes[0], ["console"], ["idle_held"])


def test_unknown_receivers_are_all_named_with_their_places() -> None:
    problems = [p for i, route in enumerate(ROUTES) for p in check_route(i, route, ["vision", "finops"], ())]
    assert {"alerting.routes[1].receivers"} == {problem.path for problem in problems}
    assert len(problems) == 2
    assert 'no receiver is named "oncall"; alerting.receivers has: vision, finops' == problems[0].message
    assert "has: none" in check_route(0, ROUTES[0], (), ())[0].message
    assert 'did you mean "visions"?' in check_route(0, ROUTES[0], ["visions"], ())[0].message


def test_a_kind_that_no_alert_has_is_named_with_the_one_that_was_meant() -> None:
    kinds = ["idle_held", "hung_collective"]
    (problem,) = check_route(3, RouteSettings(kind="hung_collectve", receivers=["a"]), ["a"], kinds)
    assert "alerting.routes[3].kind" == problem.path
    assert "no kind of alert matches 'hung_collectve'; did you mean \"hung_collective\"?" == problem.message
    (problem,) = check_route(0, RouteSettings(kind="zzz*", receivers=["a"]), ["a"], kinds)
    assert problem.message.endswith("kinds are: idle_held, hung_collective")
    for kind in ("*", "hung_*", "idle_h?ld", "hung_collective"):
        assert [] == check_route(0, RouteSettings(kind=kind, receivers=["a"]), ["a"], kinds)
