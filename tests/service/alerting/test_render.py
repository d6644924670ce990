"""A notification in words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerting.contract import AlertStatus
from service.alerting.render import clean, duration, headline, moment, render, usd
from service.alerting.uncertain import possible_repeat
from tests.fakes.clock import NOON_NS
from tests.fakes.notifications import LABELS, alert, notification, resolved


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "$76.80/day wasted: 1 GPU idle with memory held — vision"),
        (
            {"alert_count": 16, "usd_per_hour": 51.42},
            "$1,234/day wasted: 16 GPUs idle with memory held — vision",
        ),
        ({"usd_per_hour": None}, "Unknown cost: 1 GPU idle with memory held — vision"),
        ({"usd_per_hour": float("nan")}, "Unknown cost: 1 GPU idle with memory held — vision"),
        ({"usd_per_hour": 0.0}, "1 GPU idle with memory held — vision"),
        ({"reason": "repeat"}, "Still $76.80/day wasted: 1 GPU idle with memory held — vision"),
        (
            {"reason": "repeat", "usd_per_hour": None},
            "Still of unknown cost: 1 GPU idle with memory held — vision",
        ),
        (
            {"reason": "resolved", "status": AlertStatus.RESOLVED},
            "Resolved, $16.00 wasted in all: 1 GPU idle with memory held — vision",
        ),
        (
            {"reason": "resolved", "status": AlertStatus.RESOLVED, "usd_so_far": None},
            "Resolved: 1 GPU idle with memory held — vision",
        ),
        ({"owner": ""}, "$76.80/day wasted: 1 GPU idle with memory held — no owner known"),
        (
            {"kind": "straggler", "title": "It is slower than its peers.", "alert_count": 2},
            "$76.80/day wasted: 2 GPUs: It is slower than its peers. — vision",
        ),
    ],
)
def test_the_headline_has_dollars_count_matter_and_owner(changes: dict[str, object], line: str) -> None:
    assert line == headline(notification(**changes))


def test_a_possible_repeat_is_said_to_be_one() -> None:
    assert headline(possible_repeat(notification())).endswith(" — vision (possible repeat)")


def test_a_gpu_has_place_model_holder_time_and_money() -> None:
    assert (
        "node-3 GPU 2 · NVIDIA H100 80GB HBM3 · pod vision/train-0 · since 2026-01-09 07:00 UTC (5 h) · $16.00 so far",
    ) == render(notification()).gpus


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"node": ""}, "GPU-5c1d · "),
        ({"mig_id": "3", "mig_profile": "1g.10gb"}, " · MIG 3 1g.10gb · "),
        ({"pod": "", "job": "nightly"}, " · job nightly · "),
        ({"pod": ""}, " · vision · "),
    ],
)
def test_a_gpu_is_named_by_what_is_known(changes: dict[str, str], part: str) -> None:
    labels = LABELS._replace(**changes)
    assert part in render(notification(alerts=(alert(labels=labels),))).gpus[0]


def test_what_ended_lasted_until_its_end() -> None:
    ended = alert(status=AlertStatus.RESOLVED, ended_ns=NOON_NS - 3600 * 10**9)
    (line,) = render(resolved("r", alerts=(ended,))).gpus
    assert "(4 h) · $16.00 in all" in line


def test_an_unknown_price_is_said_plainly() -> None:
    note = notification(usd_per_hour=None, usd_so_far=None, alerts=(alert(usd_so_far=None),))
    message = render(note)
    assert message.totals.startswith("price unknown: add a rule under prices.rules · 1 GPU")
    assert message.gpus[0].endswith(" · price unknown")


def test_the_text_names_the_action_and_what_is_left_out() -> None:
    text = render(notification(alert_count=1300)).text()
    assert "\nWhat to do: Unload the model.\n- node-3" in text
    assert text.endswith("\nand 1,299 more not listed here")
    assert "What to do" not in render(resolved("r")).text()


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "unknown"),
        (float("nan"), "unknown"),
        (float("inf"), "unknown"),
        (0.0, "$0.00"),
        (0.001, "under $0.01"),
        (0.005, "$0.01"),
        (12.345, "$12.35"),
        (99.994, "$99.99"),
        (99.996, "$100"),
        (1234.5, "$1,234"),
        (9_876_543.2, "$9,876,543"),
        (-5.0, "-$5.00"),
        (-5000.0, "-$5,000"),
    ],
)
def test_money_is_for_people(amount: float | None, text: str) -> None:
    assert text == usd(amount)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (11_400, "3 h 10 min"),
        (86_400 * 2 + 3600 * 4 + 59, "2 d 4 h"),
    ],
)
def test_durations_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert text == duration(seconds)


def test_a_moment_is_in_utc_and_an_impossible_one_does_no_harm() -> None:
    assert "2026-01-09 12:00 UTC" == moment(NOON_NS)
    assert "an unknown time" == moment(2**63 - 1 << 40)


@given(st.text(max_size=300), st.integers(1, 100))
def test_a_cleaned_text_is_one_bounded_line_without_tricks(text: str, chars_max: int) -> None:
    line = clean(text, chars_max)
    assert len(line) <= chars_max
    assert not {unicodedata.category(char) for char in line} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert line == line.strip()


def test_an_ordinary_name_stays_as_it_is() -> None:
    for name in ("GPU-8f1c", "NVIDIA H100 80GB HBM3", "équipe-vision", "視覚チーム"):
        assert name == clean(name, 80)
