"""The whole service as its users meet it: a page, metrics, a Slack message, a signed webhook, and a kill -9 in between."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from standardwebhooks import Webhook

from service.view import WASTE_STATES
from tests.fakes.sink import Sink

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
DEADLINE_S = 60


class Running:
    """One run of `skinflint run` as a child process; the fixture ends what a failing test leaves."""

    alive: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, config: Path) -> None:
        self.log = config.with_suffix(f".{time.monotonic_ns()}.log")
        command = [sys.executable, "-m", "service", "run", "--config", str(config)]
        with self.log.open("w") as log, self.log.with_suffix(".out").open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=log, cwd=ROOT)
        self.alive.append(self.process)
        self.address = str(self.wait_for("page, API and metrics are served")["address"])

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def wait_for(self, event: str) -> dict[str, Any]:
        return self.until(lambda: next((e for e in self.events() if e["event"] == event), None), event)

    def until(self, found: Any, what: str) -> Any:
        """Return what `found` returns once it is something; fail when it never is, or the process ends."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if result := found():
                return result
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.1)
        raise AssertionError(f"{what}: not within {DEADLINE_S} s; {self.log.read_text()[-2000:]}")

    def fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=10) as answer:
            return answer.read()

    def ready(self) -> bool:
        try:
            return bool(json.loads(self.fetch("/readyz"))["ready"])
        except urllib.error.HTTPError:
            return False

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self.fetch("/metrics").decode().splitlines() if not line.startswith("#")]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture
def configured(tmp_path):
    """Return the configuration file and two sinks, Slack's and the webhook's."""
    with Sink() as slack, Sink() as hook:
        for name, text in (("slack", slack.url), ("hook", hook.url), ("key", SECRET)):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o600)
        receivers = [
            {"type": "slack", "name": "finops", "url_file": str(tmp_path / "slack"), "allow_http_loopback": True},
            {
                "type": "webhook", "name": "tickets", "url_file": str(tmp_path / "hook"),
                "secret_file": str(tmp_path / "key"), "allow_http_loopback": True,
            },
        ]  # fmt: skip
        settings = {
            "source": {"kind": "simulate", "simulate": {"nodes": 16, "speed": 200}},
            "state": {"directory": str(tmp_path / "state"), "checkpoint_interval_s": 0.5},
            "http": {"port": 0},
            "log": {"format": "json"},
            "alerting": {"receivers": receivers, "routes": [{"receivers": ["finops", "tickets"]}]},
        }
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(settings))
        yield file, slack, hook
        for process in Running.alive:
            process.kill()
            process.wait()
        Running.alive.clear()


def wasted(metrics: dict[str, float]) -> list[float]:
    """Return the dollars wasted so far, by state; nothing before the state is known."""
    found = (f'skinflint_waste_usd_total{{state="{state}"}}' for state in WASTE_STATES)
    return [metrics[name] for name in found if name in metrics]


@pytest.mark.timeout(200)
def test_from_the_first_sample_to_slack_webhook_metrics_and_through_a_kill(configured):
    file, slack, hook = configured
    service = Running(file)
    service.until(service.ready, "ready")

    def all_states() -> bool:
        found = service.metrics()
        gpus = [found[f'skinflint_gpus{{state="{state}"}}'] for state in WASTE_STATES]
        usd = [found[f'skinflint_waste_usd_per_hour{{state="{state}"}}'] for state in WASTE_STATES]
        return min(gpus) > 0 and min(usd) > 0

    service.until(all_states, "all six states with dollars")
    message = json.loads(slack.wait_for(1, DEADLINE_S)[0].body)
    assert "$" in message["text"]
    assert message["blocks"]
    delivered = hook.wait_for(2, DEADLINE_S)[0]
    event = Webhook(SECRET).verify(delivered.body, delivered.headers)
    assert event["type"].startswith("skinflint.alert.")
    assert event["data"]["alerts"]

    page = service.fetch("/").decode()
    assert "Skinflint" in page
    assert service.metrics()["skinflint_kafka_raw_batches"] == 0  # there from the start, though this is no Kafka
    saved = service.metrics()["skinflint_checkpoints_total"]
    service.until(lambda: service.metrics()["skinflint_checkpoints_total"] >= saved + 2, "a checkpoint of all this")
    before = service.metrics()['skinflint_records_total{outcome="accepted"}']
    assert service.end(signal.SIGKILL) == -signal.SIGKILL

    again = Running(file)
    first = again.until(lambda: wasted(again.metrics()), "dollars")
    assert min(first) > 0  # the saved ones from the first scrape on, never zero
    again.until(again.ready, "ready again")
    assert again.wait_for("started")["resumed"] is True
    again.until(lambda: again.metrics()['skinflint_records_total{outcome="accepted"}'] > before * 0.5, "records go on")
    started_s = time.monotonic()
    assert again.end(signal.SIGTERM) == 0
    assert time.monotonic() - started_s < 10
    ids = [r.headers["webhook-id"] for r in hook.requests]
    assert len(ids) - len(set(ids)) <= 1  # at most what the kill caught between acceptance and mark
    logs = service.log.read_text() + again.log.read_text()
    assert "s3cr3tPath" not in logs
    assert SECRET not in logs


def test_a_second_process_on_the_same_state_is_refused(configured):
    file, _, _ = configured
    first = Running(file)
    second = subprocess.run(
        [sys.executable, "-m", "service", "run", "--config", str(file)],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False, env=os.environ,
    )  # fmt: skip
    assert second.returncode == 2
    assert "another process works with this folder" in second.stderr
    assert first.end(signal.SIGTERM) == 0
