"""Which partitions hold the others back."""

from __future__ import annotations

from service.ingest.contract import TopicPartition
from service.pipeline.idleness import Idleness

PARTITION = TopicPartition("t", 0)


class Log:
    """A source of one partition that says whether it is at its end."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self.at_end = False

    def assigned(self):
        return frozenset({PARTITION})

    def ended(self, _):
        return self.at_end


def idle(script, live=True):
    """Return, per step, whether the partition is idle; a step is (seconds, at its end, had rows)."""
    log, tested, found = Log(live), Idleness(10.0), []
    for now_s, at_end, rows in script:
        log.at_end = at_end
        found.append(bool(tested.update(log, {PARTITION} if rows else set(), now_s)))
    return found


def test_a_live_partition_is_idle_after_a_silence_at_its_end():
    assert idle([(0, True, True), (5, True, False), (10, True, False), (11, True, True)]) == [False, False, True, False]


def test_a_partition_with_a_backlog_is_never_idle():
    assert idle([(0, False, False), (30, False, False), (60, False, False)]) == [False, False, False]


def test_a_partition_of_records_without_gpus_does_not_hold_the_others_back():
    script = [(second, second % 3 == 0, False) for second in range(30)]
    assert idle(script)[11:] == [True] * 19


def test_a_finite_log_is_idle_as_soon_as_it_ended():
    assert idle([(0, False, True), (1, True, True)], live=False) == [False, True]
