"""What `check-config` and `run` find wrong, all of it at once, and what a command need not have."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from detectors import DETECTORS
from service.checks import Use, load
from service.errors import ConfigError
from tests.fakes.clock import ManualClock

EVERYTHING = """\
source:
  kind: kafka
  kafka:
    bootstrap_servers:
      - "nonsense"
      - "127.0.0.1:99999999"
    topics: ["bad topic!"]
    security: SASL_SSL
    tls: {ca_file: /nope}
http:
  host: 0.0.0.0
flet: {}
state:
  directory: /proc/nope
fleet: {tick_s: 30, stale_after_s: 20}
alerting:
  receivers:
    - {type: slack, name: finops, url_file: /nope/slack}
    - {type: webhook, name: hook, url_file: /nope/url, secret_file: /nope/secret, ca_file: /nope/ca}
    - {type: webhook, name: other, timeout_s: x}
    - {type: stdout, name: finops}
  routes:
    - {kind: hung_collectve, receivers: [finops, fin]}
    - {receivers: [other]}
"""
EXPECTED = [
    "5: source.kafka.bootstrap_servers[0]: 'nonsense': expected host:port",
    "6: source.kafka.bootstrap_servers[1]: '127.0.0.1:99999999': expected host:port",
    "7: source.kafka.topics[0]: 'bad topic!': expected 1 to 249 of the characters",
    "9: source.kafka.tls.ca_file: cannot read /nope: No such file or directory: expected PEM certificates",
    "11: http.host: '0.0.0.0' is not a loopback address and there is no login: expected 127.0.0.1",
    '12: flet: unknown key; did you mean "fleet"?',
    "14: state.directory: /proc/nope cannot be used: No such file or directory; expected a folder",
    "15: fleet.stale_after_s: expected at least tick_s (30), got 20",
    '17: alerting.receivers: 2 receivers are named "finops"',
    "18: alerting.receivers[0].url_file: /nope/slack cannot be read: No such file or directory",
    "19: alerting.receivers[1].ca_file: cannot be read: No such file or directory",
    "19: alerting.receivers[1].secret_file: /nope/secret cannot be read: No such file or directory",
    "19: alerting.receivers[1].url_file: /nope/url cannot be read: No such file or directory",
    "20: alerting.receivers[2].timeout_s: expected a number, got 'x'",
    "23: alerting.routes[0].kind: no kind of alert matches 'hung_collectve'; did you mean \"hung_collective\"?",
    '23: alerting.routes[0].receivers: no receiver is named "fin"; did you mean "finops"?',
]


def problems(folder: Path, text: str, use: Use = Use.SERVICE, **environ: str) -> list[str]:
    file = folder / "config.yaml"
    file.write_text(text)
    try:
        load(file, {"SKINFLINT__STATE__DIRECTORY": str(folder / "state")} | environ, use, ManualClock())
    except ConfigError as error:
        return [str(problem).removeprefix(f"{folder}/config.yaml:") for problem in error.problems]
    return []


def test_every_problem_of_every_kind_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(EVERYTHING)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.yaml", {}, Use.SERVICE, ManualClock())
    found = [str(problem).removeprefix(f"{tmp_path}/config.yaml:") for problem in caught.value.problems]
    missing = [line for line in EXPECTED if not any(told.startswith(line) for told in found)]
    assert missing == []
    # What is not written at all is told at the section where it belongs.
    sasl = {told for told in found if told.startswith("3: source.kafka.sasl.")}
    assert len(sasl) == 3
    assert len(found) == len(EXPECTED) + 3


def test_the_shipped_configuration_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, (Path(__file__).parents[2] / "config.yaml").read_text()) == []
    assert not (tmp_path / "state").exists()


def test_the_configuration_that_the_readme_shows_has_no_problem_but_the_secrets_that_are_not_here(
    tmp_path: Path,
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = readme.partition("```yaml\n")[2].partition("```")[0]
    assert "hung_collective" in shown
    assert problems(tmp_path, shown, Use.NOTHING) == []
    assert all("/run/secrets/" in told for told in problems(tmp_path, shown))


KAFKA = """\
source:
  kafka:
    bootstrap_servers: [kafka.example:9093]
    security: SASL_SSL
    tls: {ca_file: /nope}
    sasl: {mechanism: PLAIN, username: u, password_file: /nope}
