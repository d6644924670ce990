"""What goes wrong with the telemetry, per node and time: drawn from the seed, and never two things at once on a node."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from service.ingest.simulate.fleet import MIG_NODE, Fleet, Node, Slot
from service.ingest.simulate.plan import DAY, MINUTE, SECOND, Plan


class Kind(NamedTuple):
    """One kind of trouble: how often it is drawn, how long it lasts (minutes), and what it falls on."""

    weight: int
    shortest: int
    longest: int
    one_gpu: bool
    steady: bool


# Labels come back within the time for which the service remembers a holder (ten minutes); the others may last.
# `steady`: no GPU of the node changes its state meanwhile, else nobody could say what ought to be seen.
KINDS: Final = {
    "lost_labels": Kind(3, 3, 8, False, True),
    "false_zeros": Kind(3, 12, 40, False, True),
    "frozen_exporter": Kind(2, 8, 20, False, True),
    "silence": Kind(2, 8, 30, True, False),
    "duplicated": Kind(2, 10, 30, False, False),
    "reordered": Kind(2, 10, 30, False, False),
    "xid": Kind(3, 10, 11, True, False),
}
TELEMETRY_ONLY: Final = tuple(name for name in KINDS if name != "xid")
XID_CODES: Final = (13, 31, 43, 48, 63, 94)
UNCORRECTABLE: Final = (48, 63, 94)
DELAY_MAX_S: Final = 20


class Window(NamedTuple):
    """One trouble during [start_ns, end_ns); `gpu` -1 means all GPUs of the node; `xid` is a code or 0."""

    kind: str
    start_ns: int
    end_ns: int
    gpu: int
    xid: int

    def hits(self, gpu: int) -> bool:
        """Tell whether this GPU of the node is concerned."""
        return self.gpu in (-1, gpu)


class Span(NamedTuple):
    """A time [start_ns, end_ns) in which nothing changes: the trouble, if any, and the last XID of each GPU."""

    start_ns: int
    end_ns: int
    window: Window | None
    xids: tuple[tuple[int, int], ...]


class Faults:
    """The troubles of every node. Scenario clean has none; broken_telemetry has one after the other."""

    def __init__(self, fleet: Fleet, plan: Plan) -> None:
        self._fleet, self._plan = fleet, plan
        self._pause = (90, 420) if fleet.scenario == "fleet" else (6, 20)
        self._kinds = tuple(KINDS) if fleet.scenario == "fleet" else TELEMETRY_ONLY
        self._slots: dict[int, list[Slot]] = {}
        for entity in fleet.entities:
            slots = self._slots.setdefault(entity.node.index, [])
            if fleet.slots[entity.slot] not in slots:
                slots.append(fleet.slots[entity.slot])
        self._day = lru_cache(maxsize=1 << 15)(self._draw_day)

    def at(self, node: Node, time_ns: int) -> Span:
        """Return the span that holds `time_ns`."""
        shift = random.Random(f"{self._fleet.seed}/faults/{node.index}").randrange(DAY // MINUTE) * MINUTE
        start_ns = (time_ns - shift) // DAY * DAY + shift
        return next(span for span in self._day(node, start_ns) if span.start_ns <= time_ns < span.end_ns)

    def between(self, node: Node, start_ns: int, end_ns: int) -> Iterator[Span]:
        """Yield the spans that overlap [start_ns, end_ns)."""
        time_ns = start_ns
        while time_ns < end_ns:
            span = self.at(node, time_ns)
            yield span
            time_ns = span.end_ns

    def _draw_day(self, node: Node, start_ns: int) -> tuple[Span, ...]:
        windows = () if self._fleet.scenario == "clean" else self._windows(node, start_ns)
        spans: list[Span] = []
        time_ns, xids = start_ns, dict[int, int]()
        for window in windows:
            spans.append(Span(time_ns, window.start_ns, None, tuple(xids.items())))
            if window.xid:
                xids[window.gpu] = window.xid
            spans.append(Span(window.start_ns, window.end_ns, window, tuple(xids.items())))
            time_ns = window.end_ns
        spans.append(Span(time_ns, start_ns + DAY, None, tuple(xids.items())))
        return tuple(spans)

    def _windows(self, node: Node, start_ns: int) -> list[Window]:
        rng = random.Random(f"{self._fleet.seed}/faults/{node.index}/{start_ns}")
        windows: list[Window] = []
        time_ns = start_ns
        while True:
            time_ns += rng.randrange(self._pause[0] * 60, self._pause[1] * 60) * SECOND
            window = self._draw(node, time_ns, rng)
            if window.end_ns >= start_ns + DAY:
                return windows
            if self._fits(node, window):
                windows.append(window)
                time_ns = window.end_ns

    def _draw(self, node: Node, time_ns: int, rng: random.Random) -> Window:
        name = rng.choices(self._kinds, [KINDS[kind].weight for kind in self._kinds])[0]
        kind = KINDS[name]
        length = rng.randrange(kind.shortest * 60, kind.longest * 60) * SECOND
        gpu = rng.randrange(8) if kind.one_gpu else -1
        return Window(name, time_ns, time_ns + length, gpu, rng.choice(XID_CODES) if name == "xid" else 0)

    def _fits(self, node: Node, window: Window) -> bool:
        if window.kind == "false_zeros" and node.index == MIG_NODE:
            # A MIG instance has no utilisation of its own against which zeros could be seen to be false.
            return False
        if not KINDS[window.kind].steady:
            return True
        margin = window.end_ns + MINUTE
        return all(self._plan.at(slot, window.start_ns).end_ns > margin for slot in self._slots[node.index])
