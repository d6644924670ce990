"""Slack messages: within the limits, harmless whatever the names, and different when it is over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerting.contract import Notification, Outcome
from service.alerting.notifiers.slack import escape, fit, slack_message
from service.alerting.render import render
from tests.fakes.notifications import HOSTILE, alert, enormous, hostile, notification, resolved
from tests.fakes.sink import Answer, Sink
from tests.service.alerting.receivers import PAGE_URL, build

GOLDEN = Path(__file__).parent / "golden"


def message(note: Notification) -> dict[str, Any]:
    return slack_message(render(note), PAGE_URL)


def texts(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from [block["text"]] if "text" in block else block["elements"]


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def assert_within_limits(sent: dict[str, Any]) -> None:
    assert 0 < units(sent["text"]) <= 3000
    assert len(sent["blocks"]) <= 50
    total = 0
    for block in sent["blocks"]:
        limit = 150 if block["type"] == "header" else 3000
        for text in texts(block):
            assert 0 < units(text["text"]) <= limit
            total += units(text["text"])
    assert total <= 12_000


@pytest.mark.parametrize("make", ["usual", "resolved", "hostile", "enormous", "long", "astral"])
def test_every_message_is_within_slacks_limits(make: str) -> None:
    long = {"owner": "&" * 9000, "action": "<" * 9000, "title": ">" * 9000, "kind": "new"}
    astral = {"owner": "\U0001f680" * 900, "action": "\U0001f680" * 9000, "kind": "new"}
    notes = {
        "usual": notification(),
        "resolved": resolved("r"),
        "hostile": hostile(),
        "enormous": enormous(),
        "long": notification(alerts=(alert(entity_key="&" * 999),) * 1000, **long),
        "astral": notification(alerts=(alert(entity_key="\U0001f680" * 999),) * 1000, **astral),
    }
    assert_within_limits(message(notes[make]))


def test_what_finds_no_place_is_counted() -> None:
    sent = message(enormous())
    listed = sum(text["text"].count("\u2022 ") for block in sent["blocks"] for text in texts(block))
    assert 20 < listed < 10_000
    left_out = f"and {10_000 - listed:,} more not listed here"
    assert [left_out] == [text["text"] for text in texts(sent["blocks"][-2])]


def test_hostile_names_give_the_golden_message() -> None:
    golden = json.loads((GOLDEN / "slack_hostile.json").read_text())
    assert golden == message(hostile())


def test_nothing_untrusted_is_ever_read_as_markup() -> None:
    sent = message(hostile())
    marked_up = [text["text"] for block in sent["blocks"] for text in texts(block) if text["type"] == "mrkdwn"]
    assert [f"<{PAGE_URL}|Open Skinflint>"] == marked_up
    assert (False, False, False) == (sent["mrkdwn"], sent["unfurl_links"], sent["unfurl_media"])
    plain = [t["text"] for b in sent["blocks"] for t in texts(b) if t["type"] == "plain_text"]
    for text in (sent["text"], *plain):
        assert not set(text) & set("<>\r\x00\x1b\u202e\u200b\ud800")
    assert "\n" not in sent["text"]


@given(st.text(max_size=400), st.integers(2, 300))
def test_a_cut_text_is_escaped_whole_and_never_too_long(text: str, chars_max: int) -> None:
    cut = fit(text, chars_max)
    assert units_of_any(cut) <= chars_max
    whole = escape(text)
    assert cut == whole or (cut.endswith("…") and whole.startswith(cut[:-1]))
    assert "&" not in cut.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")


def units_of_any(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def test_a_message_that_it_is_over_looks_different() -> None:
    firing, over = message(notification()), message(resolved("r"))
    assert firing["text"].startswith("\u26a0\ufe0f $76.80/day wasted: 1 GPU idle with memory held")
    assert over["text"].startswith("\u2705 Resolved, $16.00 wasted in all: 1 GPU idle")
    assert "What to do" in json.dumps(firing)
    assert "What to do" not in json.dumps(over)


def test_without_a_page_there_is_no_link() -> None:
    assert "mrkdwn" not in json.dumps(slack_message(render(notification()), "")["blocks"])


def test_slacks_word_for_the_reason_is_told_and_other_text_is_not() -> None:
    for body, detail in (
        (b"invalid_payload", "127.0.0.1: HTTP 400 invalid_payload"),
        (b"<html>/hook/T00/s3cr3tPath</html>", "127.0.0.1: HTTP 400"),
    ):
        with Sink(default=Answer(400, body=body)) as sink:
            delivery = build("slack", sink.url).send(notification())
        assert (Outcome.REJECTED, detail) == (delivery.outcome, delivery.detail)


def test_the_hostile_text_is_hostile() -> None:
    assert "<!channel>" in HOSTILE
    assert "\u202e" in HOSTILE
