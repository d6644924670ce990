"""What a replay writes: whole captures of real agents, and money that is not known."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_a_gpu_without_a_price_costs_nothing_known_rather_than_nothing(tmp_path: Path) -> None:
    known, unknown = {"uuid": "GPU-1", "model": "NVIDIA H100 80GB HBM3"}, {"uuid": "GPU-2", "model": "Abacus 3000"}
    (tmp_path / "in.ndjson").write_text(idle_minutes(12, **known) + idle_minutes(12, **unknown))
    settings = configuration()
    ingest = settings.ingest.model_copy(update={"lateness_max_s": 3600})
    summary = run_replay(
        settings.model_copy(update={"ingest": ingest}), [str(tmp_path / "in.ndjson")], tmp_path / "out", SystemClock()
    )
    assert (summary["entities"], summary["entities_without_price"]) == (2, 1)
    rows = [json.loads(line) for line in (tmp_path / "out" / "intervals.ndjson").read_text().splitlines()]
    cost = {(row["entity_key"], row["state"]): row["waste_usd"] for row in rows}
    assert cost["GPU-1", "idle_held"] == pytest.approx(summary["waste_usd"])
    assert cost["GPU-1", "idle_held"] > 0
    assert cost["GPU-1", "unknown"] == 0
    assert cost["GPU-2", "idle_held"] is cost["GPU-2", "unknown"] is None
