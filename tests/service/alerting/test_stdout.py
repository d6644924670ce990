"""Notifications on standard output."""

from __future__ import annotations

import io
import json

import pytest

from service.alerting.contract import Outcome
from service.alerting.notifiers.stdout import StdoutNotifier, StdoutParams
from tests.fakes.notifications import hostile, notification


def printed(stream: io.StringIO, form: str) -> StdoutNotifier:
    params = StdoutParams.model_validate({"type": "stdout", "name": "console", "format": form})
    return StdoutNotifier(params, "https://skinflint.example/", stream)


def test_text_begins_with_the_dollars_and_ends_with_the_page() -> None:
    stream = io.StringIO()
    assert printed(stream, "text").send(notification()).outcome is Outcome.DELIVERED
    lines = stream.getvalue().splitlines()
    assert "$76.80/day wasted: 1 GPU idle with memory held — vision" == lines[0]
    assert ["https://skinflint.example/", ""] == lines[-2:]


def test_json_is_one_line_per_notification() -> None:
    stream = io.StringIO()
    notifier = printed(stream, "json")
    notifier.send(hostile("n1"))
    notifier.send(notification("n2"))
    lines = stream.getvalue().splitlines()
    names = [json.loads(line)["data"]["notification_id"] for line in lines]
    assert ["n1", "n2"] == names


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_hostile_name_cannot_steer_the_terminal(form: str) -> None:
    stream = io.StringIO()
    printed(stream, form).send(hostile())
    assert not set(stream.getvalue()) & set("\x00\x1b\r\u202e\u200b")


def test_a_closed_output_is_waited_out() -> None:
    stream = io.StringIO()
    stream.close()
    assert printed(stream, "text").send(notification()).outcome is Outcome.RETRY
