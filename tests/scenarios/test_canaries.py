"""Secrets that are used and never shown: a canary in every secret place, then a look at everything that gets out."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml
from standardwebhooks import Webhook

from service.app import build_notifiers, build_source, configuration_type
from service.clock import SystemClock
from service.config import load
from tests.deploy.running import free_port, get, running, until
from tests.fakes.sink import Answer, Sink
from tests.kafka.broker import PASSWORD, USER, Broker
from tests.kafka.fixtures import SOCKETS_LEFT, collected
from tests.kafka.topics import Message, new_topic, write

__all__ = ["collected"]

ROOT = Path(__file__).parents[2]
KEY = b"canary-of-the-signing-secret-32b"
SIGNING = "whsec_" + base64.b64encode(KEY).decode()
SLACK_PATH = "/services/T0/B0/canary-of-slack"
HOOK_PATH = "/hook?token=canary-of-the-webhook"
WRONG = "canary-of-a-wrong-password"
TLS_KEY = "canary-of-the-tls-key"
CANARIES = {
    "password": PASSWORD, "signing secret": SIGNING, "signing key": KEY.decode(), "slack": "canary-of-slack",
    "webhook": "canary-of-the-webhook", "wrong password": WRONG, "tls key": TLS_KEY,
}  # fmt: skip
PASSWORD_VARIABLE = "SKINFLINT__SOURCE__KAFKA__SASL__PASSWORD"
HOOK_VARIABLE = "SKINFLINT__ALERTING__RECEIVERS__1__URL"
PATHS = (
    "/", "/metrics", "/livez", "/readyz", "/api/v1/summary?owners=100", "/api/v1/gpus?limit=100", "/api/v1/alerts",
    "/api/v1/gpus?cursor=nonsense", "/api/v1/gpus?nonsense=1", "/nowhere",
)  # fmt: skip


def shown(text: bytes) -> set[str]:
    """Return the secrets that stand in `text`, as they are or in a usual disguise."""
    found = set()
    for name, canary in CANARIES.items():
        raw = canary.encode()
        disguises = (
            raw,
            urllib.parse.quote(canary, safe="").encode(),
            raw.hex().encode(),
            json.dumps(canary)[1:-1].encode(),
        )
        # In base64 the letters depend on what stands before; those in the middle do on one of three beginnings only.
        encoded = [base64.b64encode(b"x" * shift + raw)[4:-4] for shift in range(3)]
        if any(each in text for each in (*disguises, *encoded)):
            found.add(name)
    return found


def files(folder: Path) -> bytes:
    """Return all that lies in a folder."""
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def answers(address: str) -> dict[str, bytes]:
    """Return what each path is answered with, errors too."""
    found = {}
    for path in PATHS:
        try:
            found[path] = get(address + path)
        except urllib.error.HTTPError as error:
            found[path] = error.read() + str(error.headers).encode()
    return found


def secret(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    (folder / name).chmod(0o600)
    return str(folder / name)


class Stage:
    """A broker that asks for a password, two receivers, and the configuration that holds the secrets of all."""

    def __init__(self, folder: Path, broker: Broker, slack: Sink, hook: Sink) -> None:
        self.folder, self.broker, self.slack, self.hook = folder, broker, slack, hook
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.topic = new_topic(broker)
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(self.settings()))
        self.environment = os.environ | {HOOK_VARIABLE: f"http://127.0.0.1:{hook.port}{HOOK_PATH}"}

    def settings(self) -> dict[str, Any]:
        kafka = {
            "bootstrap_servers": [self.broker.address], "topics": [self.topic], "security": "SASL_PLAINTEXT",
            "sasl": {
                "mechanism": "PLAIN", "username": USER, "password_file": secret(self.folder, "password", PASSWORD),
            },
        }  # fmt: skip
        slack_url = f"http://127.0.0.1:{self.slack.port}{SLACK_PATH}"
        receivers = [
            {
                "type": "slack", "name": "finops", "allow_http_loopback": True,
                "url_file": secret(self.folder, "slack", slack_url),
            },
            {
                "type": "webhook", "name": "tickets", "allow_http_loopback": True,
                "secret_file": secret(self.folder, "signing", SIGNING),
            },
        ]  # fmt: skip
        return {
            "source": {"kind": "kafka", "kafka": kafka},
            "state": {"directory": str(self.folder / "state"), "checkpoint_interval_s": 0.2},
            "http": {"port": self.port, "gpu_series_max": 100},
            "log": {"level": "debug", "format": "json"},
            "alerting": {"group_wait_s": 0, "receivers": receivers, "routes": [{"receivers": ["finops", "tickets"]}]},
        }

    def command(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end."""
        line = [sys.executable, "-m", "service", *words, "--config", str(self.config)]
        return subprocess.run(
            line, capture_output=True, cwd=ROOT, env=self.environment | (environment or {}), check=False, timeout=100
        )

    def line(self) -> list[str]:
        """Return the command of the service itself."""
        return [sys.executable, "-m", "service", "run", "--config", str(self.config)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("canaries")
    broker = Broker(tmp_path_factory.mktemp("kafka"), sasl=True).start()
    echo = f"{SLACK_PATH} is not known".encode()
    with Sink(default=Answer(404, body=echo)) as slack, Sink() as hook:
        hook.then(
            Answer(500, body=HOOK_PATH.encode()), Answer(503, headers=[("Location", HOOK_PATH)]), Answer(drop=True)
        )
        yield Stage(folder, broker, slack, hook)
    broker.stop()


def test_a_secret_that_is_shown_would_be_found():
    for canary in CANARIES.values():
        assert shown(f"x {canary} x".encode())
    for disguised in (base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()), KEY.hex().encode()):
        assert shown(disguised)
    assert shown(b"canary hook services whsec_ password") == set()


