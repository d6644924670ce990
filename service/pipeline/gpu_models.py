"""What is known of a GPU model beforehand: power at idle and at its limit, memory, and how MIG divides it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import yaml

TABLE_FILE: Final = Path(__file__).with_name("gpu_models.yaml")

_SEPARATORS: Final = re.compile(r"[\s\-_/]+")
_PROFILE: Final = re.compile(r"(?:(?P<compute>\d+)c\.)?(?P<gpu>\d+)g\.")


@dataclass(frozen=True, slots=True)
class GpuModel:
    """One model of whole GPUs. `mig_slices` is 0 for a model that MIG cannot divide."""

    words: frozenset[str]
    idle_watts: float
    tdp_watts: float
    memory_bytes: int
    mig_slices: int

    def mig_share(self, profile: str) -> float:
        """Return the share of the GPU's compute slices that a MIG profile has, NaN if it is no profile of this GPU."""
        match = _PROFILE.search(profile)
        if match is None or not self.mig_slices:
            return float("nan")
        slices = int(match["compute"] or match["gpu"])
        return slices / self.mig_slices if slices <= self.mig_slices else float("nan")


@lru_cache(maxsize=1024)
def gpu_model(name: str) -> GpuModel | None:
    """Return the model that a driver's name for it means ("NVIDIA H100 80GB HBM3"), None if it is not in the table."""
    words = name_words(name)
    return next((model for model in _table() if model.words <= words), None)


def name_words(name: str | Collection[str]) -> frozenset[str]:
    """Return the words of a GPU's name in capitals, so that L4 is not found in L40S."""
    text = name if isinstance(name, str) else " ".join(map(str, name))
    return frozenset(_SEPARATORS.split(text.upper())) - {""}


@cache
def _table() -> tuple[GpuModel, ...]:
    rows = yaml.safe_load(TABLE_FILE.read_text(encoding="utf-8"))
    return tuple(
        GpuModel(
            name_words(row["words"]),
            float(row["idle_watts"]),
            float(row["tdp_watts"]),
            row["memory_mib"] << 20,
            row["mig_slices"],
        )
        for row in rows
    )
