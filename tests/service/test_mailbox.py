"""The loop's outlet: what goes to whom, and what goes to nobody."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.alerting.outbox import Outbox
from service.app import Mailbox
from service.metrics import register
from service.settings import AlertingSettings, HttpSettings, RouteSettings
from service.view import Publisher
from tests.fakes.clock import ManualClock
from tests.fakes.notifications import notification


def test_a_message_without_a_route_is_counted_and_logged_and_the_count_begins_at_zero(tmp_path):
    clock, registry = ManualClock(), CollectorRegistry()
    timings = register(registry, Publisher(clock), HttpSettings(), clock, "1")
    settings = AlertingSettings(routes=[RouteSettings(kind="hung_collective", receivers=["console"])])
    outbox = Outbox(tmp_path / "outbox.db", settings, clock)
    mailbox = Mailbox(outbox, settings, timings.unrouted.inc)

    def unrouted() -> float | None:
        return registry.get_sample_value("skinflint_notifications_unrouted_total")

    assert unrouted() == 0
    with capture_logs() as said:
        mailbox.put([notification("n1", kind="hung_collective", owner="vision")])
        assert (unrouted(), said) == (0, [])
        mailbox.put([notification("n2", kind="idle_held", owner="vision")])
    outbox.close()
    assert unrouted() == 1
    assert [(line["event"], line["kind"], line["owner"]) for line in said] == [
        ("no route matches", "idle_held", "vision")
    ]
