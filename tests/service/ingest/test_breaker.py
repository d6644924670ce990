"""The breaker: a partition that is mostly bad is stopped, wherever its log was cut into batches."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import CorruptState, FloodOfPoison
from service.ingest.breaker import Breaker
from service.ingest.contract import TopicPartition
from service.settings import DeadLetterSettings

HERE, THERE = TopicPartition("topic", 0), TopicPartition("topic", 1)
LIMITS = DeadLetterSettings(breaker_ratio_max=0.5, breaker_window_records=10, breaker_run_records=6)


def test_gpus_that_there_is_no_room_for_do_not_open_the_breaker() -> None:
    breaker = Breaker(LIMITS)
    for _ in range(20):
        breaker.observe(HERE, 10, [(i, "entities_max") for i in range(10)])
    breaker.observe(HERE, 10, [(i, "late" if i % 2 else "entities_max") for i in range(10)])
    with pytest.raises(FloodOfPoison, match=r"late 6"):
        breaker.observe(HERE, 10, [(i, "late" if i % 5 else "entities_max") for i in range(10)])


def test_a_count_of_full_places_from_an_older_checkpoint_does_not_open_the_breaker() -> None:
    saved = {"partitions": [{"topic": HERE.topic, "partition": HERE.partition, "runs": [["entities_max", 9]]}]}
    Breaker(LIMITS, saved).observe(HERE, 1, [(0, "malformed")])


def rejects(outcomes: str) -> list[tuple[int, str]]:
    return [(i, "malformed") for i, outcome in enumerate(outcomes) if outcome == "x"]


def opens_at(outcomes: str, cuts: Sequence[int] = (), breaker: Breaker | None = None) -> str:
    """Return what the breaker says of the outcomes ('.' accepted, 'x' rejected), cut into batches; empty if nothing."""
    breaker = breaker or Breaker(LIMITS)
    edges = [0, *sorted(cuts), len(outcomes)]
    try:
        for start, end in itertools.pairwise(edges):
            breaker.observe(HERE, end - start, rejects(outcomes[start:end]))
    except FloodOfPoison as flood:
        return str(flood)
    return ""


def test_rejected_records_in_a_row_open_the_breaker() -> None:
    assert not opens_at("xxxxx.xxx")
    assert opens_at("....xxxxxx").startswith("topic/0: 6 records in a row were rejected (malformed 6): expected fewer")


def test_too_large_a_share_of_the_last_records_opens_the_breaker_once_the_window_is_full() -> None:
    assert not opens_at("x.x.x.x.x.x.x.x.x.")
    assert not opens_at("xx.xxxx.x")
    assert opens_at("xx.xxxx.x.x").startswith("topic/0: 7 of the last 10 records were rejected (malformed 7)")


def test_old_records_leave_the_window() -> None:
    assert not opens_at("xxxx." + "." * 10 + "xxxxx....." + "x" * 5)


def test_the_message_counts_by_reason_and_names_the_limits() -> None:
    breaker = Breaker(LIMITS)
    with pytest.raises(FloodOfPoison) as flood:
        breaker.observe(HERE, 6, [(i, "late" if i % 3 else "malformed") for i in range(6)])
    assert "(late 4, malformed 2)" in str(flood.value)
    assert "breaker_run_records 6 and breaker_ratio_max 0.5" in str(flood.value)


@given(st.text(alphabet="..x", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_where_the_log_is_cut_into_batches_makes_no_difference(outcomes: str, cuts: list[int]) -> None:
    inside = [cut for cut in cuts if cut <= len(outcomes)]
    assert opens_at(outcomes, inside) == opens_at(outcomes)


@given(st.text(alphabet="..x", max_size=40), st.integers(0, 40))
def test_a_breaker_resumed_from_its_snapshot_goes_on_as_if_nothing_had_happened(outcomes: str, cut: int) -> None:
    before, after = outcomes[:cut], outcomes[cut:]
    whole = Breaker(LIMITS)
    if opens_at(before, breaker=whole):
        return
    resumed = Breaker(LIMITS, json.loads(json.dumps(whole.snapshot())))
    assert resumed.snapshot() == whole.snapshot()
    assert opens_at(after, breaker=resumed) == opens_at(after, breaker=whole)


def _naive(outcomes: str) -> int | None:
    """Return the record at which the breaker must open, from the whole history."""
    for i, outcome in enumerate(outcomes):
        seen = outcomes[: i + 1]
        window = seen[-LIMITS.breaker_window_records :]
        full = len(window) == LIMITS.breaker_window_records
        too_many = full and window.count("x") > LIMITS.breaker_ratio_max * len(window)
        if outcome == "x" and (too_many or seen.endswith("x" * LIMITS.breaker_run_records)):
            return i
    return None


@given(st.text(alphabet=".x", max_size=60))
def test_it_opens_exactly_where_the_whole_history_says(outcomes: str) -> None:
    opened = next((i for i in range(len(outcomes)) if opens_at(outcomes[: i + 1])), None)
    assert opened == _naive(outcomes)


def test_partitions_are_counted_apart_and_can_be_forgotten() -> None:
    breaker = Breaker(LIMITS)
    for partition in (HERE, THERE):
        breaker.observe(partition, 5, rejects("xxxxx"))
    breaker.forget(HERE)
    breaker.observe(HERE, 5, rejects("xxxxx"))
    with pytest.raises(FloodOfPoison, match="topic/1"):
        breaker.observe(THERE, 1, rejects("x"))


def test_a_snapshot_is_a_copy() -> None:
    breaker = Breaker(LIMITS)
    breaker.observe(HERE, 2, rejects(".x"))
    taken = breaker.snapshot()
    kept = json.dumps(taken)
    breaker.observe(HERE, 5, rejects("xxx.."))
    assert json.dumps(taken) == kept


@pytest.mark.parametrize("broken", [{}, {"partitions": [{}]}, {"partitions": [{"topic": "t", "partition": 0, "runs": 1}]}])  # fmt: skip
def test_a_snapshot_that_is_none_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(CorruptState, match="breaker"):
        Breaker(LIMITS, broken)
