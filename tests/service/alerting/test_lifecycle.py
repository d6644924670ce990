"""Pending, firing, resolved, and which of it people are told."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.contract import Findings
from detectors.idle_waste import IdleWaste, IdleWasteParams
from service.alerting.contract import AlertStatus
from service.alerting.grouping import Grouping
from service.alerting.lifecycle import Lifecycle, Subject, alert_id, from_json, to_json
from service.settings import AlertingSettings
from tests.service.pipeline.stream import gpu

TICK_NS = 15 * 10**9
T0 = 1_790_000_010 * 10**9
IDLE, HELD = 1, 2
NO_WAIT = AlertingSettings(group_wait_s=0, group_interval_s=0, repeat_interval_s=3600)


class Fleet:
    """Some GPUs whose findings a test says tick by tick."""

    def __init__(self, gpus=1, for_s=60.0, keep_s=30.0, usd=2.0, resume=None, firing=()):
        params = IdleWasteParams(keep_firing_for_s=keep_s)
        self.detector = IdleWaste(params, None)
        self.detector.evidence = lambda _: {"signal": "sm"}
        self.lifecycle = Lifecycle(self.detector, resume, list(firing))
        self.gpus, self.for_s, self.usd = gpus, for_s, usd
        labels = [gpu(f"GPU-{e}") for e in range(gpus)]
        self.subjects = {e: Subject(labels[e].entity_key(), labels[e], "team-a") for e in range(gpus)}
        self.lifecycle.bind({f"GPU-{e}": e for e in range(gpus)})
        self.wasted = np.zeros(gpus)
        self.holder_since_ns = np.zeros(gpus, np.int64)

    def tick(self, number, kinds):
        kind = np.array(kinds, np.int8)
        self.wasted[kind >= 0] += np.nan_to_num(self.usd) * 15 / 3600
        n = self.gpus
        findings = Findings(
            kind, np.full(n, int(self.for_s * 1e9)), np.full(n, self.usd), self.wasted.copy(), np.full(n, 0.9)
        )
        return self.lifecycle.advance(findings, T0 + number * TICK_NS, self.subjects, self.holder_since_ns)


def test_an_alert_fires_once_its_finding_has_lasted():
    fleet = Fleet()
    fired = [len(fleet.tick(i, [IDLE])[0]) for i in range(8)]
    assert fired == [0, 0, 0, 0, 1, 0, 0, 0]


def test_a_finding_that_stops_before_its_time_starts_anew():
    fleet = Fleet()
    kinds = [IDLE, IDLE, IDLE, -1, IDLE, IDLE, IDLE, IDLE, IDLE]
    assert [len(fleet.tick(i, [k])[0]) for i, k in enumerate(kinds)] == [0] * 8 + [1]


def test_a_short_burst_does_not_end_a_firing_alert_and_a_longer_one_does():
    fleet = Fleet()
    for i in range(6):
        fleet.tick(i, [IDLE])
    ended = [fleet.tick(i, [k])[1] for i, k in enumerate([-1, IDLE, -1, -1, -1], 6)]
    assert [len(e) for e in ended] == [0, 0, 0, 1, 0]
    assert ended[3][0].status is AlertStatus.RESOLVED
    assert ended[3][0].ended_ns == T0 + 7 * TICK_NS


def test_the_id_comes_from_the_tick_that_opened_the_episode():
    fleet = Fleet()
    alert = next(a for i in range(9) for a in fleet.tick(i, [IDLE])[0])
    assert alert.alert_id == alert_id("GPU-0", "idle_waste", "truly_idle", T0)
    assert len(alert.alert_id) == 32


def test_an_alert_ends_with_its_holder_and_the_next_one_starts_its_own():
    fleet = Fleet()
    for i in range(6):
        fleet.tick(i, [IDLE])
    fleet.holder_since_ns[0] = T0 + 5 * TICK_NS + 1
    fired, resolved = fleet.tick(6, [IDLE])
    assert ([a.kind for a in resolved], fired) == (["truly_idle"], [])
    fired = [a for i in range(7, 12) for a in fleet.tick(i, [IDLE])[0]]
    assert [a.opened_ns for a in fired] == [T0 + 6 * TICK_NS]


def test_a_pending_alert_starts_anew_with_a_new_holder():
    fleet = Fleet()
    for i in range(3):
        fleet.tick(i, [IDLE])
    fleet.holder_since_ns[0] = T0 + 2 * TICK_NS + 1
    assert [len(fleet.tick(i, [IDLE])[0]) for i in range(3, 8)] == [0, 0, 0, 0, 1]


def test_another_kind_is_another_alert():
    fleet = Fleet(keep_s=0)
    for i in range(6):
        fleet.tick(i, [IDLE])
    fired, resolved = [], []
    for i in range(6, 12):
        a, b = fleet.tick(i, [HELD])
        fired += a
        resolved += b
    assert ([a.kind for a in fired], [a.kind for a in resolved]) == (["idle_held"], ["truly_idle"])


def test_the_dollars_are_those_of_the_episode():
    fleet = Fleet()
    fleet.wasted[:] = 1000.0
    for i in range(6):
        fleet.tick(i, [IDLE])
    alert = next(iter(fleet.lifecycle.firing(T0 + 5 * TICK_NS).values()))
    assert alert.usd_per_hour == 2.0
    assert alert.usd_so_far == pytest.approx(5 * 15 * 2 / 3600)


def test_an_unknown_price_is_none():
    fleet = Fleet(usd=float("nan"))
    alert = next(a for i in range(9) for a in fleet.tick(i, [IDLE])[0])
    assert (alert.usd_per_hour, alert.usd_so_far) == (None, None)


def test_a_resumed_lifecycle_resolves_what_fired_before():
    fleet = Fleet()
    for i in range(6):
        fleet.tick(i, [IDLE])
    saved = [from_json(a) for a in map(to_json, fleet.lifecycle.fired())]
    resumed = Fleet(resume=fleet.lifecycle.snapshot(), firing=saved)
    expected = [fleet.tick(i, [-1])[1] for i in range(6, 10)]
    assert [resumed.tick(i, [-1])[1] for i in range(6, 10)] == expected
    assert sum(map(len, expected)) == 1


def test_alerts_follow_the_new_ids_of_their_gpus():
    fleet = Fleet(gpus=3)
    for i in range(6):
        fleet.tick(i, [IDLE, HELD, IDLE])
    fleet.lifecycle.keep(np.array([1, 2]), 3)
    fleet.lifecycle.bind({"GPU-1": 0, "GPU-2": 1})
    fleet.gpus, fleet.wasted, fleet.holder_since_ns = 2, fleet.wasted[1:], fleet.holder_since_ns[1:]
    ended = [alert for i in range(6, 10) for alert in fleet.tick(i, [HELD, -1])[1]]
    assert [(alert.entity_key, alert.kind) for alert in ended] == [("GPU-2", "truly_idle")]
    firing = fleet.lifecycle.firing(T0).values()
    assert [(alert.entity_key, alert.kind) for alert in firing] == [("GPU-1", "idle_held")]
    assert fleet.lifecycle.costliest(T0, 1) == list(firing)


def test_an_alert_survives_its_way_through_json():
    fleet = Fleet()
    alert = next(a for i in range(9) for a in fleet.tick(i, [IDLE])[0])
    assert from_json(to_json(alert)) == alert


def grouped(settings, script, gpus=3):
    """Play findings per tick; return the notifications of each tick."""
    fleet, grouping, out = Fleet(gpus=gpus, for_s=0, keep_s=0), Grouping(settings, None), []
    for i, kinds in enumerate(script):
        fired, resolved = fleet.tick(i, kinds)
        now_ns = T0 + i * TICK_NS
        grouping.take(fired, resolved, now_ns)
        before, is_due = grouping.snapshot(), grouping.is_due(now_ns)
        out.append(grouping.due(fleet.lifecycle.firing(now_ns), now_ns))
        assert is_due or (out[-1], grouping.snapshot()) == ([], before)
        grouping = Grouping(settings, grouping.snapshot())  # a restart after every tick changes nothing
    return out


def test_many_gpus_of_one_owner_are_one_message_with_the_sum():
    (message,) = grouped(NO_WAIT, [[IDLE, IDLE, IDLE]])[0]
    assert (message.reason, message.alert_count, message.usd_per_hour) == ("firing", 3, 6.0)
    assert message.kind == "truly_idle"


def test_a_group_waits_for_the_others_of_its_kind():
    settings = NO_WAIT.model_copy(update={"group_wait_s": 30})
    told = grouped(settings, [[IDLE, -1, -1], [IDLE, IDLE, -1], [IDLE, IDLE, IDLE], [IDLE] * 3])
    assert [len(t) for t in told] == [0, 0, 1, 0]
    assert told[2][0].alert_count == 3


def test_what_ended_while_the_group_waited_is_not_told_at_all():
    settings = NO_WAIT.model_copy(update={"group_wait_s": 60})
    assert grouped(settings, [[IDLE, -1, -1], [-1] * 3, [-1] * 3, [-1] * 3, [-1] * 3, [-1] * 3]) == [[]] * 6


def test_resolved_comes_after_firing_and_only_if_wanted():
    script = [[IDLE, -1, -1], [-1] * 3, [-1] * 3]
    assert [[m.reason for m in told] for told in grouped(NO_WAIT, script)] == [["firing"], ["resolved"], []]
    silent = NO_WAIT.model_copy(update={"send_resolved": False})
    assert [[m.reason for m in told] for told in grouped(silent, script)] == [["firing"], [], []]


def test_what_still_fires_is_repeated():
    settings = NO_WAIT.model_copy(update={"repeat_interval_s": 60})
    told = grouped(settings, [[IDLE, -1, -1]] * 10)
    assert [i for i, t in enumerate(told) if t] == [0, 4, 8]
    assert told[4][0].reason == "repeat"


def test_cheap_groups_are_not_sent():
    settings = NO_WAIT.model_copy(update={"usd_per_hour_min": 5.0})
    assert not any(grouped(settings, [[IDLE, IDLE, -1]] * 3))
    assert grouped(settings, [[IDLE, IDLE, IDLE]])[0]


def test_the_list_is_capped_and_the_sum_is_not():
    settings = NO_WAIT.model_copy(update={"alerts_per_notification_max": 2})
    (message,) = grouped(settings, [[IDLE] * 3])[0]
    assert (len(message.alerts), message.alert_count, message.usd_per_hour) == (2, 3, 6.0)


def test_ids_of_notifications_come_from_data():
    assert grouped(NO_WAIT, [[IDLE] * 3]) == grouped(NO_WAIT, [[IDLE] * 3])
