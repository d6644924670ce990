"""What a replay writes where not all is known or can be kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.app import run_replay
from service.clock import SystemClock
from tests.service.pipeline.stream import START_NS, configuration


def idle_minutes(minutes: int, **labels: str) -> str:
    """Return native samples of one idle GPU, four a minute."""
    samples = [
        {
            "ts": START_NS + i * 15 * 10**9,
            **labels,
            "node": "n",
            "pod": "p",
            "sm": 0,
            "util": 0,
            "mem": 9000,
            "power": 60,
        }
        for i in range(minutes * 4)
    ]
    return "".join(json.dumps(sample) + "\n" for sample in samples)


def replayed(folder: Path, **fleet: Any) -> dict[str, Any]:
    """Replay `in.ndjson`, whose GPUs stand one after the other, into `out`."""
    plain = configuration()
    settings = plain.model_copy(
        update={
            "ingest": plain.ingest.model_copy(update={"lateness_max_s": 3600}),
            "fleet": plain.fleet.model_copy(update=fleet),
        }
    )
    return run_replay(settings, [str(folder / "in.ndjson")], folder / "out", SystemClock())


def test_a_fleet_beyond_its_limit_is_rejected_and_counted_and_the_rest_is_judged(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text("".join(idle_minutes(12, uuid=f"GPU-{i}") for i in range(32)))
    summary = replayed(tmp_path, entities_max=5)
    assert summary["entities"] == 5
    assert summary["rejects_by_reason"] == {"entities_max": 27 * 48}
    assert summary["outcomes"]["accepted"] == 5 * 48


def test_a_gpu_without_a_price_costs_nothing_known_rather_than_nothing(tmp_path: Path) -> None:
    known, unknown = {"uuid": "GPU-1", "model": "NVIDIA H100 80GB HBM3"}, {"uuid": "GPU-2", "model": "Abacus 3000"}
    (tmp_path / "in.ndjson").write_text(idle_minutes(12, **known) + idle_minutes(12, **unknown))
    summary = replayed(tmp_path)
    assert (summary["entities"], summary["entities_without_price"]) == (2, 1)
    rows = [json.loads(line) for line in (tmp_path / "out" / "intervals.ndjson").read_text().splitlines()]
    cost = {(row["entity_key"], row["state"]): row["waste_usd"] for row in rows}
    assert cost["GPU-1", "idle_held"] == pytest.approx(summary["waste_usd"])
    assert cost["GPU-1", "idle_held"] > 0
    assert cost["GPU-1", "unknown"] == 0
    assert cost["GPU-2", "idle_held"] is cost["GPU-2", "unknown"] is None
