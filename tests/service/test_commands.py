"""The command line as a person uses it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.__main__ import cli, main
from service.errors import ConfigError
from service.reports import fleet_of, print_replay
from service.settings import SimulateSettings


def skinflint(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "service", *arguments]
    path = str(Path(__file__).parents[2])
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=100, check=False,
        env=os.environ | {"PYTHONPATH": path} | (env or {}),
    )  # fmt: skip


def test_the_version_names_the_parts_that_matter(tmp_path):
    found = json.loads(skinflint("version", "--format", "json", cwd=tmp_path).stdout)
    assert found["kafka-python"] == "3.0.12"
    assert found["skinflint"]


def test_a_wrong_configuration_names_every_problem_and_exits_with_two(tmp_path):
    (tmp_path / "config.yaml").write_text("http:\n  port: 99999\nflet:\n  tick_s: 15\n")
    done = skinflint("check-config", cwd=tmp_path)
    assert done.returncode == 2
    assert "config.yaml:2" in done.stderr
    assert "config.yaml:3" in done.stderr
    assert "fleet" in done.stderr  # what was meant
    as_json = json.loads(skinflint("check-config", "--format", "json", cwd=tmp_path).stdout)
    assert [p["line"] for p in as_json["problems"]] == [2, 3]


def test_the_configuration_is_shown_with_its_overrides_and_without_secrets(tmp_path):
    environment = {"SKINFLINT__HTTP__PORT": "9700", "SKINFLINT__SOURCE__KAFKA__SASL__PASSWORD": "hunter2-canary"}
    done = skinflint("print-config", cwd=tmp_path, env=environment)
    assert json.loads(done.stdout)["http"]["port"] == 9700
    assert "canary" not in done.stdout + done.stderr


def test_the_schema_is_a_schema(tmp_path):
    assert "properties" in json.loads(skinflint("config-schema", cwd=tmp_path).stdout)


def test_a_simulation_replays_to_the_same_bytes_twice(tmp_path):
    made = skinflint(
        "simulate",
        "--nodes",
        "3",
        "--duration-s",
        "1800",
        "--out",
        "fleet.ndjson.gz",
        "--truth",
        "truth.ndjson",
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    for out in ("a", "b"):
        done = skinflint("replay", "fleet.ndjson.gz", "--out", out, "--format", "json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["alerts.ndjson", "dead_letters.ndjson", "intervals.ndjson", "notifications.ndjson", "summary.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["rows"] > 2000


def test_a_missing_input_is_named(tmp_path):
    done = skinflint("replay", "nowhere.ndjson", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere.ndjson" in done.stderr


def test_a_flood_of_poison_stops_the_replay(tmp_path):
    (tmp_path / "bad.ndjson").write_text("{nonsense\n" * 2000)
    done = skinflint("replay", "bad.ndjson", "--out", "out", cwd=tmp_path)
    assert done.returncode == 3
    assert "breaker" in done.stderr


@pytest.mark.timeout(300)
def test_states_of_simulated_fleets_are_found_with_97_percent(tmp_path):
    done = skinflint("evaluate", "--nodes", "12", "--hours", "4", "--seeds", "1,2,3", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for seed, result in json.loads(done.stdout).items():
        for state, score in result["states"].items():
            if score["support_s"] > 3600 and state != "unknown":
                assert score["precision"] >= 0.97, (seed, state, score)
                assert score["recall"] >= 0.97, (seed, state, score)


def test_broken_telemetry_raises_no_idle_alert(tmp_path):
    arguments = ("evaluate", "--nodes", "12", "--hours", "4", "--seeds", "1,2", "--scenario", "broken_telemetry")
    for result in json.loads(skinflint(*arguments, "--format", "json", cwd=tmp_path).stdout).values():
        assert result["idle_alerts"] == 0


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("simulate --out x --duration-s -5", "--duration-s"),
        ("simulate --out x --duration-s 0", "--duration-s"),
        ("simulate --out x --duration-s nan", "--duration-s"),
        ("simulate --out x --nodes 0", "--nodes"),
        ("simulate --out x --seed -4", "--seed"),
        ("simulate --out x --wire nope", "--wire"),
        ("simulate --out x --scenario nope", "--scenario"),
        ("evaluate --seeds a", "--seeds"),
        ("evaluate --seeds 1,,2", "--seeds"),
        ("evaluate --hours -1", "--hours"),
        ("evaluate --hours inf", "--hours"),
        ("evaluate --nodes 0", "--nodes"),
        ("evaluate --scenario nope", "--scenario"),
        ("evaluate --settle-s -1", "--settle-s"),
        ("capture topic --out x --from nope", "--from"),
        ("capture topic --out x --max-records 0", "--max-records"),
        ("version --format xml", "--format"),
        ("check-config --format xml", "--format"),
        ("replay x --out y --format xml", "--format"),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error_of_usage(arguments, said):
    done = CliRunner().invoke(cli, arguments.split())
    assert done.exit_code == 2
    assert f"Invalid value for '{said}'" in done.output


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("simulate --out /proc/x", "--out: /proc/x cannot be written: No such file or directory"),
        ("simulate --out .", "--out: . cannot be written: Is a directory"),
        ("simulate --out made --truth /proc/x", "--truth: /proc/x cannot be written: No such file or directory"),
        ("simulate", "--out, --topic: expected one of the two"),
        ("replay config.yaml --out /proc/x", "--out: /proc/x cannot be written: No such file or directory"),
        ("replay config.yaml --out config.yaml", "--out: config.yaml cannot be written: Not a directory"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_made(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    monkeypatch.setattr(sys, "argv", ["skinflint", *arguments.split()])
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert said in printed.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_word_that_is_no_format_does_not_turn_problems_into_json(tmp_path, monkeypatch, capsys):
    (tmp_path / "json").write_text("nonsense: 1")
    monkeypatch.setattr(sys, "argv", ["skinflint", "check-config", "--config", str(tmp_path / "json")])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr()
    assert (told.out, told.err.startswith("error: ")) == ("", True)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--format=json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["problems"][0]["path"] == "nonsense"


def test_a_simulation_with_an_impossible_setting_names_the_option():
    with pytest.raises(ConfigError, match="--nodes: "):
        fleet_of(SimulateSettings(), {"nodes": 0})


def test_tables_are_whole_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    summary = dict.fromkeys(("records", "rows", "entities", "ticks", "alerts", "waste_usd", "rows_per_s"), 1)
    summary |= {
        "state_hash": "f" * 64,
        "rejects_by_reason": {"x" * 40: 1},
        "hours_in_state": {},
        "entities_without_price": 0,
    }
    print_replay(summary, Path("a" * 70), "text")
    table = capsys.readouterr().out
    assert "f" * 64 in table
    assert "a" * 70 in table
    assert "rejected: " + "x" * 40 in table
