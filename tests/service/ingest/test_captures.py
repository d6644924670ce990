"""Every captured record of every agent decodes to what the exporter served, value by value."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from detectors.labels import LabelSet
from service.app import run_replay
from service.clock import SystemClock
from tests.service.ingest.decoding import Bench, capture_folders, read_capture, read_truth
from tests.service.pipeline.stream import configuration

MIB = 1048576.0

# What the served names mean, written down again here so that a slip in fields.yaml shows.
SERVED: dict[str, tuple[str, float, float]] = {
    "DCGM_FI_DEV_GPU_UTIL": ("util_ratio", 1, 100),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("mem_copy_ratio", 1, 100),
    "DCGM_FI_DEV_FB_USED": ("fb_used_bytes", MIB, 1),
    "DCGM_FI_DEV_FB_FREE": ("fb_free_bytes", MIB, 1),
    "DCGM_FI_DEV_FB_RESERVED": ("fb_reserved_bytes", MIB, 1),
    "DCGM_FI_DEV_POWER_USAGE": ("power_watts", 1, 1),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_joules", 1, 1000),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature_celsius", 1, 1),
    "DCGM_FI_DEV_MEMORY_TEMP": ("memory_temperature_celsius", 1, 1),
    "DCGM_FI_DEV_SM_CLOCK": ("sm_clock_hz", 1e6, 1),
    "DCGM_FI_DEV_MEM_CLOCK": ("memory_clock_hz", 1e6, 1),
    "DCGM_FI_DEV_XID_ERRORS": ("xid_code", 1, 1),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": ("pcie_replay_total", 1, 1),
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": ("nvlink_bytes_per_s", 1e6, 1),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("gr_engine_ratio", 1, 1),
    "DCGM_FI_PROF_SM_ACTIVE": ("sm_active_ratio", 1, 1),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("tensor_ratio", 1, 1),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("dram_ratio", 1, 1),
    "DCGM_FI_PROF_PCIE_TX_BYTES": ("pcie_tx_bytes_per_s", 1, 1),
    "DCGM_FI_PROF_PCIE_RX_BYTES": ("pcie_rx_bytes_per_s", 1, 1),
    "DCGM_FI_DEV_GPU_UTIL_RATIO": ("util_unscaled", 1, 1),
    "DCGM_FI_DEV_MEMORY_UTIL_RATIO": ("mem_copy_ratio", 1, 1),
    "DCGM_FI_DEV_FB_USED_BYTES": ("fb_used_bytes", 1, 1),
    "DCGM_FI_DEV_FB_FREE_BYTES": ("fb_free_bytes", 1, 1),
    "DCGM_FI_DEV_FB_RESERVED_BYTES": ("fb_reserved_bytes", 1, 1),
    "DCGM_FI_DEV_FB_CAPACITY_BYTES": ("fb_total_bytes", 1, 1),
    "DCGM_FI_DEV_BOARD_POWER_WATTS": ("power_watts", 1, 1),
    "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL": ("energy_joules", 1, 1),
    "DCGM_FI_DEV_GPU_TEMP_CELSIUS": ("temperature_celsius", 1, 1),
    "DCGM_FI_DEV_SM_CLOCK_HERTZ": ("sm_clock_hz", 1, 1),
    "DCGM_FI_DEV_MEMORY_CLOCK_HERTZ": ("memory_clock_hz", 1, 1),
    "DCGM_FI_DEV_XID_ERROR": ("xid_code", 1, 1),
    "DCGM_FI_DEV_PCIE_REPLAY_TOTAL": ("pcie_replay_total", 1, 1),
    "DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND": ("nvlink_bytes_per_s", 1, 1),
    "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO": ("gr_engine_ratio", 1, 1),
    "DCGM_FI_PROF_SM_UTIL_RATIO": ("sm_active_ratio", 1, 1),
    "DCGM_FI_PROF_TENSOR_UTIL_RATIO": ("tensor_ratio", 1, 1),
    "DCGM_FI_PROF_DRAM_UTIL_RATIO": ("dram_ratio", 1, 1),
    "utilization_gpu": ("util_ratio", 1, 100),
    "utilization_memory": ("mem_copy_ratio", 1, 100),
    "memory_used": ("fb_used_bytes", MIB, 1),
    "memory_free": ("fb_free_bytes", MIB, 1),
    "memory_total": ("fb_total_bytes", MIB, 1),
    "power_draw": ("power_watts", 1, 1),
    "temperature_gpu": ("temperature_celsius", 1, 1),
}
# The first set's truth has short names of its own, in the old units.
SHORT = {
    "gpu_util": "DCGM_FI_DEV_GPU_UTIL",
    "mem_copy": "DCGM_FI_DEV_MEM_COPY_UTIL",
    "fb_used": "DCGM_FI_DEV_FB_USED",
    "fb_free": "DCGM_FI_DEV_FB_FREE",
    "fb_reserved": "DCGM_FI_DEV_FB_RESERVED",
    "power": "DCGM_FI_DEV_POWER_USAGE",
    "energy": "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    "temp": "DCGM_FI_DEV_GPU_TEMP",
    "sm_clock": "DCGM_FI_DEV_SM_CLOCK",
    "mem_clock": "DCGM_FI_DEV_MEM_CLOCK",
    "xid": "DCGM_FI_DEV_XID_ERRORS",
    "pcie_replay": "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
    "nvlink": "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",
    "gr": "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
    "sm": "DCGM_FI_PROF_SM_ACTIVE",
    "tensor": "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    "dram": "DCGM_FI_PROF_DRAM_ACTIVE",
    "pcie_tx": "DCGM_FI_PROF_PCIE_TX_BYTES",
    "pcie_rx": "DCGM_FI_PROF_PCIE_RX_BYTES",
}
BLANK = 1e18
# GPU samples per file, as its makers counted them; what is not listed is only compared with the truth.
COUNTS = {
    "captures": {"otlp-proto": 160, "otlp-json": 160, "otlp-res": 160, "otlp-exported": 32},
    "captures_events": {
        "otlp-proto": 200,
        "otlp-json": 200,
        "otlp-proto-batch": 200,
        "otlp-json-batch": 200,
        "otlp-proto-split": 200,
        "otlp-proto-exported": 64,
        "otlp-proto-mig": 192,
        "telegraf-json-v1": 208,
        "telegraf-json-v2": 208,
        "telegraf-influx-v1": 208,
        "telegraf-influx-v2": 208,
        "telegraf-json-merged": 416,
        "telegraf-influx-merged": 416,
        "telegraf-prw": 208,
        "telegraf-rw-json": 192,
    },
}
# Series-end markers per file of the second set.
MARKERS = {
    "otlp-proto": 80,
    "otlp-proto-mig": 41,
    "otlp-proto-exported": 191,
    "otlp-proto-split": 80,
}

FILES = [path for folder in capture_folders() for path in sorted(folder.glob("*.records.ndjson.gz"))]
DCGM = [path for path in FILES if "smi" not in path.name and "collectd" not in path.name]
COLLECTD = [path for path in FILES if "collectd" in path.name]
SMI = [path for path in FILES if "smi" in path.name]

Key = tuple[str, str, float]


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name.split('.')[0]}"


def truth_of(path: Path) -> dict[Key, dict[str, Any]]:
    """Return all truth of the folder by (UUID, MIG instance, energy)."""
    truth = {}
    for file in path.parent.glob("truth*.gz"):
        if "smi" in file.name:
            continue
        for line in read_truth(file):
            served = line.get("values") or {
                SHORT[name]: value for name, value in line["values_in_generation_1_units"].items()
            }
            cells = {}
            for name, value in served.items():
                column, multiply, divide = SERVED[name]
                if value < BLANK:
                    cells[column] = value * multiply / divide
            if "values" not in line and line["generation"] == 2:
                cells["util_unscaled"] = cells.pop("util_ratio")
            labels = line["labels"]
            key = (labels["UUID"], labels.get("GPU_I_ID", ""), cells["energy_joules"])
            truth[key] = {"cells": cells, "labels": labels, "hostname": line["hostname"]}
    return truth


def expected_labels(line: dict[str, Any], found: LabelSet) -> LabelSet:
    labels = line["labels"]
    return LabelSet(
        cluster=found.cluster,  # a header's or an agent's, not the exporter's
        node=line["hostname"],
        gpu=labels["gpu"],
        uuid=labels["UUID"],
        mig_id=labels.get("GPU_I_ID", ""),
        mig_profile=labels.get("GPU_I_PROFILE", ""),
        model=labels["modelName"],
        namespace=labels.get("namespace", ""),
        pod=labels.get("pod", ""),
        container=labels.get("container", ""),
    )


@pytest.mark.parametrize("path", DCGM, ids=name_of)
def test_every_capture_decodes_to_what_was_served(path: Path) -> None:
    bench = Bench()
    decoded = bench.decode_records(read_capture(path))
    assert not decoded.rejected
    assert decoded.outcomes["unknown_metric"] == 0
    merged = bench.merged(decoded)
    truth = truth_of(path)
    for (labels, _), cells in merged.items():
        line = truth[labels.uuid, labels.mig_id, cells["energy_joules"]]
        expected = dict(line["cells"])
        if path.parent.name == "captures" and "util_unscaled" in expected:
            assert cells.keys() == expected.keys()
            assert cells == pytest.approx(expected, rel=1e-12)  # this truth is in the other units
        else:
            assert cells == expected
        assert labels == expected_labels(line, labels)
    stem = path.name.split(".")[0]
    count = COUNTS.get(path.parent.name, {}).get(stem)
    assert count is None or len(merged) == count
    if path.parent.name == "captures_events" and stem in MARKERS:
        assert decoded.outcomes["series_ended"] == MARKERS[stem]


@pytest.mark.parametrize("path", SMI, ids=name_of)
def test_nvidia_smi_through_telegraf_decodes_to_what_was_reported(path: Path) -> None:
    bench = Bench()
    decoded = bench.decode_records(read_capture(path))
    assert not decoded.rejected
    assert decoded.outcomes["unknown_metric"] == 0
    truth = {}
    for line in read_truth(path.parent / "truth-smi.ndjson.gz"):
        cells = {}
        for name, value in line["values"].items():
            column, multiply, divide = SERVED[name]
            cells[column] = value * multiply / divide
        truth[line["UUID"], line["scrape_time_ms"] // 1000] = (line["gpu"], cells)
    whole = {key: row for key, row in bench.merged(decoded).items() if not key[0].mig_id}
    assert len(whole) == len(truth) == 52
    for (labels, time_ns), cells in whole.items():
        gpu, expected = truth[labels.uuid, time_ns // 10**9]
        assert {name: cells[name] for name in expected} == expected
        assert labels.node == "gpu-a-h100-03"
        assert labels.gpu == gpu
        assert labels.model == "NVIDIA A100-SXM4-80GB"


def test_memory_of_mig_instances_comes_from_nvidia_smi_under_their_own_ids() -> None:
    (path,) = (path for path in SMI if path.name.startswith("telegraf-smi-json") and "tests" in path.parts)
    bench = Bench()
    rows = bench.merged(bench.decode_records(read_capture(path)))
    slices = {labels.entity_key() for labels, _ in rows if labels.mig_id}
    assert slices
    assert all(key.startswith("GPU-") and "#" in key for key in slices)


def test_a_gpu_without_a_workload_is_not_charged_to_the_exporter() -> None:
    exported = [path for path in DCGM if "exported" in path.name]
    assert len(exported) >= 2
    for path in exported:
        bench = Bench()
        merged = bench.merged(bench.decode_records(read_capture(path)))
        holders = Counter(labels.pod for labels, _ in merged)
        assert holders[""] > 0
        assert not any("exporter" in pod for pod in holders)
        assert not any(labels.namespace == "gpu-operator" for labels, _ in merged)


def test_the_markers_of_a_dead_exporter_make_no_rows() -> None:
    (path,) = (p for p in DCGM if p.name.startswith("otlp-proto-exported") and "tests" in p.parts)
    bench = Bench()
    decoded = bench.decode_records(read_capture(path))
    assert decoded.outcomes["no_gpu"] == 3  # after the target died there is only up = 0
    assert len(bench.merged(decoded)) == 64


@pytest.mark.parametrize("path", COLLECTD, ids=name_of)
def test_collectd_decodes_to_what_was_served(path: Path) -> None:
    bench = Bench()
    decoded = bench.decode_records(read_capture(path))
    assert not decoded.rejected
    assert decoded.outcomes["unknown_metric"] == 0
    truth = {}
    for line in read_truth(path.parent / "truth.ndjson.gz"):
        if line["agent"] != "collectd-exec":
            continue
        cells = {}
        for name, value in line["values"].items():
            column, multiply, divide = SERVED[name]
            cells[column] = value * multiply / divide
        truth[line["hostname"], line["gpu"], cells["power_watts"], cells["fb_free_bytes"]] = cells
    merged = bench.merged(decoded)
    assert len(merged) == 112
    for (labels, _), cells in merged.items():
        expected = truth[labels.node, labels.gpu, cells["power_watts"], cells["fb_free_bytes"]]
        assert cells == {name: expected[name] for name in cells}
        assert labels.model == "NVIDIA_H100_80GB_HBM3"


def served(path: Path) -> set[str]:
    """Return the key of every entity that the capture's agents were served, by the truth files that its name stands for."""
    stem = path.name.split(".")[0]
    if "smi" in stem:
        return {LabelSet(uuid=line["UUID"]).entity_key() for line in read_truth(path.parent / "truth-smi.ndjson.gz")}
    if "collectd" in stem:
        lines = read_truth(path.parent / "truth.ndjson.gz")
        told = [line for line in lines if line["agent"] == "collectd-exec"]
        return {LabelSet(node=line["hostname"], gpu=line["gpu"]).entity_key() for line in told}
    kinds = [kind for kind in ("exported", "mig") if kind in stem] or [""]
    if "rw-json" in stem:
        kinds = ["mig"]
    if "merged" in stem:
        kinds = ["", "mig"]
    labels = [
        line["labels"]
        for kind in kinds
        for line in read_truth(path.parent / f"truth{'-' + kind if kind else ''}.ndjson.gz")
    ]
    return {LabelSet(uuid=each["UUID"], mig_id=each.get("GPU_I_ID", "")).entity_key() for each in labels}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_capture_replays_without_a_reject_to_the_entities_that_were_served(path: Path, tmp_path: Path) -> None:
    summary = run_replay(configuration(), [str(path)], tmp_path, SystemClock())
    assert summary["rejects_by_reason"] == {}
    assert summary["outcomes"].get("rejected", 0) == summary["outcomes"].get("unknown_metric", 0) == 0
    assert (tmp_path / "dead_letters.ndjson").read_bytes() == b""
    assert summary["records"] == len(read_capture(path))
    keys = [json.loads(line)["entity_key"] for line in (tmp_path / "intervals.ndjson").read_text().splitlines()]
    assert summary["entities"] == len(set(keys))
    if "smi" in path.name:  # its truth knows whole GPUs alone
        keys = [key for key in keys if "#" not in key]
    assert set(keys) == served(path)
