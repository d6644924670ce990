from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, SecretStr

from service.config import (
    Configuration,
    document,
    load,
    read_secret,
    redacted,
    reference,
    schema,
    secret_problems,
    settings_type,
)
from service.errors import ConfigError
from service.settings import Section


class IdleParams(Section):
    """Finds GPUs that are held and not used."""

    idle_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Below this a GPU is idle."""
    mode: Literal["strict", "lenient"] = "strict"
    """How sure it must be."""


class StdoutParams(Section):
    """Prints."""


class HookParams(Section):
    """Posts."""

    url: SecretStr = SecretStr("")
    """Where to."""
    url_file: str = ""
    """File with the URL."""


SETTINGS = settings_type({"idle_waste": IdleParams}, {"stdout": StdoutParams, "hook": HookParams})


def load_text(tmp_path: Path, text: str | bytes, **environ: str) -> Configuration:
    file = tmp_path / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file, environ, SETTINGS)


def problems_of(tmp_path: Path, text: str | bytes, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text, **environ)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_without_file_and_environment_everything_is_default():
    assert load(None, {}, SETTINGS) == SETTINGS()


def test_an_empty_file_and_one_with_empty_sections_mean_the_defaults(tmp_path):
    assert load_text(tmp_path, "") == SETTINGS()
    assert load_text(tmp_path, "http:\nsource:\n  kafka:\n") == SETTINGS()


def test_the_default_receiver_prints_and_is_reached_by_the_default_route():
    settings = SETTINGS()
    assert [(r.type, r.name) for r in settings.alerting.receivers] == [("stdout", "console")]
    assert settings.alerting.routes[0].receivers == ["console"]


def test_plugin_parameters_are_joined_in(tmp_path):
    text = """
detectors: {idle_waste: {idle_ratio: 0.1}}
alerting:
  receivers: [{type: hook, name: ops, url_file: /run/url}]
  routes: [{receivers: [ops]}]
"""
    settings = load_text(tmp_path, text)
    assert settings.detector("idle_waste").idle_ratio == 0.1
    assert isinstance(settings.detector("idle_waste"), IdleParams)
    assert isinstance(settings.alerting.receivers[0], HookParams)


def test_every_mistake_is_reported_at_once_with_file_line_path_and_expectation(tmp_path):
    text = """\
source:
  kind: kafk
http:
  port: "80"
  prt: 3
fleet:
  tick_s: 0
alerting:
  receivers:
    - {type: hok, name: a}
    - {name: b}
detectors:
  idle_wast: {}
