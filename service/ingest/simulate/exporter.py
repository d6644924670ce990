"""What an exporter can tell of a GPU: the labels of whoever holds it, and the columns that it has at all."""

from __future__ import annotations

from typing import Final

from detectors.labels import LabelSet
from service.ingest.simulate.fleet import GPUS_PER_NODE, Entity
from service.ingest.simulate.physics import COLUMN_NAMES
from service.ingest.simulate.plan import Segment, Tenancy

# A default dcgm-exporter has no SM activity, and none of these either.
_NOT_BY_DEFAULT: Final = {"sm_active_ratio", "thermal_throttle_seconds", "ecc_dbe_total", "fb_total_bytes"}
_PER_BOARD_ONLY: Final = {
    "util_ratio",
    "mem_copy_ratio",
    "pcie_tx_bytes_per_s",
    "pcie_rx_bytes_per_s",
    "nvlink_bytes_per_s",
}


def exported_columns(entity: Entity) -> tuple[str, ...]:
    """Return the columns that this GPU's exporter has; MIG instances lack those that exist per board only."""
    missing = set() if entity.node.exports_sm else set(_NOT_BY_DEFAULT)
    if not entity.node.instance.model.nvlink:
        missing.add("nvlink_bytes_per_s")
    if entity.mig is not None:
        missing |= _PER_BOARD_ONLY
    return tuple(name for name in COLUMN_NAMES if name not in missing)


def held_labels(entity: Entity, segment: Segment) -> LabelSet:
    """Return the labels of `entity` with the holder that `segment` names, if any."""
    labels = entity.labels()
    tenancy = segment.tenancy
    if tenancy is None:
        return labels
    job, pod = workload_names(tenancy, entity.rank)
    workload = tenancy.workload
    return labels._replace(
        namespace=workload.namespace, pod=pod, container=workload.container, job=job, team=workload.team
    )


def workload_names(tenancy: Tenancy, rank: int) -> tuple[str, str]:
    """Return job and pod as the usual controllers would name them; a training pod holds one node's eight ranks."""
    kind, name, number = tenancy.kind, tenancy.name, tenancy.number
    suffix = _suffix(number, 5)
    if kind == "training":
        return f"{name}-{suffix}", f"{name}-{suffix}-worker-{rank // GPUS_PER_NODE}"
    if kind == "batch":
        return f"{name}-{suffix}", f"{name}-{suffix}-{_suffix(number >> 20, 5)}"
    if kind == "notebooks":
        return "", f"{name}-{_suffix(number, 4)}-0"
    return "", f"{name}-{_suffix(number >> 10, 9)}-{suffix}"


# Kubernetes leaves out vowels and look-alikes in generated names.
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


def _suffix(number: int, length: int) -> str:
    letters = []
    for _ in range(length):
        number, place = divmod(number * 31 + 7, len(_ALPHABET))
        letters.append(_ALPHABET[place])
    return "".join(letters)
