"""From the plan to measurements: the columns of a group of GPUs at one instant, vectorised over the GPUs."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.ingest.simulate.catalogue import MIB
from service.ingest.simulate.drive import Drive, drive_of, straggler_rank
from service.ingest.simulate.fleet import Entity, Fleet
from service.ingest.simulate.plan import DAY, SECOND, Plan, Segment

COLUMN_NAMES: Final = (
    "util_ratio", "mem_copy_ratio", "sm_active_ratio", "gr_engine_ratio", "tensor_ratio", "dram_ratio",
    "fb_used_bytes", "fb_free_bytes", "fb_reserved_bytes", "fb_total_bytes", "power_watts", "energy_joules",
    "temperature_celsius", "sm_clock_hz", "memory_clock_hz", "pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s",
    "nvlink_bytes_per_s", "xid_code", "pcie_replay_total", "ecc_dbe_total", "thermal_throttle_seconds",
)  # fmt: skip
COLUMN: Final = {name: i for i, name in enumerate(COLUMN_NAMES)}

_FIELD: Final = {name: i for i, name in enumerate(Drive._fields)}
_DAY_SPEED: Final = 2 * math.pi / (DAY // SECOND)
_COOLING_S: Final = 90.0
_AMBIENT_CELSIUS: Final = 29.0
_RISE_CELSIUS: Final = 44.0
Floats = NDArray[np.float64]


class Physics:
    """Columns of `entities` at any time. What it holds is a cache of the plan: time may go forwards and backwards."""

    def __init__(self, fleet: Fleet, plan: Plan, entities: list[Entity], stream: int) -> None:
        self._fleet, self._plan, self._entities, self._stream = fleet, plan, entities, stream
        n = len(entities)
        boards = sorted({entity.board for entity in entities})
        place = {board: i for i, board in enumerate(boards)}
        self._board = np.array([place[entity.board] for entity in entities], np.intp)
        models = [entity.node.instance.model for entity in entities]
        self._idle = np.array([model.idle_watts for model in models])
        self._range = np.array([model.tdp_watts - model.idle_watts for model in models])
        self._reserved = np.array([float(model.reserved_mib * MIB) for model in models])
        self._total = np.array([float(model.memory_mib * MIB) for model in models])
        shares = np.array([entity.mig.memory if entity.mig else 1.0 for entity in entities])
        self._reserved, self._total = np.floor(self._reserved * shares), np.floor(self._total * shares)
        self._compute = np.array([entity.mig.compute if entity.mig else 1.0 for entity in entities])
        self._clock = (
            np.array([[model.idle_clock_mhz, model.sm_clock_mhz, model.memory_clock_mhz] for model in models]) * 1e6
        )
        self._ambient = np.array([_AMBIENT_CELSIUS + entity.board * 7 % 5 for entity in entities])
        self._drive = np.zeros((len(_FIELD), n))
        self._energy = np.zeros(n)
        self._throttled = np.zeros(n)
        self._cooling = np.zeros(n)
        self._lifetime = np.zeros(n)
        self._members: dict[int, list[int]] = {}
        for i, entity in enumerate(entities):
            self._members.setdefault(entity.slot, []).append(i)
        self._slots = list(self._members)
        self._changed: set[int] = set()
        self._from = np.full(len(self._slots), np.iinfo(np.int64).max)
        self._until = np.full(len(self._slots), np.iinfo(np.int64).min)
        self.segments: list[Segment] = [Segment(0, 0, "", None, 0)] * n

    def changed(self) -> set[int]:
        """Return which entities changed their segment since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def _enter(self, time_ns: int) -> None:
        for i in np.flatnonzero((time_ns < self._from) | (time_ns >= self._until)):
            slot = self._fleet.slots[self._slots[i]]
            segment = self._plan.at(slot, time_ns)
            self._from[i], self._until[i] = segment.start_ns, segment.end_ns
            slow = straggler_rank(self._fleet.seed, segment, slot.size) if self._fleet.scenario == "fleet" else -1
            for member in self._members[slot.index]:
                self._load(member, segment, self._entities[member].rank == slow)
                self._changed.add(member)

    def _load(self, i: int, segment: Segment, slow: bool) -> None:
        entity = self._entities[i]
        slot = self._fleet.slots[entity.slot]
        drive = drive_of(self._fleet.seed, segment, entity, slow)
        self._drive[:, i] = drive
        self.segments[i] = segment
        born = self._plan.day_start(slot, segment.start_ns)
        self._lifetime[i] = segment.start_ns / SECOND - born / SECOND
        self._energy[i], self._throttled[i] = 0.0, 0.0
        before = drive
        for past in self._plan.between(slot, born, segment.start_ns):
            before = self._past_drive(entity, past)
            seconds = (past.end_ns - past.start_ns) / SECOND
            self._energy[i] += before.power * before.work(0.0, seconds)
            self._throttled[i] += before.throttle * seconds
        self._cooling[i] = (before.power - drive.power) * self._compute[i]

    def _past_drive(self, entity: Entity, segment: Segment) -> Drive:
        slot = self._fleet.slots[entity.slot]
        slow = self._fleet.scenario == "fleet" and straggler_rank(self._fleet.seed, segment, slot.size) == entity.rank
        return drive_of(self._fleet.seed, segment, entity, slow)

    def _of(self, name: str) -> Floats:
        row: Floats = self._drive[_FIELD[name]]
        return row

    def _over_board(self, values: Floats) -> Floats:
        sums: Floats = np.bincount(self._board, weights=values).astype(np.float64)
        return sums[self._board]

    def columns(self, time_ns: int, step: int) -> Floats:
        """Return float64[entities, columns] in the order of COLUMN_NAMES; `step` numbers the noise. NaN: not measured."""
        self._enter(time_ns)
        noise = np.random.Generator(np.random.Philox(key=[self._fleet.seed << 20 | self._stream, step]))
        z = noise.standard_normal((8, len(self._entities)))
        t = time_ns / SECOND - self._of("start_s")
        shape = self._shape(t)
        lull = np.where(z[7] > _LULL_SIGMA, np.where(self._of("lull") > 0, 0.1, 1.0), 1.0)
        activity = np.maximum(shape * lull * (1 + self._of("noise") * z[0]), 0.02)
        out = np.empty((len(COLUMN_NAMES), len(self._entities)))
        self._ratios(out, activity, z)
        self._memory(out)
        self._traffic(out, activity, z)
        self._power(out, t, shape, (activity / shape, z))
        out[COLUMN["xid_code"]] = 0.0
        out[COLUMN["pcie_replay_total"]] = 0.0
        out[COLUMN["ecc_dbe_total"]] = 0.0
        return np.ascontiguousarray(out.T)

    def _shape(self, t: Floats) -> Floats:
        swing = self._of("swing") * np.sin(self._of("swing_speed") * t + self._of("swing_phase"))
        daily = self._of("daily") * np.sin(_DAY_SPEED * t + self._of("daily_phase"))
        in_dip = (t + self._of("dip_phase")) % self._of("dip_every") < self._of("dip_length")
        shape: Floats = 1 + swing + daily - self._of("dip_depth") * in_dip
        return shape

    def _work(self, t: Floats) -> Floats:
        def until(t: Floats) -> Floats:
            swung = (
                -self._of("swing")
                / self._of("swing_speed")
                * np.cos(self._of("swing_speed") * t + self._of("swing_phase"))
            )
            daily = -self._of("daily") / _DAY_SPEED * np.cos(_DAY_SPEED * t + self._of("daily_phase"))
            turns, rest = np.divmod(t + self._of("dip_phase"), self._of("dip_every"))
            dipped = turns * self._of("dip_length") + np.minimum(rest, self._of("dip_length"))
            total: Floats = t + swung + daily - self._of("dip_depth") * dipped
            return total

        return until(t) - until(np.zeros_like(t))

    def _ratios(self, out: Floats, activity: Floats, z: Floats) -> None:
        own = self._of("noise") * 0.3
        pegged = np.minimum(activity * 1.25, 1.0)
        for name, level, driver, row in (
            ("util_ratio", "util", np.where(self._of("noise") < 0.01, activity, pegged), 1),
            ("gr_engine_ratio", "gr", np.where(self._of("noise") < 0.01, activity, pegged), 1),
            ("sm_active_ratio", "sm", activity, 2),
            ("tensor_ratio", "tensor", activity, 3),
            ("dram_ratio", "dram", activity, 4),
            ("mem_copy_ratio", "mem_copy", activity, 4),
        ):
            out[COLUMN[name]] = np.clip(self._of(level) * driver * (1 + own * z[row]), 0.0, 0.9999)
        spinning = self._of("util") == 1.0
        out[COLUMN["util_ratio"]][spinning] = 1.0
        out[COLUMN["gr_engine_ratio"]][spinning] = 1.0
        sliced = self._compute < 1.0
        out[COLUMN["util_ratio"]][sliced] = np.nan
        out[COLUMN["mem_copy_ratio"]][sliced] = np.nan
        out[COLUMN["util_ratio"]] = np.round(out[COLUMN["util_ratio"]], 2)
        out[COLUMN["mem_copy_ratio"]] = np.round(out[COLUMN["mem_copy_ratio"]], 2)

    def _memory(self, out: Floats) -> None:
        used = np.floor(np.minimum(self._of("fb_bytes"), self._total - self._reserved) / MIB) * MIB
        out[COLUMN["fb_used_bytes"]] = used
        out[COLUMN["fb_reserved_bytes"]] = self._reserved
        out[COLUMN["fb_total_bytes"]] = self._total
        out[COLUMN["fb_free_bytes"]] = self._total - self._reserved - used

    def _traffic(self, out: Floats, activity: Floats, z: Floats) -> None:
        # An idle link still carries the driver's polling: some kilobytes a second.
        for name, level, row in (("pcie_tx_bytes_per_s", "pcie_tx", 5), ("pcie_rx_bytes_per_s", "pcie_rx", 6)):
            polling = 1000.0 + 1500.0 * np.abs(z[row])
            out[COLUMN[name]] = np.floor(self._of(level) * activity * np.exp(0.35 * z[row]) + polling)
        out[COLUMN["nvlink_bytes_per_s"]] = np.floor(self._of("nvlink") * activity * np.exp(0.2 * z[6]))
        sliced = self._compute < 1.0
        for name in ("pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s", "nvlink_bytes_per_s"):
            out[COLUMN[name]][sliced] = np.nan

    def _power(self, out: Floats, t: Floats, shape: Floats, unrest: tuple[Floats, Floats]) -> None:
        jitter, z = unrest
        sensor = self._over_board(z[5])
        drawn = self._over_board(self._of("power") * self._compute * np.minimum(shape * jitter, 1.25))
        power = self._idle + self._range * np.minimum(drawn, 0.99) + 0.0015 * self._range * sensor
        out[COLUMN["power_watts"]] = np.round(power, 3)
        worked = self._energy + self._of("power") * self._work(t)
        out[COLUMN["energy_joules"]] = self._idle * (self._lifetime + t) + self._range * self._over_board(
            worked * self._compute
        )
        lag = self._over_board(self._cooling * np.exp(-t / _COOLING_S))
        steady = self._over_board(self._of("power") * self._compute * shape)
        hot = 14.0 * (self._of("throttle") > 0)
        out[COLUMN["temperature_celsius"]] = np.round(
            self._ambient + _RISE_CELSIUS * (steady + lag) + hot + 0.4 * sensor
        )
        idle, top, memory = self._clock.T
        ratio = self._of("clock")
        top = top * np.where(ratio > 0, ratio, 1.0) * np.where(drawn > 0.8, 0.93, 1.0)
        out[COLUMN["sm_clock_hz"]] = np.where(self._over_board(ratio) > 0, np.round(top / 15e6) * 15e6, idle)
        out[COLUMN["memory_clock_hz"]] = memory
        out[COLUMN["thermal_throttle_seconds"]] = np.round(self._throttled + self._of("throttle") * t, 2)


_LULL_SIGMA: Final = 2.05