"""
    assert problems_of(tmp_path, text) == [
        "config.yaml:2: source.kind: expected one of 'kafka', 'file' or 'simulate', got 'kafk'; did you mean \"kafka\"?",
        "config.yaml:4: http.port: expected a whole number, got '80'",
        'config.yaml:5: http.prt: unknown key; did you mean "port"?',
        "config.yaml:7: fleet.tick_s: expected at least 1.0, got 0",
        "config.yaml:10: alerting.receivers[0].type: expected one of 'stdout', 'hook', got 'hok'; did you mean \"hook\"?",
        "config.yaml:11: alerting.receivers[1].type: is required",
        'config.yaml:13: detectors.idle_wast: unknown key; did you mean "idle_waste"?',
    ]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("a: &x 1\nb: *x", "1: (file): anchors and aliases are refused: write the value out"),
        ("http: *x", "1: (file): anchors and aliases are refused: write the value out"),
        ("http: !!python/object:os.system {}", "1: (file): the tag tag:yaml.org"),
        ("http:\n  port: 1\n  port: 2", "3: http.port: the key stands here a second time, first in line 2"),
        ("http: {port: 1", "1: (file): expected ',' or '}', but got '<stream end>'"),
        ("- 1", " (file): expected keys with values"),
        ("[" * 40 + "]" * 40, "1: (file): nested deeper than 32 levels"),
        (b"\xff\xfe", "1: (file): expected UTF-8 text"),
        (b"a: \x00", " (file): not YAML"),
        ("http: 1\n---\nhttp: 2", "2: (file): expected a single document in the stream, but found another document"),
        ("? [a]\n: 1", "1: (file): expected a word as key"),
    ],
)
def test_yaml_that_could_surprise_is_refused(tmp_path, text, problem):
    assert any(found.startswith(f"config.yaml:{problem}") for found in problems_of(tmp_path, text))


def test_a_file_above_the_limit_is_refused(tmp_path):
    assert problems_of(tmp_path, b"#" * ((1 << 20) + 1)) == ["config.yaml: (file): larger than 1048576 bytes"]


def test_a_missing_file_is_a_problem_and_not_a_crash(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml", {}, SETTINGS)


@pytest.mark.parametrize("word", ["no", "1:30", "2026-01-01", "1_000"])
def test_plain_words_are_text_as_in_yaml_1_2(tmp_path, word):
    assert load_text(tmp_path, f"ingest: {{labels: {{a: {word}}}}}").ingest.labels == {"a": word}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("http: {port: true}", "http.port: expected a whole number, got true"),
        ("http: {port: 1.5}", "http.port: expected a whole number, got 1.5"),
        ("alerting: {send_resolved: yes}", "alerting.send_resolved: expected true or false, got 'yes'"),
        ("ingest: {labels: {a: 1}}", "ingest.labels.a: expected text (put it in quotes), got 1"),
        ("ingest: {labels: []}", "ingest.labels: expected keys with values, got a list"),
        ("source: {file: {paths: x}}", "source.file.paths: expected a list, got 'x'"),
        ("source: {kafka: {topics: []}}", "source.kafka.topics: expected 1 or more items"),
        ("fleet: {tick_s: .inf}", "fleet.tick_s: expected a number, got '.inf'"),
        ("fleet: {tick_s: 1e999}", "fleet.tick_s: expected a number, got '1e999'"),
        ("http: 3", "http: expected keys with values, got 3"),
    ],
)
def test_values_are_checked_strictly(tmp_path, text, expected):
    assert problems_of(tmp_path, text) == [f"config.yaml:1: {expected}"]


def test_rules_over_several_keys_name_the_key_to_mend(tmp_path):
    text = "source:\n  kind: file\n  file: {}"
    assert problems_of(tmp_path, text) == [
        "config.yaml:3: source.file.paths: at least one path is needed with source.kind: file"
    ]
    text = "alerting:\n  receivers: []\n  routes:\n    - receivers: [pager]"
    assert problems_of(tmp_path, text)[0].startswith(
        'config.yaml:4: alerting.routes[0].receivers: no receiver is named "pager"'
    )
    text = "alerting: {receivers: [{type: stdout, name: console}, {type: stdout, name: console}]}"
    assert problems_of(tmp_path, text) == ['config.yaml:1: alerting.receivers: 2 receivers are named "console"']


def test_the_environment_wins_over_the_file(tmp_path):
    settings = load_text(
        tmp_path,
        "http: {port: 1, host: 127.0.0.2}\nalerting: {receivers: [{type: hook, name: console}]}",
        SKINFLINT__HTTP__PORT="9",
        SKINFLINT__INGEST__LABELS='{"cluster": "east"}',
        SKINFLINT__SOURCE__KAFKA__GROUP_ID="42",
        SKINFLINT__ALERTING__SEND_RESOLVED="False",
        SKINFLINT__ALERTING__RECEIVERS__0__URL="https://example.org/secret",
        PATH="unrelated",
    )
    assert (settings.http.port, settings.http.host) == (9, "127.0.0.2")
    assert settings.ingest.labels == {"cluster": "east"}
    assert settings.source.kafka.group_id == "42"
    assert settings.alerting.send_resolved is False
    assert settings.alerting.receivers[0].url.get_secret_value() == "https://example.org/secret"


def test_a_section_in_the_environment_is_put_in_before_the_keys_inside_it():
    environ = {"SKINFLINT__HTTP__PORT": "9", "SKINFLINT__HTTP": '{"port": 1, "gpu_series_max": 5}'}
    settings = load(None, environ, SETTINGS)
    assert (settings.http.port, settings.http.gpu_series_max) == (9, 5)


@pytest.mark.parametrize(
    "name, value, problem",
    [
        ("HTTP__PORT", "many", "http.port: expected a whole number, got 'many'"),
        ("HTTP__PRT", "1", 'http.prt: unknown key; did you mean "port"?'),
        ("HTTP", "{", "http: expected keys with values, got '{'"),
        (
            "INGEST__LABELS__A",
            "x",
            "ingest.labels.a: cannot be set by itself: give the whole as JSON in SKINFLINT__INGEST__LABELS",
        ),
        ("ALERTING__RECEIVERS__3__NAME", "x", "alerting.receivers[3]: the file has only 1 items here, from 0 on"),
    ],
)
def test_problems_from_the_environment_name_the_variable(tmp_path, name, value, problem):
    text = "alerting: {receivers: [{type: stdout, name: console}]}"
    variable = f"SKINFLINT__{name}"
    assert problems_of(tmp_path, text, **{variable: value}) == [f"{variable}: {problem}"]


def test_a_secret_in_the_file_is_refused_with_the_way_out_and_never_repeated(tmp_path):
    text = """\
