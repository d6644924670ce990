"""compose.yaml by the rules of the Compose Specification and by ours, and everything that it mounts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.app import configuration_type
from service.config import load
from tests.deploy.dockerfile import stages
from tests.deploy.tools import ROOT, output, tool

DEPLOY = ROOT / "deploy"
OURS = ("skinflint", "fleet")


@pytest.fixture(scope="module")
def project():
    """Return the project as Compose itself understands it, with the demo."""
    found = json.loads(output(tool("compose-spec"), "-format", "json", "compose.yaml", cwd=DEPLOY))
    found["services"] |= {
        name: service for name, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items()
        if "profiles" in service
    }  # fmt: skip
    return found


@pytest.fixture(scope="module")
def settings():
    return load(DEPLOY / "compose/skinflint.yaml", {}, configuration_type())


def test_everything_is_there_and_nothing_is_reached_from_other_machines(project):
    assert {*project["services"]} == {"kafka", "topic", "skinflint", "fleet", "prometheus", "alertmanager", "grafana"}
    ports = [
        port for name, service in project["services"].items() if name != "fleet" for port in service.get("ports", [])
    ]
    assert len(ports) == 5
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_no_container_has_more_rights_than_it_needs(project):
    for name, service in project["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert not {"privileged", "network_mode", "pid", "cap_add", "user", "devices"} & service.keys(), name
    for name in OURS:
        service = project["services"][name]
        assert service["read_only"] is True
        assert any(mount.startswith("/tmp:") and "noexec" in mount for mount in service["tmpfs"])


def test_images_have_a_version(project):
    images = {service["image"] for service in project["services"].values()}
    assert all(re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+\.\d+\.\d+", image) for image in images), images
    kafka = re.search(r"<kafka.version>(.*)<", (ROOT / "tests/kafka/pom.xml").read_text())
    assert kafka
    assert f"apache/kafka:{kafka[1]}" in images


def test_every_file_that_is_mounted_exists(project):
    mounts = [
        mount for name, service in project["services"].items() if name != "fleet" for mount in service.get("volumes", [])
        if mount["type"] == "bind"
    ]  # fmt: skip
    assert len(mounts) >= 5
    for mount in mounts:
        assert Path(mount["source"]).exists(), mount
        assert mount["read_only"], mount


def test_the_image_that_is_built_is_ours_and_writes_where_volumes_are(project):
    _, final = stages((DEPLOY / "Dockerfile").read_text())
    service = project["services"]["skinflint"]
    assert Path(service["build"]["context"]) == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    (state,) = (mount["target"] for mount in service["volumes"] if mount["type"] == "volume")
    assert Path(final.env["SKINFLINT__STATE__DIRECTORY"]).parent == Path(state)
    assert service["command"] == final.exec_form("CMD")


def test_the_configuration_is_accepted_as_the_container_would_check_it(tmp_path):
    environment = os.environ | {"SKINFLINT__STATE__DIRECTORY": str(tmp_path / "state")}
    command = [sys.executable, "-m", "service", "check-config", "--config", str(DEPLOY / "compose/skinflint.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_of_services_and_topics_agree(project, settings):
    names = project["services"].keys()
    scrapes = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    targets = [t for job in scrapes["scrape_configs"] for static in job["static_configs"] for t in static["targets"]]
    targets += [t for a in scrapes["alerting"]["alertmanagers"] for s in a["static_configs"] for t in s["targets"]]
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    addresses = [*targets, source["url"].removeprefix("http://"), *settings.source.kafka.bootstrap_servers]
    assert {address.partition(":")[0] for address in addresses} - {"localhost"} <= names
    assert f"skinflint:{settings.http.port}" in targets
    topic = project["services"]["topic"]["command"]
    assert settings.source.kafka.topics == [topic[topic.index("--topic") + 1]]
    (loop,) = project["services"]["fleet"]["command"]
    assert f"--topic {settings.source.kafka.topics[0]} " in loop


def test_the_demo_writes_as_the_command_line_understands_it(project):
    (loop,) = project["services"]["fleet"]["command"]
    line = re.search(r"skinflint (simulate .*)", loop)
    assert line
    words = line[1].replace("/etc/skinflint/config.yaml", str(DEPLOY / "compose/skinflint.yaml")).split()
    done = subprocess.run(
        [sys.executable, "-m", "service", *words], capture_output=True, text=True, cwd=ROOT, check=False, timeout=100,
        env=os.environ | {"SKINFLINT__SOURCE__KAFKA__BOOTSTRAP_SERVERS": '["127.0.0.1:1"]'},
    )  # fmt: skip
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr  # all was understood, and nobody is there


def test_the_dashboard_lies_where_grafana_looks(project):
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/skinflint.yml").read_text())["providers"]
    grafana = project["services"]["grafana"]
    mounts = {mount["target"]: Path(mount["source"]) for mount in grafana["volumes"] if mount["type"] == "bind"}
    assert list(mounts[provider["options"]["path"]].glob("*.json")) == [DEPLOY / "grafana/dashboards/skinflint.json"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounts[str(home.parent)] / home.name).is_file()
