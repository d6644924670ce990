"""The chart, rendered: valid for Kubernetes, restricted, at one with image, service and configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.app import configuration_type
from service.config import load
from tests.deploy.dockerfile import stages
from tests.deploy.tools import ROOT, output, tool

CHART = ROOT / "deploy/helm/skinflint"
KUBERNETES = ("1.29.0", "1.33.0", "1.37.0")
OWN_KINDS = {"keda.sh/v1alpha1": "ScaledObject", "monitoring.coreos.com/v1": "ServiceMonitor"}
KAFKA: dict[str, Any] = {
    "config": {
        "source": {
            "kind": "kafka",
            "kafka": {
                "bootstrap_servers": ["broker-1.example.com:9093", "broker-2.example.com:9194"],
                "topics": ["otlp_metrics", "gpu-telemetry"],
                "group_id": "night-shift",
                "security": "SASL_SSL",
                "sasl": {
                    "mechanism": "SCRAM-SHA-512", "username": "skinflint",
                    "password_file": "/run/secrets/skinflint/kafka-password",
                },
            },
        },
        "alerting": {
            "receivers": [{"type": "slack", "name": "finops", "url_file": "/run/secrets/skinflint/slack-url"}],
            "routes": [{"receivers": ["finops"]}],
        },
    },
    "secretName": "skinflint-secrets",
    "env": [{"name": "SKINFLINT__LOG__LEVEL", "value": "debug"}],
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    **KAFKA,
    "config": {**KAFKA["config"], "state": {"backend": "kafka"}},
    "keda": {"enabled": True, "authentication": "kafka"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "monitoring"}},
    "networkPolicy": {"ingressFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]},
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "registry"}]},
    "state": {"storageClassName": "fast"},
    "podLabels": {"team": "finops"},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"pool": "cpu"},
    "tolerations": [{"key": "cpu", "operator": "Exists"}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "serviceAccount": {"annotations": {"a": "b"}},
}  # fmt: skip
VALUES = {"defaults": {}, "kafka": KAFKA, "everything": EVERYTHING}


def template(tmp_path: Path, values: dict[str, Any], *arguments: str) -> list[str | Path]:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    return [tool("helm"), "template", "live", CHART, "-f", file, "--kube-version", KUBERNETES[-1], *arguments]


def render(tmp_path: Path, values: dict[str, Any], *arguments: str) -> dict[str, Any]:
    """Return the manifests by kind and name."""
    found = yaml.safe_load_all(output(*template(tmp_path, values, *arguments)))
    return {f"{each['kind']} {each['metadata']['name']}": each for each in found if each}


@pytest.fixture(params=VALUES)
def rendered(request, tmp_path):
    return render(tmp_path, VALUES[request.param])


def pod_of(rendered: dict[str, Any]) -> Any:
    return rendered["StatefulSet live-skinflint"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", VALUES)
def test_helm_finds_nothing_wrong(tmp_path, values):
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(VALUES[values]))
    linted = output(tool("helm"), "lint", "--strict", CHART, "-f", tmp_path / "values.yaml", "--kube-version", "1.33.0")
    assert "1 chart(s) linted, 0 chart(s) failed" in linted


def test_every_manifest_is_what_kubernetes_takes(rendered):
    assert len(rendered) >= 7
    checked = 0
    for manifest in rendered.values():
        if OWN_KINDS.get(manifest["apiVersion"]) == manifest["kind"]:
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)
            checked += 1
    assert checked >= 7 * len(KUBERNETES)


def test_a_wrong_manifest_would_be_noticed(tmp_path):
    manifest = render(tmp_path, {})["StatefulSet live-skinflint"]
    manifest["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


def test_the_pod_meets_the_restricted_standard(rendered):
    pod = pod_of(rendered)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert {kind for volume in pod["volumes"] for kind in volume} - {"name"} <= {"configMap", "emptyDir", "secret"}
    assert pod["automountServiceAccountToken"] is False
    assert container["resources"]["limits"]["memory"]


def test_only_state_and_tmp_can_be_written_to(rendered):
    mounts = {
        mount["mountPath"]: mount.get("readOnly", False) for mount in pod_of(rendered)["containers"][0]["volumeMounts"]
    }
    assert {path for path, read_only in mounts.items() if not read_only} == {"/var/lib/skinflint", "/tmp"}
    _, final = stages((ROOT / "deploy/Dockerfile").read_text())
    assert final.env["SKINFLINT__STATE__DIRECTORY"].startswith("/var/lib/skinflint/")
    assert final.exec_form("CMD") == pod_of(rendered)["containers"][0]["args"]
    assert final.words("USER") == [["65532:65532"]]


def test_probes_ask_what_the_service_answers(rendered):
    (container,) = pod_of(rendered)["containers"]
    source = (ROOT / "service/http/api.py").read_text()
    for kind, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[kind]["httpGet"] == {"path": path, "port": "http"}
        assert f'"{path}"' in source
    assert [port["containerPort"] for port in container["ports"]] == [9615]


@pytest.mark.parametrize("values", ["defaults", "kafka"])
def test_the_configuration_is_accepted_as_the_pod_would_check_it(tmp_path, values):
    text = render(tmp_path, VALUES[values])["ConfigMap live-skinflint"]["data"]["config.yaml"]
    settings = load(_written(tmp_path, text), {}, configuration_type())
    assert (settings.http.host, settings.http.port, settings.http.allow_beyond_loopback) == ("0.0.0.0", 9615, True)
    assert settings.state.directory == "/var/lib/skinflint/state"
    environment = os.environ | {"SKINFLINT__STATE__DIRECTORY": str(tmp_path / "state")}
    for name, secret in (("kafka-password", "x"), ("slack-url", "https://hooks.slack.com/services/T0/B0/x")):
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o440)  # as the chart mounts it
    file = _written(tmp_path, text.replace("/run/secrets/skinflint", str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "service", "check-config", "--config", file],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def _written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path / "config.yaml"


def test_what_the_pod_needs_stands_over_what_values_say(tmp_path):
    values = {
        "config": {"http": {"host": "127.0.0.1", "port": 1, "gpu_series_max": 7}, "state": {"directory": "/root"}}
    }
    text = render(tmp_path, values)["ConfigMap live-skinflint"]["data"]["config.yaml"]
    assert yaml.safe_load(text) == {
        "http": {"host": "0.0.0.0", "port": 9615, "allow_beyond_loopback": True, "gpu_series_max": 7},
        "state": {"directory": "/var/lib/skinflint/state"},
    }


def test_a_changed_configuration_makes_new_pods(tmp_path):
    def checksum(values: dict[str, Any]) -> str:
        pod = render(tmp_path, values)["StatefulSet live-skinflint"]["spec"]["template"]
        return str(pod["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"podLabels": {"a": "b"}})
    assert checksum({}) != checksum({"config": {"log": {"level": "debug"}}})


def test_secrets_are_files_of_the_service_s_group(tmp_path):
    (volume,) = (v for v in pod_of(render(tmp_path, KAFKA))["volumes"] if v["name"] == "secrets")
    assert volume["secret"] == {"secretName": "skinflint-secrets", "defaultMode": 0o440}
    assert "secrets" not in {v["name"] for v in pod_of(render(tmp_path, {}))["volumes"]}


def test_a_pod_s_name_is_its_name_in_the_group(tmp_path):
    variables = {v["name"]: v for v in pod_of(render(tmp_path, KAFKA))["containers"][0]["env"]}
    name = "SKINFLINT__SOURCE__KAFKA__GROUP_INSTANCE_ID"
    assert variables[name]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert (
        load(None, {name: "live-skinflint-0"}, configuration_type()).source.kafka.group_instance_id
        == "live-skinflint-0"
    )
    assert "env" not in pod_of(render(tmp_path, {}))["containers"][0]


def test_everything_that_selects_pods_selects_these(tmp_path):
    rendered = render(tmp_path, EVERYTHING)
    labels = rendered["StatefulSet live-skinflint"]["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        rendered["Service live-skinflint"]["spec"]["selector"],
        rendered["Service live-skinflint-pods"]["spec"]["selector"],
        rendered["StatefulSet live-skinflint"]["spec"]["selector"]["matchLabels"],
        rendered["PodDisruptionBudget live-skinflint"]["spec"]["selector"]["matchLabels"],
        rendered["NetworkPolicy live-skinflint"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels for selector in selectors)
    monitor = rendered["ServiceMonitor live-skinflint"]["spec"]
    service = rendered["Service live-skinflint-pods"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert (
        not monitor["selector"]["matchLabels"].items()
        <= rendered["Service live-skinflint"]["metadata"]["labels"].items()
    )
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "skinflint"  # the job that the rules ask for
    assert rendered["StatefulSet live-skinflint"]["spec"]["serviceName"] == service["metadata"]["name"]


def test_the_network_policy_lets_out_to_brokers_receivers_and_names_only(tmp_path):
    policy = render(tmp_path, EVERYTHING)["NetworkPolicy live-skinflint"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53, 443, 9093, 9194]
    (ingress,) = policy["ingress"]
    assert ingress["from"] == [{"podSelector": {}}, *EVERYTHING["networkPolicy"]["ingressFrom"]]
    assert [port["port"] for port in ingress["ports"]] == ["http"]


def test_keda_scales_the_stateful_set_by_the_lag_of_each_topic(tmp_path):
    rendered = render(tmp_path, EVERYTHING)
    spec = rendered["ScaledObject live-skinflint"]["spec"]
    assert spec["scaleTargetRef"] == {"kind": "StatefulSet", "name": "live-skinflint"}
    assert [trigger["metadata"]["topic"] for trigger in spec["triggers"]] == ["otlp_metrics", "gpu-telemetry"]
    for trigger in spec["triggers"]:
        assert trigger["metadata"] | {"topic": ""} == {
            "bootstrapServers": "broker-1.example.com:9093,broker-2.example.com:9194", "consumerGroup": "night-shift",
            "topic": "", "lagThreshold": "100000", "offsetResetPolicy": "earliest",
        }  # fmt: skip
        assert trigger["authenticationRef"] == {"name": "kafka"}
    assert "replicas" not in rendered["StatefulSet live-skinflint"]["spec"]  # or each upgrade would undo KEDA's work


def test_what_needs_other_operators_is_off_until_they_are_there(tmp_path):
    assert not {key.split()[0] for key in render(tmp_path, {})} & {"ScaledObject", "ServiceMonitor"}
    known = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")
    assert "ServiceMonitor live-skinflint" in render(tmp_path, {}, *known)
    off = {"serviceMonitor": {"enabled": False}}
    assert "ServiceMonitor live-skinflint" not in render(tmp_path, off, *known)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"replicas": 2}, "expected replicas: 1 without KEDA, or config.state.backend: kafka"),
        ({**KAFKA, "keda": {"enabled": True}}, "one process reads all partitions"),
        ({"keda": {"enabled": True}, "config": {"state": {"backend": "kafka"}}}, "expected config.source.kind: kafka"),
        ({"replica": 1}, "'replica' not allowed"),
        ({"image": {"digest": "latest"}}, "does not match pattern"),
        ({"service": {"port": 0}}, "/service/port"),
        ({"config": {"source": {"kafka": {"sasl": {"password": "x"}}}}}, "/config/source/kafka/sasl"),
        ({"config": {"source": {"kafka": {"bootstrap_servers": ["broker"]}}}}, "bootstrap_servers"),
    ],
)
def test_what_could_not_work_is_refused_with_its_reason(tmp_path, values, said):
    done = subprocess.run(template(tmp_path, values), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_notes_tell_how_to_reach_the_page_and_to_check_the_configuration(tmp_path):
    """Helm shows them with a cluster only, so they are rendered as a manifest of a copy."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    notes = (chart / "templates/NOTES.txt").read_text()
    (chart / "templates/notes.yaml").write_text("kind: Notes\ntext: |\n" + textwrap.indent(notes, "  "))
    command = template(tmp_path, KAFKA, "--show-only", "templates/notes.yaml", "-n", "finops")
    said = yaml.safe_load(output(*(chart if word == CHART else word for word in command)))["text"]
    assert "reads otlp_metrics, gpu-telemetry as the group night-shift" in said
    assert "kubectl -n finops port-forward service/live-skinflint 9615:9615" in said
    assert (
        "kubectl -n finops exec live-skinflint-0 -- skinflint check-config --config /etc/skinflint/config.yaml" in said
    )