@pytest.mark.kafka
@SOCKETS_LEFT
def test_a_run_at_debug_level_shows_no_secret_anywhere(stage, tmp_path):
    made = stage.command("simulate", "--topic", stage.topic, "--nodes", "4", "--duration-s", "7200")
    assert made.returncode == 0, made.stderr
    write(stage.broker, stage.topic, [Message(b"{no json"), Message(b"also none", b"key", [("h", b"v")])])
    with running(stage.line(), tmp_path / "log", stage.environment) as service:
        until(lambda: get(stage.address + "/readyz"), service, "ready")
        until(lambda: stage.slack.requests and len(stage.hook.requests) > 3, service, "messages")
        until(
            lambda: b'\nskinflint_records_total{outcome="rejected"} 2.0' in get(stage.address + "/metrics"), service,
            "dead letters",
        )  # fmt: skip
        answered = answers(stage.address)
        limits = Path(f"/proc/{service.pid}/limits").read_text()
        command_line = Path(f"/proc/{service.pid}/cmdline").read_bytes()
        service.send_signal(signal.SIGTERM)
        assert service.wait(15) == 0
    log = (tmp_path / "log").read_bytes()

    # The secrets were used …
    assert stage.slack.requests[0].path == SLACK_PATH
    delivered = stage.hook.requests[-1]
    assert delivered.path == HOOK_PATH
    assert Webhook(SIGNING).verify(delivered.body, delivered.headers)
    events = [json.loads(line) for line in log.splitlines()]
    assert {"debug", "info"} <= {event["level"] for event in events}
    assert any(event["logger"].startswith("kafka") for event in events)
    assert any("finops" in json.dumps(event) for event in events)  # the failing receiver is spoken of
    state = files(stage.folder / "state")
    assert base64.b64encode(b"{no json") in state  # in its dead letter
    assert len(answered["/api/v1/alerts"]) > 500

    # … and nowhere told.
    places = {**answered, "log": log, "state": state, "arguments": command_line}
    assert {place: shown(text) for place, text in places.items() if shown(text)} == {}
    received = b"".join(request.body for request in (*stage.slack.requests, *stage.hook.requests))
    assert shown(received) == set()
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]


