"""The telemetry of one partition: measurements with their faults applied, as rows or as native JSON records."""

from __future__ import annotations

import json
import zlib
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.labels import LabelSet
from service.ingest.simulate.exporter import exported_columns, held_labels
from service.ingest.simulate.faults import DELAY_MAX_S, UNCORRECTABLE, Faults, Span
from service.ingest.simulate.fleet import Entity, Fleet, Node
from service.ingest.simulate.physics import COLUMN, COLUMN_NAMES, Physics
from service.ingest.simulate.plan import SECOND, Plan
from service.ingest.simulate.truth import shows_false_zeros

_PROFILING: Final = tuple(
    COLUMN[name]
    for name in (
        "sm_active_ratio", "gr_engine_ratio", "tensor_ratio", "dram_ratio",
        "pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s", "nvlink_bytes_per_s",
    )
)  # fmt: skip
_DECIMALS: Final = {
    "util_ratio": 2, "mem_copy_ratio": 2, "sm_active_ratio": 4, "gr_engine_ratio": 4, "tensor_ratio": 4, "dram_ratio": 4,
    "power_watts": 2, "energy_joules": 1, "thermal_throttle_seconds": 2,
}  # fmt: skip


class SimulatedRow(NamedTuple):
    """One GPU at one instant; `columns` has a name only where the exporter has the metric."""

    labels: LabelSet
    event_time_ns: int
    columns: dict[str, float]


class NodeRows(NamedTuple):
    """The rows of one node at one instant, and the kind of trouble it is in, if any."""

    node: Node
    event_time_ns: int
    rows: list[SimulatedRow]
    trouble: str


class Line(NamedTuple):
    """One native record before it has an offset."""

    timestamp_ms: int
    key: bytes
    value: bytes


