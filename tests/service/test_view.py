"""What readers may rely on: a view cannot change under them, and its sums are right."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from detectors import idle_waste
from detectors.idle_waste import SIGNALS, STATES
from service.summary import OTHER, by_state, top_owners, worst_first
from service.view import FleetView, Publisher, ServiceStatus
from tests.fakes.view import fleet_view, service_status, still_clock


def test_the_names_are_those_of_the_detector():
    assert STATES == idle_waste.STATES
    assert SIGNALS == idle_waste.SIGNALS


def test_a_view_does_not_follow_the_arrays_it_was_made_from():
    base = fleet_view(8)
    power = np.full(8, 100.0)
    view = replace(base, power_watts=power)
    power[:] = 0
    assert view.power_watts.tolist() == [100.0] * 8
    with pytest.raises(ValueError, match="read-only"):
        view.power_watts[0] = 1


def test_a_read_only_array_is_taken_without_a_copy():
    base = fleet_view(8)
    assert replace(base).power_watts is base.power_watts


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("power_watts", np.zeros(7)),
        ("power_watts", np.zeros(8, np.float32)),
        ("state", np.full(8, len(STATES), np.int8)),
        ("state", np.full(8, -1, np.int8)),
        ("signal", np.full(8, len(SIGNALS), np.int8)),
        ("seconds_in_state", np.zeros(7)),
        ("owner", ("a",)),
    ],
)
def test_a_view_of_the_wrong_shape_is_refused_by_name(name, wrong):
    with pytest.raises(ValueError, match=name):
        replace(fleet_view(8), **{name: wrong})


@pytest.mark.parametrize("name", ["records", "samples", "dead_letters"])
def test_a_count_outside_its_closed_set_is_refused(name):
    with pytest.raises(ValueError, match=name):
        service_status(**{name: {"surprising": 1}})


def test_a_notification_outcome_outside_its_closed_set_is_refused():
    with pytest.raises(ValueError, match="notifications"):
        service_status(notifications={("slack", "surprising"): 1})


def test_sums_by_state_equal_a_loop_over_the_gpus():
    view = fleet_view(300)
    totals = by_state(view)
    for s in range(len(STATES)):
        rows = [i for i in range(len(view)) if view.state[i] == s]
        priced = [i for i in rows if not np.isnan(view.usd_per_hour[i])]
        assert totals.gpus[s] == len(rows)
        assert totals.usd_per_hour[s] == pytest.approx(sum(view.usd_per_hour[i] for i in priced))
        assert totals.waste_usd_per_hour[s] == pytest.approx(sum(view.waste_usd_per_hour[i] for i in priced))
        assert totals.seconds[s] == view.seconds_in_state[s]


def test_top_owners_and_the_rest_add_up_to_the_fleet():
    view = fleet_view(300)
    top, rest = top_owners(view, 3)
    everyone, nobody = top_owners(view, 1000)
    assert nobody is None and rest is not None and rest.owner == OTHER
    assert top == everyone[:3]
    assert [row.waste_usd_per_hour for row in everyone] == sorted(
        (row.waste_usd_per_hour for row in everyone), reverse=True
    )
    assert sum(row.gpus for row in (*top, rest)) == len(view)
    assert sum(row.waste_usd_per_hour for row in (*top, rest)) == pytest.approx(np.nansum(view.waste_usd_per_hour))
    assert sum(row.waste_usd_total for row in (*top, rest)) == pytest.approx(view.waste_usd_total.sum())


def test_owners_do_not_depend_on_the_order_of_rows():
    view = fleet_view(64)
    back = slice(None, None, -1)
    arrays = {
        name: getattr(view, name)[back] for name in ("state", "usd_per_hour", "waste_usd_per_hour", "waste_usd_total")
    }
    turned = replace(view, owner=view.owner[back], **arrays)
    assert [row.owner for row in top_owners(turned, 9)[0]] == [row.owner for row in top_owners(view, 9)[0]]


def test_an_empty_view_has_no_owners_and_zero_sums():
    empty = FleetView.empty()
    assert top_owners(empty, 5) == ((), None)
    assert by_state(empty).gpus.tolist() == [0] * len(STATES)
    assert len(worst_first(empty)[0]) == 0
    assert empty.unknown_price_count == 0


def test_the_worst_come_first_and_unknown_prices_last():
    view = replace(fleet_view(4), waste_usd_per_hour=np.array([1.0, np.nan, 3.0, 1.0]))
    order, key = worst_first(view)
    assert order.tolist() == [2, 0, 3, 1]
    assert key[1] == -1


def test_the_publisher_hands_out_the_newest_and_tells_its_age():
    clock = still_clock()
    publisher = Publisher(clock)
    assert publisher.view_age_s() is None and publisher.status_age_s() is None
    assert not publisher.status.ready and "starting" in publisher.status.reasons[0]
    view, status = fleet_view(8), ServiceStatus(ready=True)
    publisher.publish_view(view)
    publisher.publish_status(status)
    clock.wait(3)
    assert publisher.view is view and publisher.status is status
    assert publisher.view_age_s() == publisher.status_age_s() == 3


def test_a_reader_never_sees_half_a_view_while_another_is_published():
    views = [fleet_view(n) for n in (8, 16)]
    publisher = Publisher(still_clock())
    publisher.publish_view(views[0])
    done = threading.Event()

    def publish() -> None:
        for k in range(20_000):
            publisher.publish_view(views[k % 2])
        done.set()

    thread = threading.Thread(target=publish)
    thread.start()
    while not done.is_set():
        view = publisher.view
        assert len(view.state) == len(view.owner) == len(view)
    thread.join()


def test_a_view_that_is_too_old_for_readers_is_silenced_until_the_next():
    clock = still_clock()
    publisher = Publisher(clock)
    view = fleet_view(30)
    publisher.publish_view(view)
    publisher.publish_status(service_status(silent_after_s=100.0))
    clock.advance(100)
    assert publisher.view is view
    clock.advance(1)
    silent = publisher.view
    assert silent is publisher.view
    assert {STATES[state] for state in silent.state} == {"unknown"}
    assert {SIGNALS[signal] for signal in silent.signal} == {"none"}
    assert np.nansum(silent.waste_usd_per_hour) == 0
    assert np.array_equal(np.isnan(silent.waste_usd_per_hour), np.isnan(view.usd_per_hour))
    assert np.isnan(silent.activity_ratio).all()
    assert by_state(silent).waste_usd.tolist() == by_state(view).waste_usd.tolist()
    assert silent.alerts == view.alerts
    publisher.publish_view(view)
    assert publisher.view is view


def test_an_empty_fleet_can_be_silent_too():
    clock = still_clock()
    publisher = Publisher(clock)
    publisher.publish_status(service_status(silent_after_s=1.0))
    clock.advance(50)
    assert not publisher.is_silent()
    publisher.publish_view(FleetView.empty())
    clock.advance(50)
    assert publisher.is_silent() and len(publisher.view) == 0
