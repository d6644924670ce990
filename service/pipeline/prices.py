"""What a GPU-hour costs: the user's rules first, then list prices by instance type, then by GPU model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from detectors.labels import LabelSet
from service.settings import PriceRule, PriceSettings

TABLE_FILE = Path(__file__).with_name("prices.yaml")
_MIG_SLICES = 7  # every GPU with MIG is cut into at most seven compute slices
_MIG_PROFILE = re.compile(r"(?:MIG )?(\d)g\.")


class PriceBook:
    """Looks up prices; NaN is an honest answer. A MIG instance costs its share of the compute slices."""

    def __init__(self, settings: PriceSettings, table_file: Path = TABLE_FILE) -> None:
        self._rules = settings.rules
        table: Mapping[str, Any] = {"instances": {}, "models": []}
        if settings.use_default_table:
            table = yaml.safe_load(table_file.read_text(encoding="utf-8"))
        self._instances: Mapping[str, Mapping[str, Any]] = table["instances"]
        self._models: list[Mapping[str, Any]] = table["models"]

    def usd_per_gpu_hour(self, labels: LabelSet) -> float:
        """Return USD per hour of this GPU or MIG instance, NaN where no price is known."""
        return self._whole_gpu(labels) * _share(labels)

    def _whole_gpu(self, labels: LabelSet) -> float:
        for rule in self._rules:
            if _matches(rule, labels):
                return rule.usd_per_gpu_hour
        if labels.capacity_type == "reserved":
            return math.nan
        listed = self._instances.get(labels.instance_type)
        if listed is not None:
            return _listed(listed, labels.capacity_type)
        if labels.capacity_type == "spot":
            return math.nan
        for model in self._models:
            if labels.model and fnmatchcase(labels.model, model["pattern"]):
                return float(model["usd"])
        return math.nan


def _listed(listed: Mapping[str, Any], capacity_type: str) -> float:
    per_gpu = float(listed["usd"]) / int(listed["gpus"])
    if capacity_type != "spot":
        return per_gpu
    if "spot_usd" in listed:
        return float(listed["spot_usd"]) / int(listed["gpus"])
    return per_gpu * (1.0 - float(listed["spot_saving"])) if "spot_saving" in listed else math.nan


def _share(labels: LabelSet) -> float:
    if not labels.mig_id:
        return 1.0
    profile = _MIG_PROFILE.match(labels.mig_profile)
    return int(profile[1]) / _MIG_SLICES if profile else math.nan


def _matches(rule: PriceRule, labels: LabelSet) -> bool:
    exact = (
        (rule.instance_type, labels.instance_type),
        (rule.region, labels.region),
        (rule.capacity_type, labels.capacity_type),
        (rule.cluster, labels.cluster),
    )
    named = not rule.model or fnmatchcase(labels.model, rule.model)
    return named and all(wanted in ("", found) for wanted, found in exact)
