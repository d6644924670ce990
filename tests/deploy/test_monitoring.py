"""Rules and dashboard against what the service really exposes, asked through a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.running import document, free_port, get, running, until

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/skinflint.rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/skinflint.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
NAME = re.compile(r"\b(?:skinflint|process)_\w+")
SETTINGS = {
    "source": {"kind": "simulate", "simulate": {"nodes": 16, "speed": 300}},
    "state": {"checkpoint_interval_s": 0.5},
    "log": {"format": "json"},
}

# Series that make each alert fire; values as promtool writes them, a sample a minute.
FIRES = {
    "SkinflintDown": {"up": "0x40"},
    "SkinflintNotReady": {"skinflint_ready": "0x40"},
    "SkinflintLoopStuck": {"skinflint_loop_age_seconds": "90+60x40"},
    "SkinflintCheckpointsFail": {
        "skinflint_checkpoint_age_seconds": "0+60x40",
        'skinflint_records_total{outcome="accepted"}': "0+100x40",
    },
    "SkinflintLagGrows": {'skinflint_partition_lag_records{topic="t",partition="0"}': "200000+1000x40"},
    "SkinflintTicksSlow": {
        'skinflint_tick_duration_seconds_bucket{le="5"}': "0+1x40",
        'skinflint_tick_duration_seconds_bucket{le="10"}': "0+10x40",
        'skinflint_tick_duration_seconds_bucket{le="+Inf"}': "0+10x40",
    },
    "SkinflintTelemetryStopped": {"skinflint_view_age_seconds": "0+60x40"},
    "SkinflintDeadLetters": {
        'skinflint_dead_letters_total{reason="syntax"}': "0+2x40",
        'skinflint_records_total{outcome="accepted"}': "0+100x40",
    },
    "SkinflintDeadLettersNearlyFull": {"skinflint_dead_letter_bytes": "80x40", "skinflint_dead_letter_bytes_max": "100x40"},
    "SkinflintDeadLettersDropped": {"skinflint_dead_letters_dropped_total": "0+1x40"},
    "SkinflintRecordsLost": {"skinflint_data_gap_records_total": "0+1x40"},
    "SkinflintMessagesLost": {'skinflint_notifications_total{receiver="finops",outcome="rejected"}': "0+1x40"},
    "SkinflintMessagesUnrouted": {"skinflint_notifications_unrouted_total": "0+1x40"},
    "SkinflintMessagesWait": {"skinflint_outbox_rows": "200x40"},
    "SkinflintFleetNearlyFull": {"skinflint_entities": "95x40", "skinflint_entities_max": "100x40"},
    "SkinflintPricesUnknown": {"skinflint_unknown_price_gpus": "3x90"},
}  # fmt: skip


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install {package}"
    return found


def checked(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def here(file: Path, changes: dict[str, str], folder: Path) -> Path:
    """Copy a file with the addresses of the containers replaced by those of here; each must stand in it."""
    text = file.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / file.name).write_text(text)
    return folder / file.name


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """Return a Prometheus that scrapes a service with a simulated fleet, and the service's /metrics."""
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    ours, theirs = free_port(), free_port()
    environment = os.environ | {
        "SKINFLINT__HTTP__PORT": str(ours), "SKINFLINT__STATE__DIRECTORY": str(folder / "state"),
    }  # fmt: skip
    here(RULES, {"for: ": "for: 0s # "}, folder)
    changes = {
        "skinflint:9615": f"127.0.0.1:{ours}", "localhost:9090": f"127.0.0.1:{theirs}", "15s": "1s",
        "/etc/prometheus": str(folder), "alertmanager:9093": "127.0.0.1:1",
    }  # fmt: skip
    config = here(DEPLOY / "prometheus/prometheus.yml", changes, folder)
    service = [sys.executable, "-m", "service", "run", "--config", folder / "config.yaml"]
    prometheus = [
        program("prometheus", "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{theirs}",
    ]  # fmt: skip
    with running(service, folder / "service.log", environment) as process:
        until(lambda: get(f"http://127.0.0.1:{ours}/readyz"), process, "ready")
        until(
            lambda: b"\nskinflint_checkpoint_age_seconds" in get(f"http://127.0.0.1:{ours}/metrics"), process, "saved"
        )
        with running(prometheus, folder / "prometheus.log", os.environ) as peer:
            address = f"http://127.0.0.1:{theirs}"
            until(lambda: _count(address, "skinflint_build_info") >= 3, peer, "three scrapes")
            yield address, get(f"http://127.0.0.1:{ours}/metrics").decode()


def _count(address: str, series: str) -> float:
    found = _ask(address, f"count_over_time({series}[1m])")
    return float(found[0]["value"][1]) if found else 0


def _ask(address: str, expression: str) -> list[Any]:
    answer = document(f"{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    assert answer["status"] == "success"
    result: list[Any] = answer["data"]["result"]
    return result


def filled(expression: str) -> str:
    """Return a panel's expression as Grafana sends it when everything is chosen."""
    for name, value in {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def samples(text: str) -> dict[str, set[str]]:
    """Return the names of all samples of a scrape, each with the names of its labels."""
    return {
        sample.name: set(sample.labels) for family in text_string_to_metric_families(text) for sample in family.samples
    }


def test_there_are_as_many_panels_and_alerts_as_one_expects():
    assert len(PANELS) > 15
    assert len(ALERTS) > 10
    shown = " ".join(EXPRESSIONS.values())
    for needed in (
        "waste_usd_per_hour",
        "truly_idle",
        "lag_records",
        "loop_age",
        "dead_letters_total",
        "checkpoint_age",
    ):
        assert needed in shown


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_every_panel_shows_something_of_a_running_service(scraped, title):
    address, _ = scraped
    # What shows only what is above nothing is empty where all is well: without that, it must find series.
    bare = re.sub(r" > 0$", "", filled(EXPRESSIONS[title]))
    found = _ask(address, bare)
    assert found, bare
    for series in found:
        legend = next(t["legendFormat"] for p in PANELS for t in p["targets"] if t["expr"] == EXPRESSIONS[title])
        assert set(re.findall(r"{{(\w+)}}", legend)) <= series["metric"].keys()


def test_every_metric_of_rules_and_dashboard_is_exposed(scraped):
    known = samples(scraped[1])
    used = {
        name
        for text in (*EXPRESSIONS.values(), *(rule["expr"] for rule in ALERTS.values()))
        for name in NAME.findall(text)
    }
    assert len(used) > 20
    assert used - known.keys() == set()


def test_every_series_that_makes_an_alert_fire_has_labels_as_exposed(scraped):
    known = samples(scraped[1])
    for series in (name for case in FIRES.values() for name in case if name != "up"):
        name, _, labels = series.partition("{")
        assert known[name] == set(re.findall(r"(\w+)=", labels)), series


def test_a_healthy_service_gives_no_alert_and_every_rule_can_be_evaluated(scraped):
    address, _ = scraped
    (group,) = document(f"{address}/api/v1/rules")["data"]["groups"]
    assert {rule["name"] for rule in group["rules"]} == set(ALERTS)
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    raised = document(f"{address}/api/v1/alerts")["data"]["alerts"]
    assert {alert["labels"]["alertname"] for alert in raised} == set()


def test_each_alert_fires_on_what_it_is_for(tmp_path):
    assert FIRES.keys() == ALERTS.keys()
    cases = []
    for name, series in FIRES.items():
        at = "1h30m" if name == "SkinflintPricesUnknown" else "35m"
        cases.append({
            "interval": "1m",
            "input_series": [{"series": _with_origin(key), "values": values} for key, values in series.items()],
            "promql_expr_test": [{
                "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})', "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}],
            }],
        })  # fmt: skip
    file = tmp_path / "cases.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}))
    assert "SUCCESS" in checked(program("promtool", "prometheus"), "test", "rules", file)


def _with_origin(series: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    origin = 'job="skinflint",instance="skinflint:9615"'
    return f"{name}{{{labels + ',' if labels else ''}{origin}}}"


def test_each_alert_says_what_is_and_what_to_do():
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "action"}


def test_the_tools_find_nothing_wrong_with_the_configurations(tmp_path):
    promtool, amtool = program("promtool", "prometheus"), program("amtool", "prometheus-alertmanager")
    shutil.copy(RULES, tmp_path)
    config = here(DEPLOY / "prometheus/prometheus.yml", {"/etc/prometheus": str(tmp_path)}, tmp_path)
    assert f"{len(ALERTS)} rules found" in checked(promtool, "check", "config", config)
    assert "SUCCESS" in checked(amtool, "check-config", DEPLOY / "alertmanager/alertmanager.yml")


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} over {taken[x, y]}"
                taken[x, y] = panel["title"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["description"] for panel in PANELS)


def test_the_dashboard_finds_its_data_source_where_compose_puts_it():
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    first = DASHBOARD["templating"]["list"][0]
    assert (first["type"], first["query"], first["current"]["value"]) == ("datasource", source["type"], source["uid"])
    used = {panel["datasource"]["uid"] for panel in PANELS} | {
        t["datasource"]["uid"] for p in PANELS for t in p["targets"]
    }
    assert used == {"${datasource}"}
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    asked = {name for expr in EXPRESSIONS.values() for name in re.findall(r"\$(\w+)", expr)}
    assert asked - {"__rate_interval"} <= variables