"""


def test_a_simulation_needs_neither_certificates_nor_passwords_of_kafka(tmp_path: Path) -> None:
    assert problems(tmp_path, KAFKA) == []
    assert problems(tmp_path, KAFKA, Use.NOTHING, SKINFLINT__SOURCE__KIND="kafka") == []


@pytest.mark.parametrize(
    "use, environ",
    [
        (Use.KAFKA, {}),
        (Use.SERVICE, {"SKINFLINT__SOURCE__KIND": "kafka"}),
        (Use.SERVICE, {"SKINFLINT__INGEST__DEAD_LETTER__KIND": "kafka"}),
    ],
)
def test_whatever_connects_to_kafka_needs_them(tmp_path: Path, use: Use, environ: dict[str, str]) -> None:
    found = problems(tmp_path, KAFKA, use, **environ)
    assert [told.partition(": ")[2].partition(":")[0] for told in found] == [
        "source.kafka.tls.ca_file",
        "source.kafka.sasl.password_file",
    ]


def test_what_is_written_wrongly_is_wrong_whoever_reads_it(tmp_path: Path) -> None:
    found = problems(tmp_path, "source: {kafka: {bootstrap_servers: [nonsense]}}", Use.NOTHING)
    assert found == ["1: source.kafka.bootstrap_servers[0]: 'nonsense': expected host:port"]


def test_a_replay_needs_no_secret_of_a_receiver(tmp_path: Path) -> None:
    text = "alerting: {receivers: [{type: slack, name: console, url_file: /nope}]}"
    assert problems(tmp_path, text, Use.NOTHING) == []
    assert "url_file" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    "text, problem",
    [
        (
            "source: {kind: file, file: {paths: [/nope, '-']}}",
            "1: source.file.paths[0]: /nope cannot be read: No such file or directory",
        ),
        (
            "source: {simulate: {truth_file: /nope/truth}}",
            "1: source.simulate.truth_file: /nope/truth cannot be written: No such file or directory",
        ),
        (
            "ingest: {dead_letter: {kind: kafka, topic: gpu-telemetry}}",
            "1: ingest.dead_letter.topic: 'gpu-telemetry' is also in source.kafka.topics: expected a topic of its own",
        ),
        (
            "http: {host: no address, allow_beyond_loopback: true}",
            "1: http.host: cannot resolve 'no address': Name or service not known",
        ),
        (
            "source: {kafka: {session_timeout_ms: 60001}}",
            "1: source.kafka.session_timeout_ms: expected at most poll_interval_max_ms (60000), got 60001",
        ),
    ],
)
def test_each_kind_of_problem_is_found(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


def test_a_file_that_is_no_yaml_is_the_only_problem(tmp_path: Path) -> None:
    found = problems(tmp_path, "http: {", SKINFLINT__STATE__DIRECTORY="/proc/nope")
    assert len(found) == 1


def test_a_route_may_name_every_declared_kind_and_patterns_of_them(tmp_path: Path) -> None:
    kinds = [kind.name for detector in DETECTORS.values() for kind in detector.kinds]
    routes = ", ".join(f'{{kind: "{kind}", receivers: [console]}}' for kind in [*kinds, "idle_*", "*"])
    assert problems(tmp_path, f"alerting: {{routes: [{routes}]}}") == []


def test_a_receiver_without_a_name_is_not_blamed_on_the_routes(tmp_path: Path) -> None:
    text = "alerting: {receivers: [{type: stdout}], routes: [{receivers: [console]}]}"
    assert problems(tmp_path, text) == ["1: alerting.receivers[0].name: is required"]


def test_two_signing_secrets_may_stand_in_one_file_while_they_are_rotated(tmp_path: Path) -> None:
    secret, url = tmp_path / "secret", tmp_path / "url"
    secret.write_text(f"whsec_{'A' * 32}\nwhsec_{'B' * 32}\n")
    url.write_text("https://hooks.example.com/\n")
    secret.chmod(0o600)
    url.chmod(0o600)
    receiver = f"{{type: webhook, name: console, url_file: {url}, secret_file: {secret}}}"
    assert problems(tmp_path, f"alerting: {{receivers: [{receiver}]}}") == []


def test_a_port_that_somebody_else_holds_is_told_with_its_line_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "config.yaml").write_text(f"http:\n  port: {port}\n")
        done = subprocess.run(
            [sys.executable, "-m", "service", "run"], cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, timeout=100,
        )  # fmt: skip
    assert done.returncode == 2
    assert f"config.yaml:2: http.port: cannot listen on 127.0.0.1:{port}" in done.stderr
