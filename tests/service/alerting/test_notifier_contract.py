"""What every notifier of the index promises, whichever it is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.alerting.contract import Delivery, Notification, Outcome
from service.alerting.notifiers import NOTIFIERS
from service.alerting.uncertain import UncertainDelivery, possible_repeat
from service.errors import ConfigError
from tests.fakes.notifications import enormous, hostile, notification, resolved
from tests.fakes.sink import Answer, Sink
from tests.service.alerting.receivers import HTTP_TYPES, build, params

EVERY = pytest.mark.parametrize("kind", list(NOTIFIERS))
EVERY_HTTP = pytest.mark.parametrize("kind", HTTP_TYPES)
SECRETS = ("s3cr3tPath", "c2tpbmZsaW50")


def send_to(kind: str, answer: Answer, **changes: object) -> Delivery:
    with Sink(default=answer) as sink:
        return build(kind, sink.url, **changes).send(notification())


@EVERY
def test_a_notifier_stands_in_the_index_under_its_own_type(kind: str) -> None:
    assert kind == NOTIFIERS[kind].type
    assert kind == params(kind, "")["type"]
    assert NOTIFIERS[kind].rate_per_s_max > 0


@EVERY
def test_every_parameter_is_documented_and_every_secret_may_come_from_a_file(kind: str) -> None:
    fields = NOTIFIERS[kind].params_type.model_fields
    assert [] == [name for name, field in fields.items() if not field.description]
    secrets = {name for name, field in fields.items() if field.annotation is SecretStr}
    assert {f"{name}_file" for name in secrets} <= set(fields)


@EVERY
@pytest.mark.parametrize(
    "make",
    [notification, lambda: resolved("r"), hostile, enormous, lambda: possible_repeat(hostile())],
    ids=["usual", "resolved", "hostile", "enormous", "repeat"],
)
def test_whatever_is_in_a_notification_it_is_delivered(kind: str, make: Callable[[], Notification]) -> None:
    with Sink() as sink:
        assert build(kind, sink.url).send(make()).outcome is Outcome.DELIVERED


@EVERY_HTTP
@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_is_2xx(kind: str, status: int) -> None:
    assert send_to(kind, Answer(status, body=b"")).outcome is Outcome.DELIVERED


@EVERY_HTTP
@pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 422, 301, 302, 307, 308])
def test_what_can_never_work_is_rejected(kind: str, status: int) -> None:
    assert send_to(kind, Answer(status)).outcome is Outcome.REJECTED


@EVERY_HTTP
@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
def test_what_may_work_later_is_tried_again(kind: str, status: int) -> None:
    assert send_to(kind, Answer(status)).outcome is Outcome.RETRY


@EVERY_HTTP
def test_the_receivers_wish_for_a_pause_is_passed_on(kind: str) -> None:
    delivery = send_to(kind, Answer(429, headers=[("Retry-After", "37")]))
    assert (Outcome.RETRY, 37.0) == (delivery.outcome, delivery.retry_after_s)
    assert not isinstance(delivery, UncertainDelivery)


@EVERY_HTTP
@pytest.mark.parametrize("answer", [Answer(500), Answer(hang=True), Answer(drop=True)], ids=["500", "silence", "reset"])
def test_a_message_that_may_have_arrived_is_marked_as_uncertain(kind: str, answer: Answer) -> None:
    delivery = send_to(kind, answer, timeout_s=0.3)
    assert delivery.outcome is Outcome.RETRY
    assert isinstance(delivery, UncertainDelivery)


@EVERY_HTTP
def test_nobody_listening_means_try_again_and_nothing_has_arrived(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    delivery = build(kind, f"http://127.0.0.1:{port}/hook/s3cr3tPath").send(notification())
    assert delivery == Delivery(Outcome.RETRY, "127.0.0.1: Connection refused")


@EVERY_HTTP
@pytest.mark.parametrize(
    "answer",
    [
        Answer(400, body=b"no such hook: /hook/T00/s3cr3tPath"),
        Answer(302, headers=[("Location", "http://127.0.0.1/s3cr3tPath")]),
        Answer(500),
        Answer(drop=True),
        Answer(hang=True),
    ],
    ids=["400", "302", "500", "reset", "silence"],
)
def test_no_secret_shows_in_what_comes_back_or_in_any_repr(kind: str, answer: Answer) -> None:
    with Sink(default=answer) as sink:
        given = NOTIFIERS[kind].params_type.model_validate(params(kind, sink.url))
        notifier = build(kind, sink.url, timeout_s=0.3)
        shown = repr((given, notifier, vars(notifier), notifier.send(notification())))
    assert [] == [secret for secret in SECRETS if secret in shown]


@EVERY_HTTP
@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/s3cr3tPath",
        "https://user:s3cr3tPath@hooks.example.com/",
        "file:///s3cr3tPath",
        "hooks.example.com/s3cr3tPath",
    ],
)
def test_a_url_that_could_never_be_used_is_a_configuration_error(kind: str, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(kind, url, allow_http_loopback=False)
    assert str(caught.value).startswith("alerting.receivers.team: ")
    assert "s3cr3tPath" not in str(caught.value)


@EVERY_HTTP
def test_a_secret_stands_in_one_place_only(kind: str) -> None:
    for changes in ({"url": ""}, {"url_file": "/run/secrets/url"}):
        with pytest.raises(ValidationError, match="exactly one of url_file and url"):
            NOTIFIERS[kind].params_type.model_validate(params(kind, "https://a.example/") | changes)


@EVERY_HTTP
def test_a_url_file_is_read_for_each_message_and_its_absence_waited_out(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "url"
    with Sink() as old, Sink() as new:
        file.write_text(f"{old.url}\n")
        notifier = build(kind, "", url_file=str(file))
        notifier.send(notification("n1"))
        file.write_text(new.url)
        notifier.send(notification("n2"))
        file.unlink()
        gone = notifier.send(notification("n3"))
        assert (1, 1) == (len(old.requests), len(new.requests))
    assert gone == Delivery(Outcome.RETRY, "url_file: cannot be read: No such file or directory")


@EVERY_HTTP
def test_a_missing_file_is_a_configuration_error_at_the_start(kind: str, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"alerting\.receivers\.team: url_file: cannot be read"):
        build(kind, "", url_file=gone)
    with pytest.raises(ConfigError, match=r"alerting\.receivers\.team: .*No such file"):
        build(kind, "https://a.example/", ca_file=gone)
