"""What drives one GPU through one segment: levels and waves of its activity, drawn from the seed."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from service.ingest.simulate.catalogue import GIB, MIB
from service.ingest.simulate.fleet import Entity
from service.ingest.simulate.plan import DAY, SECOND, Segment


class Drive(NamedTuple):
    """Numbers of one entity for one segment. Times in seconds from the segment's start, angles in radians.

    Activity is `1 + swing sin(swing_speed t + swing_phase) + daily sin(2 pi t / day + daily_phase) - dip_depth` in dips;
    it has a closed integral, which is what the energy counter is made of. Ratios are levels at activity 1.
    """

    util: float = 0.0
    gr: float = 0.0
    sm: float = 0.0
    tensor: float = 0.0
    dram: float = 0.0
    mem_copy: float = 0.0
    pcie_tx: float = 0.0
    pcie_rx: float = 0.0
    nvlink: float = 0.0
    fb_bytes: float = 0.0
    power: float = 0.0
    clock: float = 0.0
    noise: float = 0.0
    lull: float = 0.0
    throttle: float = 0.0
    swing: float = 0.0
    swing_speed: float = 1.0
    swing_phase: float = 0.0
    daily: float = 0.0
    daily_phase: float = 0.0
    dip_depth: float = 0.0
    dip_every: float = 1e9
    dip_length: float = 0.0
    dip_phase: float = 0.0
    start_s: float = 0.0

    def work(self, from_s: float, to_s: float) -> float:
        """Return the integral of activity over [from_s, to_s], in seconds at level 1."""
        return self._work_until(to_s) - self._work_until(from_s)

    def _work_until(self, t: float) -> float:
        day_speed = 2 * math.pi / (DAY // SECOND)
        swung = -self.swing / self.swing_speed * math.cos(self.swing_speed * t + self.swing_phase)
        daily = -self.daily / day_speed * math.cos(day_speed * t + self.daily_phase)
        turns, rest = divmod(t + self.dip_phase, self.dip_every)
        return t + swung + daily - self.dip_depth * (turns * self.dip_length + min(rest, self.dip_length))


def power_share(sm: float, tensor: float, dram: float) -> float:
    """Return the share of (TDP - idle) that this much activity draws: 0.8 for a busy trainer, 0.15 for a spin kernel."""
    return min(0.42 * sm + 0.55 * tensor + 0.4 * dram, 0.97)


def straggler_rank(seed: int, segment: Segment, size: int) -> int:
    """Return which rank of a training job is slow throughout `segment`, or -1."""
    if size < 2 or segment.state != "active" or segment.tenancy is None or segment.tenancy.kind != "training":
        return -1
    rng = random.Random(f"{seed}/straggler/{segment.tenancy.number}/{segment.start_ns}")
    return rng.randrange(size) if rng.random() < 0.25 else -1


def drive_of(seed: int, segment: Segment, entity: Entity, slow: bool) -> Drive:
    """Draw the numbers of `entity` for `segment`; `slow` makes it the straggler of its job."""
    shared = random.Random(f"{seed}/job/{entity.slot}/{segment.start_ns}")
    own = random.Random(f"{seed}/rank/{entity.key}/{segment.start_ns}")
    memory = entity.node.instance.model.memory_mib * MIB * (entity.mig.memory if entity.mig else 1.0)
    start_s = segment.start_ns / SECOND
    if segment.state in _IDLE:
        return Drive(fb_bytes=_idle_memory(segment.state, memory, shared), start_s=start_s, clock=0.0)
    drive = _BUSY[segment.state](segment, shared)
    model = entity.node.instance.model
    drive = drive._replace(
        fb_bytes=drive.fb_bytes * memory * own.uniform(0.98, 1.0),
        pcie_tx=drive.pcie_tx * model.pcie_bytes_per_s,
        pcie_rx=drive.pcie_rx * model.pcie_bytes_per_s,
        nvlink=drive.nvlink * model.nvlink_bytes_per_s * (1.0 if entity.node.instance.model.nvlink else 0.0),
        sm=drive.sm * own.uniform(0.98, 1.02),
        daily_phase=2 * math.pi * (segment.start_ns % DAY) / DAY - 2.0,
        start_s=start_s,
    )
    return _slowed(drive) if slow else drive


_IDLE = ("unallocated", "truly_idle", "idle_held")


def _idle_memory(state: str, memory: float, rng: random.Random) -> float:
    if state == "unallocated":
        return 0.0
    if state == "truly_idle":
        return float(min(rng.randrange(280, 500) * MIB, memory / 16))
    return max(rng.uniform(0.18, 0.85) * memory, 2.0 * GIB)


def _slowed(drive: Drive) -> Drive:
    # A board at its thermal limit: two thirds of the clock, fewer tensor cycles, and its peers wait for it.
    return drive._replace(
        sm=drive.sm * 0.9,
        tensor=drive.tensor * 0.68,
        dram=drive.dram * 0.75,
        power=drive.power * 0.72,
        clock=0.66,
        throttle=0.6,
    )


def _active(segment: Segment, rng: random.Random) -> Drive:
    kind = segment.tenancy.kind if segment.tenancy else "batch"
    sm = rng.uniform(
        *{"training": (0.74, 0.9), "inference": (0.64, 0.82), "notebooks": (0.6, 0.8), "batch": (0.66, 0.88)}[kind]
    )
    tensor, dram = sm * rng.uniform(0.42, 0.62), sm * rng.uniform(0.45, 0.68)
    drive = Drive(
        util=rng.uniform(0.94, 0.995), gr=rng.uniform(0.92, 0.98), sm=sm, tensor=tensor, dram=dram, mem_copy=dram * 0.95,
        pcie_tx=rng.uniform(0.003, 0.015), pcie_rx=rng.uniform(0.005, 0.03), fb_bytes=rng.uniform(0.45, 0.93),
        power=power_share(sm, tensor, dram), clock=1.0, noise=0.05, swing=0.05, swing_speed=2 * math.pi / rng.uniform(120, 600),
        swing_phase=rng.uniform(0, 6.28),
    )  # fmt: skip
    if kind == "training":
        # A checkpoint every 20 to 40 minutes keeps all ranks waiting for about a minute.
        every = rng.uniform(1200, 2400)
        return drive._replace(
            nvlink=rng.uniform(0.04, 0.1),
            dip_depth=0.88,
            dip_every=every,
            dip_length=rng.uniform(40, 80),
            dip_phase=rng.uniform(0, every),
        )
    if kind == "inference":
        return drive._replace(noise=0.12, lull=0.02, daily=0.07, swing=0.08)
    return drive._replace(noise=0.09, swing=0.08)


def _low_efficiency(segment: Segment, rng: random.Random) -> Drive:
    sm = rng.uniform(0.14, 0.38)
    tensor, dram = sm * rng.uniform(0.25, 0.5), sm * rng.uniform(0.4, 0.8)
    return Drive(
        util=rng.uniform(0.84, 0.96), gr=rng.uniform(0.8, 0.94), sm=sm, tensor=tensor, dram=dram, mem_copy=dram,
        pcie_tx=rng.uniform(0.01, 0.05), pcie_rx=rng.uniform(0.05, 0.2), nvlink=rng.uniform(0.002, 0.02),
        fb_bytes=rng.uniform(0.3, 0.8), power=power_share(sm, tensor, dram), clock=1.0, noise=0.16, swing=0.2,
        swing_speed=2 * math.pi / rng.uniform(90, 400), swing_phase=rng.uniform(0, 6.28),
    )  # fmt: skip


def _hung_collective(segment: Segment, rng: random.Random) -> Drive:
    # The communication kernel spins: either it fills the board or it holds a few blocks of it. Neither draws power.
    sm = rng.choice((rng.uniform(0.97, 0.995), rng.uniform(0.02, 0.12)))
    return Drive(
        util=1.0,
        gr=1.0,
        sm=sm,
        dram=0.0005,
        fb_bytes=rng.uniform(0.45, 0.9),
        power=rng.uniform(0.05, 0.11),
        clock=1.0,
        noise=0.001,
    )


def _keep_alive(segment: Segment, rng: random.Random) -> Drive:
    level = rng.uniform(0.14, 0.36)
    dram = rng.uniform(0.01, 0.05)
    return Drive(
        util=level * 1.02, gr=level * 1.03, sm=level, dram=dram, mem_copy=0.01, fb_bytes=rng.uniform(0.03, 0.12),
        power=power_share(level, 0.0, dram), clock=1.0, noise=0.008,
    )  # fmt: skip


_BUSY = {
    "active": _active,
    "low_efficiency": _low_efficiency,
    "hung_collective": _hung_collective,
    "keep_alive": _keep_alive,
}