source: {kafka: {sasl: {password: canary-hunter2}}}
alerting:
  receivers:
    - {type: hook, name: console, url: https://canary}
"""
    found = problems_of(tmp_path, text)
    assert "name a file of mode 0600 in password_file" in found[0]
    assert "or set SKINFLINT__SOURCE__KAFKA__SASL__PASSWORD" in found[0]
    assert "or set SKINFLINT__ALERTING__RECEIVERS__0__URL" in found[1]
    assert "canary" not in "".join(found)


def test_shown_settings_hide_secrets():
    settings = load(None, {"SKINFLINT__SOURCE__KAFKA__SASL__PASSWORD": "canary"}, SETTINGS)
    assert "canary" not in repr(settings) + str(redacted(settings))
    assert redacted(settings)["source"]["kafka"]["sasl"]["password"] == "**********"


def test_a_secret_file_is_read_without_its_last_newline(tmp_path):
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    file.chmod(0o600)
    assert read_secret(SecretStr(""), str(file), "a.password").get_secret_value() == "hunter2"
    assert read_secret(SecretStr("direct"), "", "a.password").get_secret_value() == "direct"


@pytest.mark.parametrize(
    "content, mode, expected",
    [
        (b"x", 0o644, "is open to every user (mode 0644): chmod 600"),
        (b"\n", 0o600, "is empty"),
        (b"x" * (65 << 10), 0o600, "is larger than 65536 bytes"),
        (b"\xff", 0o600, "expected UTF-8 text"),
        (b"a\nb", 0o600, "expected a single line"),
        (None, 0, "cannot be read: No such file or directory"),
    ],
)
def test_a_secret_file_that_is_no_secret_is_refused(tmp_path, content, mode, expected):
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_secret(SecretStr(""), str(file), "source.kafka.sasl.password")
    assert str(caught.value).startswith("source.kafka.sasl.password_file: ")
    assert expected in str(caught.value)


def test_a_secret_given_twice_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"given together with a\.password"):
        read_secret(SecretStr("x"), "/nowhere", "a.password")
    with pytest.raises(ConfigError, match="is not a file"):
        read_secret(SecretStr(""), str(tmp_path), "a.password")


def test_all_secret_files_can_be_checked_at_once(tmp_path):
    text = """\
source: {kafka: {sasl: {password_file: /nowhere/a}}}
alerting: {receivers: [{type: hook, name: console, url_file: /nowhere/b}]}
"""
    found = secret_problems(load_text(tmp_path, text))
    assert [p.path for p in found] == ["source.kafka.sasl.password_file", "alerting.receivers[0].url_file"]


def test_the_documented_configuration_loads_as_the_defaults(tmp_path):
    assert load_text(tmp_path, document(SETTINGS)) == SETTINGS()


def test_the_documented_configuration_explains_every_key():
    text = document(SETTINGS)
    assert "    # Below this a GPU is idle. 0 to 1.\n    idle_ratio: 0.05\n" in text
    assert "    # - type: hook\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_reference_has_a_table_for_every_section():
    text = reference(SETTINGS)
    assert "\n## detectors.idle_waste\n" in text
    assert "\n## alerting.receivers[] (type: hook)\n" in text
    assert "| `idle_ratio` | `0.05` | Below this a GPU is idle. 0 to 1. |" in text


def test_the_schema_refuses_unknown_keys_and_knows_the_plugins():
    made = schema(SETTINGS)
    assert made["additionalProperties"] is False
    assert "idle_waste" in made["$defs"]["Detectors"]["properties"]