class Shard:
    """All GPUs of one partition. Its caches hold nothing that could not be drawn again."""

    def __init__(self, fleet: Fleet, plan: Plan, faults: Faults, partition: int, interval_ns: int) -> None:
        self.entities = fleet.of_partition(partition)
        self._faults, self._interval_ns = faults, interval_ns
        self._physics = Physics(fleet, plan, self.entities, partition)
        self.delay_steps = DELAY_MAX_S * SECOND // interval_ns
        self._nodes: list[Node] = []
        self._of_node: list[range] = []
        self._find_nodes()
        self._spans = [Span(0, 0, None, ())] * len(self._nodes)
        self._labels = [""] * len(self.entities)
        self._stale_labels = set(range(len(self.entities)))
        self._profiles = _profiles(self.entities)
        self._frozen: dict[tuple[int, int], NDArray[np.float64]] = {}
        self._lines: dict[int, list[list[Line]]] = {}

    def _find_nodes(self) -> None:
        first = 0
        for i in range(1, len(self.entities) + 1):
            if i == len(self.entities) or self.entities[i].node is not self.entities[first].node:
                self._nodes.append(self.entities[first].node)
                self._of_node.append(range(first, i))
                first = i

    def lines(self, step: int) -> list[Line]:
        """Return the records that reach the log during `step`, late ones of the steps before first."""
        found: list[Line] = []
        # Late ones come last: what is newer has then gone before them, which is what makes them out of order.
        for delay in range(self.delay_steps + 1):
            by_delay = self._lines.get(step - delay)
            if by_delay is None:
                by_delay = self._lines[step - delay] = self._draw_lines(step - delay)
            found.extend(by_delay[delay])
        for old in [old for old in self._lines if abs(old - step) > self.delay_steps]:
            del self._lines[old]
        return found

    def node_rows(self, step: int) -> list[NodeRows]:
        """Return what every node's exporter serves at `step`; for the encoders of other formats."""
        values, silent = self._measure(step)
        found = []
        for place, node in enumerate(self._nodes):
            event_time_ns = step * self._interval_ns + self._lag_ns(node)
            window = self._spans[place].window
            rows = [
                SimulatedRow(self._label_set(place, i), event_time_ns, self._present(i, values[i]))
                for i in self._of_node[place]
                if i not in silent
            ]
            found.append(NodeRows(node, event_time_ns, rows, window.kind if window else ""))
        return found

    def _present(self, i: int, values: NDArray[np.float64]) -> dict[str, float]:
        columns = next(columns for members, columns, _ in self._profiles if i in members)
        return {COLUMN_NAMES[c]: float(values[c]) for c in columns}

    def _lag_ns(self, node: Node) -> int:
        return min(node.scrape_lag_ms * 1_000_000, self._interval_ns * 9 // 10)

    def _measure(self, step: int) -> tuple[NDArray[np.float64], set[int]]:
        time_ns = step * self._interval_ns
        values = self._physics.columns(time_ns, step)
        self._stale_labels.update(self._physics.changed())
        silent: set[int] = set()
        for place, node in enumerate(self._nodes):
            span = self._spans[place]
            if not span.start_ns <= time_ns < span.end_ns:
                span = self._spans[place] = self._faults.at(node, time_ns)
                self._stale_labels.update(self._of_node[place])
            if span.window is not None or span.xids:
                self._spoil(values, place, span, silent)
        return values, silent

    def _spoil(self, values: NDArray[np.float64], place: int, span: Span, silent: set[int]) -> None:
        places = self._of_node[place]
        for i in places:
            code = dict(span.xids).get(self.entities[i].gpu, 0)
            values[i, COLUMN["xid_code"]] = code
            values[i, COLUMN["ecc_dbe_total"]] = float(code in UNCORRECTABLE)
        if span.window is None:
            return
        if span.window.kind == "frozen_exporter":
            values[places.start : places.stop] = self._frozen_values(place, span)
        if span.window.kind == "silence":
            silent.update(i for i in places if span.window.hits(self.entities[i].gpu))
        if span.window.kind == "false_zeros":
            blinded = [i for i in places if shows_false_zeros(self._physics.segments[i].state)]
            values[np.ix_(blinded, _PROFILING)] = 0.0

    def _frozen_values(self, place: int, span: Span) -> NDArray[np.float64]:
        first = -(-span.start_ns // self._interval_ns)
        key = (place, first)
        if key not in self._frozen:
            self._frozen = {held: rows for held, rows in self._frozen.items() if held[0] != place}
            places = self._of_node[place]
            at_first = self._physics.columns(first * self._interval_ns, first)
            self._frozen[key] = at_first[places.start : places.stop]
        return self._frozen[key]

    def _label_set(self, place: int, i: int) -> LabelSet:
        window = self._spans[place].window
        if window is not None and window.kind == "lost_labels":
            return self.entities[i].labels()
        return held_labels(self.entities[i], self._physics.segments[i])

    def _refresh_labels(self) -> None:
        for place, members in enumerate(self._of_node):
            for i in self._stale_labels.intersection(members):
                self._labels[i] = _label_text(self._label_set(place, i))
        self._stale_labels.clear()

    def _draw_lines(self, step: int) -> list[list[Line]]:
        values, silent = self._measure(step)
        if self._stale_labels:
            self._refresh_labels()
        texts = self._texts(values)
        by_delay: list[list[Line]] = [[] for _ in range(self.delay_steps + 1)]
        for place, node in enumerate(self._nodes):
            ms = (step * self._interval_ns + self._lag_ns(node)) // 1_000_000
            key, head = node.name.encode(), f'{{"ts":{ms}'
            lines = [
                Line(ms, key, f"{head}{self._labels[i]}{texts[i]}".encode())
                for i in self._of_node[place]
                if i not in silent
            ]
            window = self._spans[place].window
            if window is None or window.kind not in ("duplicated", "reordered"):
                by_delay[0].extend(lines)
                continue
            _deliver_badly(lines, window.kind, step, by_delay)
        return by_delay

    def _texts(self, values: NDArray[np.float64]) -> list[str]:
        texts = [""] * len(self.entities)
        for members, columns, template in self._profiles:
            chosen = values[np.ix_(members, columns)].tolist()
            for i, row in zip(members, chosen, strict=True):
                texts[i] = template % tuple(row)
        return texts


def _deliver_badly(lines: list[Line], kind: str, step: int, by_delay: list[list[Line]]) -> None:
    for i, line in enumerate(reversed(lines)):
        chance = zlib.crc32(line.key + step.to_bytes(8, "big") + bytes((i,)))
        delay = chance % len(by_delay)
        if kind == "reordered":
            by_delay[delay].append(line)
            continue
        by_delay[0].append(line)
        if chance % 7 < 3:
            by_delay[delay].append(line)


def _label_text(labels: LabelSet) -> str:
    return "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in labels._asdict().items() if value)


def _profiles(entities: list[Entity]) -> list[tuple[list[int], list[int], str]]:
    """Group entities by the columns that their exporter has: places, column numbers and the template of the values."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, entity in enumerate(entities):
        groups.setdefault(exported_columns(entity), []).append(i)
    return [(members, [COLUMN[name] for name in names], _template(names)) for names, members in groups.items()]


def _template(names: tuple[str, ...]) -> str:
    parts = (f',"{name}":%.{_DECIMALS[name]}f' if name in _DECIMALS else f',"{name}":%d' for name in names)
    return "".join(parts) + "}"