@pytest.mark.kafka
def test_a_refused_password_is_not_repeated(stage, tmp_path):
    settings = stage.settings()
    del settings["source"]["kafka"]["sasl"]["password_file"]
    settings["state"]["directory"] = str(tmp_path / "state")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    line = [*stage.line()[:-1], str(tmp_path / "config.yaml")]
    with running(line, tmp_path / "log", stage.environment | {PASSWORD_VARIABLE: WRONG}) as service:
        until(lambda: b"Kafka at 127.0.0.1" in answers(stage.address)["/readyz"], service, "refusal")
        answered = answers(stage.address)
    assert b"Sending username and password" in (tmp_path / "log").read_bytes()
    places = {**answered, "log": (tmp_path / "log").read_bytes(), "state": files(tmp_path / "state")}
    assert {place: shown(text) for place, text in places.items() if shown(text)} == {}


@pytest.mark.kafka
def test_printed_and_refused_configurations_show_no_secret(stage, tmp_path):
    printed = stage.command("print-config")
    assert printed.returncode == 0
    assert b'"url": "**********"' in printed.stdout
    checked = stage.command("check-config")
    assert checked.returncode == 0, checked.stderr
    twice = stage.command("check-config", environment={PASSWORD_VARIABLE: WRONG})
    assert b"given together with" in twice.stderr or b"stands beside" in twice.stderr
    bad_url = stage.command("check-config", environment={HOOK_VARIABLE: f"ftp://127.0.0.1{HOOK_PATH}"})
    assert b"expected a URL" in bad_url.stderr

    key, cert = secret(tmp_path, "key.pem", TLS_KEY), secret(tmp_path, "cert.pem", TLS_KEY)
    settings = stage.settings()
    settings["source"]["kafka"] |= {"security": "SASL_SSL", "tls": {"cert_file": cert, "key_file": key}}
    inline = stage.settings()
    inline["source"]["kafka"]["sasl"] = {"mechanism": "PLAIN", "username": USER, "password": WRONG}
    outputs = [printed, checked, twice, bad_url]
    for changed in (settings, inline):
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
        line = [sys.executable, "-m", "service", "check-config", "--config", str(tmp_path / "changed.yaml")]
        refused = subprocess.run(line, capture_output=True, cwd=ROOT, env=stage.environment, check=False, timeout=60)
        assert refused.returncode == 2
        outputs.append(refused)
    assert set().union(*(shown(done.stdout + done.stderr) for done in outputs)) == set()


CRASH = """
import sys
from service import __main__
from service.pipeline import loop
def crash(self): raise RuntimeError("deliberate")
loop.Loop.run = crash
__main__.main()
"""


@pytest.mark.kafka
def test_a_crash_leaves_a_trace_without_secrets(stage):
    line = [sys.executable, "-c", CRASH, "run", "--config", str(stage.config)]
    crashed = subprocess.run(line, capture_output=True, cwd=ROOT, env=stage.environment, check=False, timeout=60)
    assert crashed.returncode == 1
    assert b"RuntimeError: deliberate" in crashed.stderr
    assert b"run_service" in crashed.stderr  # where settings and receivers are variables
    assert shown(crashed.stdout + crashed.stderr) == set()


@pytest.mark.kafka
def test_no_repr_shows_a_secret(stage):
    variables = {HOOK_VARIABLE: stage.environment[HOOK_VARIABLE]}
    settings = load(stage.config, variables, configuration_type())
    notifiers = build_notifiers(settings, SystemClock())
    source = build_source(settings, SystemClock())
    things = [settings, settings.source.kafka.sasl, *settings.alerting.receivers, *notifiers.values(), source]
    things += [vars(notifier) for notifier in notifiers.values()]
    assert shown("\n".join(map(repr, things)).encode()) == set()
