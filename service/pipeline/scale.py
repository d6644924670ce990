"""How a utilisation is read of which the name alone cannot tell whether it means 0..1 or percent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from detectors.labels import LabelSet
from detectors.roster import Roster
from detectors.state import ArraySpec, StateArrays
from service.pipeline.merge import TickRows

# An exporter that sent more than 1 within the hour sends percent; after an upgrade to ratios the mark must go.
_PERCENT_REMEMBERED_NS = 3600 * 10**9


class Scale:
    """Moves `util_unscaled` into `util_ratio`, as percent on nodes that sent more than 1 of late.

    DCGM 4.5 and 4.6 gave the name GPU_UTIL_RATIO to integer percent, 4.7 to 0..1: the name alone cannot tell. Until a
    node has shown a value above 1, its 1 is read as fully busy, which can hide idleness but never invent it.
    """

    def __init__(self, resume: Mapping[str, int]) -> None:
        self._node_of = StateArrays({"node": ArraySpec(np.int32, -1)}, None)  # by entity, -1 until somebody asks
        self._nodes: dict[str, int] = {}
        self._names: list[str] = []
        self._percent = StateArrays(
            {"seen_ns": ArraySpec(np.int64, -1)}, None
        )  # by node: when it last sent more than 1
        nodes = [self._node(name) for name in resume]
        self._percent.grow(len(self._names))
        self._percent["seen_ns"][nodes] = list(resume.values())

    def _node(self, name: str) -> int:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = len(self._nodes)
            self._names.append(name)
        return node

    def grow(self, entity_count: int) -> None:
        """Make room for new entities."""
        self._node_of.grow(entity_count)

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities, which get the ids 0.. in this order."""
        self._node_of.keep(entities)

    def describe(self, entities: NDArray[np.int64] | slice) -> None:
        """Note that the labels of these entities may have changed."""
        self._node_of["node"][entities] = -1

    def _nodes_of(self, entity: NDArray[np.int32], labels: Roster[LabelSet]) -> NDArray[np.int32]:
        """Return the node of each row; most exporters leave no doubt, so that nodes are looked for only here."""
        node: NDArray[np.int32] = self._node_of["node"][entity]
        if (node < 0).any():
            asked = np.unique(entity[node < 0]).tolist()
            self._node_of["node"][asked] = [self._node(_exporter(labels[i])) for i in asked]
            self._percent.grow(len(self._names))
            node = self._node_of["node"][entity]
        return node

    def apply(self, rows: TickRows, labels: Roster[LabelSet]) -> None:
        """Scale the rows of a tick; labels are those of all entities."""
        column = rows.columns.get("util_unscaled")
        if column is None:
            return
        newest_ns = int(rows.time_ns.max())
        node = self._nodes_of(rows.entity, labels)
        seen_ns = self._percent["seen_ns"]
        seen_ns[seen_ns < newest_ns - _PERCENT_REMEMBERED_NS] = -1
        seen_ns[node[column > 1.0]] = newest_ns
        scaled = np.where(seen_ns[node] >= 0, column / 100.0, column)
        ratio = rows.columns.get("util_ratio")
        rows.columns["util_ratio"] = scaled if ratio is None else np.fmax(ratio, scaled)

    def snapshot(self) -> dict[str, int]:
        """Return when each node that sends percent last showed it, by name."""
        seen_ns = self._percent["seen_ns"]
        return {self._names[node]: int(seen_ns[node]) for node in np.flatnonzero(seen_ns >= 0).tolist()}


def _exporter(labels: LabelSet) -> str:
    """Name what decides the scale of a GPU's values: its node's exporter, or itself where the node is not known."""
    return f"{labels.cluster}/{labels.node}" if labels.node else labels.entity_key()
