"""Webhooks after Standard Webhooks 1.0.0: signed, bounded, the same id in every attempt."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.alerting.contract import Outcome
from service.alerting.payload import PAYLOAD_BYTES_MAX, encode_payload
from service.alerting.uncertain import possible_repeat
from service.clock import SystemClock
from service.errors import ConfigError
from tests.fakes.clock import ManualClock
from tests.fakes.notifications import alert, enormous, hostile, notification, resolved
from tests.fakes.sink import Answer, Request, Sink
from tests.service.alerting.receivers import OTHER_SECRET, PAGE_URL, SECRET, build

GOLDEN = Path(__file__).parent / "golden"


def sent(clock: Any = None, **changes: Any) -> Request:
    with Sink() as sink:
        delivery = build("webhook", sink.url, clock, **changes).send(notification())
        assert delivery.outcome is Outcome.DELIVERED
        return sink.requests[0]


def data_of(payload: bytes) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(payload)["data"]
    return data


def test_the_signature_verifies_with_the_reference_library() -> None:
    request = sent(SystemClock())
    payload = Webhook(SECRET).verify(request.body, request.headers)
    assert "skinflint.alert.firing" == payload["type"]
    assert "2026-01-09T12:00:00.000Z" == payload["timestamp"]
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_SECRET).verify(request.body, request.headers)


def test_the_time_zone_of_the_machine_does_not_move_the_signature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        request = sent(SystemClock())
        Webhook(SECRET).verify(request.body, request.headers)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_every_attempt_has_the_same_id_and_its_own_time() -> None:
    clock = ManualClock()
    with Sink([Answer(500)]) as sink:
        notifier = build("webhook", sink.url, clock)
        notifier.send(notification())
        clock.advance(90)
        notifier.send(notification())
        first, second = sink.requests
    assert ("n1", "n1") == (first.headers["webhook-id"], second.headers["idempotency-key"])
    assert first.body == second.body
    stamps = [int(request.headers["webhook-timestamp"]) for request in (first, second)]
    assert [1767960000, 1767960090] == stamps
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_while_secrets_are_rotated_both_sign(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n{OTHER_SECRET}\n")
    request = sent(SystemClock(), secret="", secret_file=str(file))
    assert 2 == len(request.headers["webhook-signature"].split(" "))
    for secret in (SECRET, OTHER_SECRET):
        Webhook(secret).verify(request.body, request.headers)


@pytest.mark.parametrize(
    "secret",
    [
        "plain",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_" + "A" * 200,
        "whsec_*****************************************",
        SECRET.removeprefix("whsec_"),
        f"{SECRET} {SECRET} {SECRET}",
    ],
)
def test_a_secret_that_is_none_is_a_configuration_error(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("webhook", "https://a.example/", secret=secret)
    assert "secret: expected" in str(caught.value)
    assert secret not in str(caught.value).replace("whsec_ and", "") or secret == "whsec_"


def test_a_secret_file_in_the_middle_of_a_change_is_waited_out(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    with Sink() as sink:
        notifier = build("webhook", sink.url, secret="", secret_file=str(file))
        file.write_text("whs")
        assert notifier.send(notification()).outcome is Outcome.RETRY
        assert [] == sink.requests


def test_the_payload_of_hostile_names_is_the_golden_one() -> None:
    golden = json.loads((GOLDEN / "webhook_hostile.json").read_text())
    assert golden == json.loads(encode_payload(hostile(), PAGE_URL))


def test_the_payload_says_what_the_documentation_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "webhook.md").read_text()
    data = data_of(encode_payload(notification(), PAGE_URL))
    names = [*data, *data["alerts"][0]]
    assert [] == [name for name in names if f"`{name}`" not in page]


@pytest.mark.parametrize(("make", "kind"), [(notification("n"), "firing"), (resolved("r"), "resolved")])
def test_the_type_names_the_reason(make: Any, kind: str) -> None:
    assert f"skinflint.alert.{kind}" == json.loads(encode_payload(make, ""))["type"]


def test_ten_thousand_gpus_are_cut_to_the_limit_and_counted() -> None:
    payload = encode_payload(enormous(), PAGE_URL)
    assert 15_000 < len(payload) <= PAYLOAD_BYTES_MAX < 20_000
    data = data_of(payload)
    assert (10_000, len(data["alerts"])) == (data["alert_count"], data["listed_count"])
    assert ["0" * 32] == [data["alerts"][0]["alert_id"]]


def test_one_alert_too_large_leaves_a_payload_without_alerts() -> None:
    evidence = {f"{'k' * 76}{i:04}": "\U0001f680" * 900 for i in range(1000)}
    labels = alert().labels._make(["\U0001f680" * 999] * 15)
    payload = encode_payload(notification(alerts=(alert(labels=labels, evidence=evidence),)), "")
    assert len(payload) <= PAYLOAD_BYTES_MAX
    assert (1, 0) == (data_of(payload)["alert_count"], data_of(payload)["listed_count"])


def test_unknown_prices_and_missing_page_are_null() -> None:
    note = notification(usd_per_hour=None, usd_so_far=None, alerts=(alert(usd_per_hour=None),))
    data = data_of(encode_payload(note, ""))
    assert [None] * 4 == [
        data["usd_per_hour"],
        data["usd_so_far"],
        data["page_url"],
        data["alerts"][0]["usd_per_hour"],
    ]


def test_a_possible_repeat_says_so() -> None:
    assert data_of(encode_payload(possible_repeat(notification()), ""))["possible_repeat"]
    assert not data_of(encode_payload(notification(), ""))["possible_repeat"]
