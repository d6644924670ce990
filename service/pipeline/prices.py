"""What a GPU-hour costs: the user's own rules first, then list prices of instance types, then of GPU models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from detectors.labels import LabelSet
from service.pipeline.gpu_models import gpu_model, name_words
from service.settings import PriceRule, PriceSettings

TABLE_FILE: Final = Path(__file__).with_name("prices.yaml")
# Azure's own label of a type has this before the name that its price list uses.
_AZURE_PREFIX: Final = "standard_"
_UNKNOWN: Final = float("nan")
# Most GPUs that MIG divides have seven compute slices; this is for models that the table does not know.
_MIG_SLICES: Final = 7


class ListPrice(NamedTuple):
    """Price of one GPU of an instance type, by capacity type; NaN where it is not known."""

    on_demand: float
    spot: float
    reserved: float

    def of(self, capacity_type: str) -> float:
        """Return the price for a capacity type; one that is not known is taken for on-demand."""
        kinds = {"spot": self.spot, "reserved": self.reserved}
        return kinds.get(capacity_type, self.on_demand)


class PriceTable(NamedTuple):
    """List prices by instance type in lower case, and on-demand prices by the words of a model's name."""

    instances: Mapping[str, ListPrice]
    models: tuple[tuple[frozenset[str], float], ...]


class PriceBook:
    """Prices as the configuration wants them; the same labels always give the same price."""

    def __init__(self, settings: PriceSettings) -> None:
        self._rules = settings.rules
        self._table = default_table() if settings.use_default_table else PriceTable({}, ())

    def usd_per_gpu_hour(self, labels: LabelSet) -> float:
        """Return what this GPU or MIG instance costs an hour; NaN where the price is unknown.

        A MIG instance costs its share of the GPU's compute slices (3g of 7), whatever the rule.
        """
        whole = self._whole_gpu(labels)
        return whole * _mig_share(labels) if labels.mig_id else whole

    def _whole_gpu(self, labels: LabelSet) -> float:
        for rule in self._rules:
            if _matches(rule, labels):
                return rule.usd_per_gpu_hour
        instance_type = labels.instance_type.lower().removeprefix(_AZURE_PREFIX)
        listed = self._table.instances.get(instance_type)
        if listed is not None:
            return listed.of(labels.capacity_type)
        if labels.capacity_type == "spot":
            return _UNKNOWN
        words = name_words(labels.model)
        return next((price for needed, price in self._table.models if needed <= words), _UNKNOWN)


@cache
def default_table() -> PriceTable:
    """Return the list prices that come along. Sources and dates stand in prices.yaml."""
    table: Mapping[str, Any] = yaml.safe_load(TABLE_FILE.read_text(encoding="utf-8"))
    instances = {
        name.lower(): _list_price(row, float(table["reserved_discount"][cloud]))
        for cloud, listed in table["instances"].items()
        for name, row in listed["types"].items()
    }
    models = tuple((name_words(row["words"]), float(row["usd_per_gpu_hour"])) for row in table["models"])
    return PriceTable(instances, models)


def _list_price(row: Mapping[str, Any], reserved_discount: float) -> ListPrice:
    on_demand = row["usd_per_hour"] / row["gpus"]
    spot = row.get("spot_usd_per_hour", math.nan) / row["gpus"]
    return ListPrice(on_demand, spot, on_demand * (1 - reserved_discount))


def _matches(rule: PriceRule, labels: LabelSet) -> bool:
    """Tell whether all that the rule names is as it says; case does not matter."""
    wanted = rule.model_dump(exclude={"usd_per_gpu_hour"})
    return all(
        not pattern or fnmatchcase(getattr(labels, name).lower(), pattern.lower()) for name, pattern in wanted.items()
    )


def _mig_share(labels: LabelSet) -> float:
    model = gpu_model(labels.model)
    if model is not None:
        return model.mig_share(labels.mig_profile)
    slices = labels.mig_profile.partition("g.")[0]
    return int(slices) / _MIG_SLICES if slices.isdecimal() and int(slices) <= _MIG_SLICES else _UNKNOWN
