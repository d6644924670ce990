"""The command line as a person uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


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
