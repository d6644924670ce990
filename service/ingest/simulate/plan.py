"""Who holds a slot and in which state it is, at any time: segments, drawn day by day from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from service.ingest.simulate.catalogue import WORKLOADS, Workload
from service.ingest.simulate.fleet import RING_STATES, Slot

SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
DAY: Final = 86_400 * SECOND
SEGMENT_MIN: Final = 15 * MINUTE
RING_PERIOD: Final = 60 * MINUTE
RING_JITTER: Final = 10 * MINUTE
RING_TURNS_A_DAY: Final = DAY // RING_PERIOD

# One walk round the ring is the life of a careless job and then of a careless notebook.
RING: Final = ("active", "low_efficiency", "hung_collective", "unallocated", "truly_idle", "idle_held", "keep_alive")
_RING_KIND: Final = ("training", "training", "training", "", "notebooks", "notebooks", "notebooks")


class Tenancy(NamedTuple):
    """One workload on one slot; `number` differs from tenancy to tenancy and seeds its names."""

    kind: str
    workload: Workload
    name: str
    number: int


class Segment(NamedTuple):
    """A time [start_ns, end_ns) in which a slot keeps its state and holder; `tenancy` None: nobody holds it."""

    start_ns: int
    end_ns: int
    state: str
    tenancy: Tenancy | None
    number: int


class _Step(NamedTuple):
    """A state and how long it may last, in minutes; an empty state ends the tenancy without a gap."""

    state: str
    shortest: int
    longest: int


class Plan:
    """The segments of every slot. A slot's days begin at a time of its own, so that no two change together."""

    def __init__(self, seed: int, scenario: str) -> None:
        self._seed = seed
        self._healthy_only = scenario == "broken_telemetry"
        self._day = lru_cache(maxsize=1 << 12)(self._draw_day)

    def at(self, slot: Slot, time_ns: int) -> Segment:
        """Return the segment of `slot` that holds `time_ns`."""
        day = self._segments(slot, time_ns)
        return next(segment for segment in day if segment.start_ns <= time_ns < segment.end_ns)

    def before(self, slot: Slot, segment: Segment) -> Segment:
        """Return the segment that ends where `segment` starts."""
        return self.at(slot, segment.start_ns - 1)

    def between(self, slot: Slot, start_ns: int, end_ns: int) -> Iterator[Segment]:
        """Yield the segments that overlap [start_ns, end_ns)."""
        time_ns = start_ns
        while time_ns < end_ns:
            segment = self.at(slot, time_ns)
            yield segment
            time_ns = segment.end_ns

    def day_start(self, slot: Slot, time_ns: int) -> int:
        """Return when the slot's day began; its drivers are reloaded then, which restarts the energy counters."""
        if slot.ring >= 0 and not self._healthy_only:
            turn = self.at(slot, time_ns).number
            return self._ring_time(slot, turn - turn % RING_TURNS_A_DAY)
        shift = random.Random(f"{self._seed}/day/{slot.clock}").randrange(DAY // MINUTE) * MINUTE
        return (time_ns - shift) // DAY * DAY + shift

    def _segments(self, slot: Slot, time_ns: int) -> tuple[Segment, ...]:
        if slot.ring >= 0 and not self._healthy_only:
            return self._ring_around(slot, time_ns)
        return self._day(slot, self.day_start(slot, time_ns))

    def _ring_around(self, slot: Slot, time_ns: int) -> tuple[Segment, ...]:
        turn = (time_ns - slot.ring * RING_PERIOD // 2) // RING_PERIOD
        return tuple(self._ring_segment(slot, i) for i in (turn - 1, turn, turn + 1))

    def _ring_segment(self, slot: Slot, turn: int) -> Segment:
        step = turn + slot.position
        place = step % RING_STATES
        life = step // RING_STATES * 2 + (place > 3)
        tenancy = self._tenancy(slot, _RING_KIND[place], life) if _RING_KIND[place] else None
        return Segment(self._ring_time(slot, turn), self._ring_time(slot, turn + 1), RING[place], tenancy, turn)

    def _ring_time(self, slot: Slot, turn: int) -> int:
        jitter = random.Random(f"{self._seed}/ring/{slot.index}/{turn}").randrange(RING_JITTER // SECOND) * SECOND
        return turn * RING_PERIOD + slot.ring * RING_PERIOD // 2 + jitter

    def _draw_day(self, slot: Slot, start_ns: int) -> tuple[Segment, ...]:
        rng = random.Random(f"{self._seed}/plan/{slot.index}/{start_ns}")
        segments: list[Segment] = []
        time_ns, end_ns = start_ns, start_ns + DAY
        life = start_ns // DAY * 100
        while time_ns < end_ns:
            life += 1
            tenancy = self._tenancy(slot, "inference" if slot.kind == "ring" else slot.kind, life)
            for step in self._life(slot, tenancy, rng):
                length = rng.randrange(step.shortest * 60, step.longest * 60) * SECOND
                until = end_ns if end_ns - time_ns - length < SEGMENT_MIN else time_ns + length
                holder = None if step.state == "unallocated" else tenancy
                segments.append(Segment(time_ns, until, step.state, holder, life * 100 + len(segments)))
                time_ns = until
                if time_ns >= end_ns:
                    break
        return tuple(segments)

    def _life(self, slot: Slot, tenancy: Tenancy, rng: random.Random) -> list[_Step]:
        if self._healthy_only:
            return [_Step("active", 60, 180)]
        life = _LIVES[tenancy.kind](rng)
        # NCCL does not run across MIG instances, and their power is their board's, so these two cannot be told there.
        return [step for step in life if not (slot.mig and step.state in ("hung_collective", "keep_alive"))]

    def _tenancy(self, slot: Slot, kind: str, life: int) -> Tenancy:
        number = random.Random(f"{self._seed}/tenancy/{slot.index}/{life}").getrandbits(40)
        rng = random.Random(number)
        workload = rng.choice(WORKLOADS[kind])
        return Tenancy(kind, workload, rng.choice(workload.names), number)


def _training(rng: random.Random) -> list[_Step]:
    steps = [_Step("active", 60, 180)]
    if rng.random() < 0.25:
        steps.append(_Step("low_efficiency", 30, 90))
    if rng.random() < 0.2:
        steps.append(_Step("hung_collective", 30, 75))
    if rng.random() < 0.6:
        steps.append(_Step("unallocated", 15, 40))
    return steps


def _inference(rng: random.Random) -> list[_Step]:
    steps = []
    for _ in range(rng.randrange(3, 7)):
        steps.append(_Step("active", 90, 180))
        if rng.random() < 0.3:
            steps.append(_Step("low_efficiency", 45, 120))
        if rng.random() < 0.25:
            steps.append(_Step("idle_held", 45, 150))
    return steps


def _notebooks(rng: random.Random) -> list[_Step]:
    steps = [_Step("truly_idle", 20, 60)]
    for _ in range(rng.randrange(1, 4)):
        steps += [_Step("active", 15, 30), _Step("idle_held", 60, 180)]
    if rng.random() < 0.3:
        steps.append(_Step("keep_alive", 40, 120))
    return [*steps, _Step("unallocated", 20, 90)]


def _batch(rng: random.Random) -> list[_Step]:
    tail = _Step("low_efficiency", 20, 50) if rng.random() < 0.15 else None
    return [_Step("active", 16, 60), *([tail] if tail else []), _Step("unallocated", 15, 40)]


_LIVES: Final = {"training": _training, "inference": _inference, "notebooks": _notebooks, "batch": _batch}
