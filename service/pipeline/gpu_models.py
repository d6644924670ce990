"""Power figures of GPU models: without them, power says nothing."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

TABLE_FILE = Path(__file__).with_name("gpu_models.yaml")


class GpuModel(NamedTuple):
    """One model of GPU: what it draws idle, and its board limit."""

    pattern: str
    idle_watts: float
    tdp_watts: float


@cache
def gpu_models() -> tuple[GpuModel, ...]:
    """Return the table, in the order in which patterns are tried."""
    rows = yaml.safe_load(TABLE_FILE.read_text(encoding="utf-8"))
    return tuple(GpuModel(row["pattern"], row["idle_watts"], row["tdp_watts"]) for row in rows)


@cache
def gpu_model(name: str) -> GpuModel | None:
    """Return the first model whose pattern fits the name that the exporter gives; None if no one does."""
    return next((model for model in gpu_models() if fnmatchcase(name, model.pattern)), None)
