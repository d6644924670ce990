"""What one bench run does, in which order and for how long: kernels, the three works in interleaved rounds, the curves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tests.bench import latency
from tests.bench.build import Missing, ours_python, peers_python
from tests.bench.engines import ENGINES, OURS, Cores, Engine, Failed, faults, load_arguments, ours, run
from tests.bench.works import Flood, Load

KERNELS_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Plan:
    """How much of everything. Later rounds and points of the curves are left out when the time is up, and said so."""

    quick: bool
    messages: Mapping[str, int]
    gpus: Mapping[str, int]
    rounds: int
    curve_messages: int
    curve_gpus: tuple[int, ...]
    curve_partitions: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    latency_s: float  # how long records are produced
    latency_rates: tuple[int, ...]  # messages a second, beside half of what ours read in W1
    flood_ids: tuple[int, ...]  # room is there for a fifth of the first
    time_s: float
    engine_timeout_s: float
    # Up to which share of the time a work may begin another round; latency, flood and curves share the rest.
    until: tuple[tuple[str, float], ...] = (("W1", 0.5), ("W2", 0.65), ("W3", 0.75), ("rest", 1.0))

    def scaled(self, share: float) -> Plan:
        """Return the plan with a share of the messages."""
        messages = {work: int(count * share) for work, count in self.messages.items()}
        flood_ids = tuple(int(count * share) for count in self.flood_ids)
        return replace(self, messages=messages, curve_messages=int(self.curve_messages * share), flood_ids=flood_ids)


FULL = Plan(
    quick=False,
    messages={"W1": 5_000_000, "W2": 40_000, "W3": 2_000_000},  # many fetches each: the first is not in the clock
    gpus={"W1": 4096, "W2": 1024, "W3": 1024},
    rounds=3,
    curve_messages=2_000_000,
    curve_gpus=(1_000, 10_000, 100_000, 1_000_000),
    curve_partitions=(1, 4, 16),
    kernel_sizes=(1_000, 50_000, 1_000_000),
    latency_s=25,
    latency_rates=(100_000, 330_000, 600_000),
    flood_ids=(500_000, 1_000_000, 2_000_000),
    time_s=23 * 60,
    engine_timeout_s=300,
)
QUICK = Plan(
    quick=True,
    messages={"W1": 400_000, "W2": 4_000, "W3": 100_000},
    gpus={"W1": 4096, "W2": 256, "W3": 128},
    rounds=3,
    curve_messages=100_000,
    curve_gpus=(1_000, 10_000),
    curve_partitions=(1, 16),
    kernel_sizes=(1_000, 50_000),
    latency_s=10,
    latency_rates=(),
    flood_ids=(50_000, 100_000, 200_000),
    time_s=120,
    engine_timeout_s=40,
)
CURVE_ROUNDS_MIN = 3  # at a million GPUs each must report more often than once
CURVE_GPUS, CURVE_PARTITIONS = 4096, 4


class Bench:
    """Collects the result of one run."""

    def __init__(self, plan: Plan, cores: Cores, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._cores = cores
        self._say = say
        self._began_s = time.monotonic()
        self.result = Bench.empty(plan)

    @staticmethod
    def empty(plan: Plan) -> dict[str, Any]:
        """Return a result without figures."""
        result: dict[str, Any] = {work: {} for work in ENGINES}
        result |= {"profile": {}, "memory": {work: {} for work in ENGINES}, "curve": {}, "kernels": {}}
        result |= {"latency": {}, "flood": {}}
        return result | {"missing": {}, "faults": [], "plan": {"quick": plan.quick, "messages": dict(plan.messages)}}

    def kernels(self) -> None:
        """Run the kernels on a core of their own."""
        self._say("measuring kernels")
        command = [ours_python(), "-m", "tests.bench.kernels", *map(str, self._plan.kernel_sizes)]
        found = run(command, self._cores.of(1), KERNELS_TIMEOUT_S)
        self.result["kernels"] = {name: of for name, of in found.items() if isinstance(of, dict)}

    def works(self, bootstrap: str) -> None:
        """Run every engine of every work, round by round, so that a slow minute of the machine hits all of them."""
        for work in ENGINES:
            load = Load.of(work, self._plan.messages[work], self._plan.gpus[work])
            self._write(bootstrap, load)
            for number in range(self._plan.rounds):
                if number and not self._time_left(work):
                    self._say(f"{work}: {number} of {self._plan.rounds} rounds; the time is up")
                    break
                for engine in ENGINES[work]:
                    self._one(bootstrap, load, engine)

    def _one(self, bootstrap: str, load: Load, engine: Engine) -> None:
        work = load.work.name
        missing = self.result["missing"].setdefault(work, {})
        if engine.name in missing:
            return
        if self._plan.quick and not engine.quick:
            missing[engine.name] = "left out of a quick run"
            return
        try:
            command = engine.command(bootstrap, load)
            found = run(command, self._cores.of(engine.cores), self._plan.engine_timeout_s)
        except Missing as reason:
            missing[engine.name] = str(reason)
            self._say(f"{work} {engine.name}: missing, {reason}")
            return
        except Failed as reason:
            missing[engine.name] = str(reason)
            self.result["faults"].append(f"{work}, {engine.name}: {reason}")
            return
        self._say(f"{work} {engine.name}: {found['messages_per_s']:,.0f} messages/s")
        self.result["faults"] += faults(load, engine.name, found)
        self.result[work].setdefault(engine.name, []).append(found["messages_per_s"])
        memory = self.result["memory"][work]
        memory[engine.name] = max(memory.get(engine.name, 0), found["peak_rss_bytes"])
        if engine.name == OURS:
            told = ("seconds", "messages", "rows", "checkpoints", "stages_s")
            self.result["profile"][work] = {name: found[name] for name in told}

    def latency(self, bootstrap: str) -> None:
        """Run the service at half of what ours read in W1, and at lower rates, and see how long its alerts take."""
        rates = self.result["W1"].get(OURS)
        if not rates:
            self.result["latency"] = {"missing": "ours did not run W1"}
            return
        half = median(rates) / 2
        lower = [rate for rate in self._plan.latency_rates if rate < half]
        self.result["latency"] = {"half_of_ours_per_s": half, "rates": []}
        for rate in [half, *lower]:  # the one that has a goal first, in case the time is up
            self.result["latency"]["rates"].append(self._latency(bootstrap, rate))

    def _latency(self, bootstrap: str, rate: float) -> dict[str, Any]:
        plan, asked = self._plan, {"asked_per_s": rate}
        if not self._time_left("rest"):
            return asked | {"missing": "the time was up"}
        try:
            figures, wrong = latency.measure(
                bootstrap, self._cores, rate, plan.latency_s, plan.engine_timeout_s, self._say
            )
        except (Failed, Missing) as reason:
            self.result["faults"].append(f"latency: {reason}")
            return asked | {"missing": str(reason)}
        self.result["faults"] += wrong
        return asked | figures

    def flood(self, bootstrap: str) -> None:
        """Run ours on more ids than there is room for."""
        entities_max = max(1, self._plan.flood_ids[0] // 5)
        self.result["flood"] = {"entities_max": entities_max} | self._flood(bootstrap, entities_max)

    def _flood(self, bootstrap: str, entities_max: int) -> dict[str, Any]:
        ids = self._plan.flood_ids
        load = Flood.of_ids(ids[-1])
        if not self._time_left("rest"):
            return {"missing": "the time was up"}
        self._write(bootstrap, load)
        command = [ours_python(), "-m", "tests.bench.flood", bootstrap, *map(str, (entities_max, *ids))]
        try:
            found = run(command, self._cores.of(1), self._plan.engine_timeout_s)
        except Failed as reason:
            self.result["faults"].append(f"flood: {reason}")
            return {"missing": str(reason)}
        refused = {"entities_max": load.messages - entities_max}
        if found["rejected_by_reason"] != refused:
            self.result["faults"].append(f"flood: rejected {found['rejected_by_reason']}, expected {refused}")
        self._say(f"flood of {load.messages:,} ids: {found['messages_per_s']:,.0f} messages/s")
        return {name: found[name] for name in ("marks", "rejected", "stages_s")}

    def curves(self, bootstrap: str) -> None:
        """Run ours on W1 over fleets and over partitions."""
        plan = self._plan
        loads = [("GPUs", gpus, self._curve_load(gpus, CURVE_PARTITIONS)) for gpus in plan.curve_gpus]
        loads += [("partitions", count, self._curve_load(CURVE_GPUS, count)) for count in plan.curve_partitions]
        for along, count, load in loads:
            self.result["curve"].setdefault(along, {})[str(count)] = self._point(bootstrap, load)

    def _curve_load(self, gpus: int, partitions: int) -> Load:
        return Load.of("W1", max(self._plan.curve_messages, CURVE_ROUNDS_MIN * gpus), gpus, partitions)

    def _point(self, bootstrap: str, load: Load) -> dict[str, Any]:
        where = f"W1 with {load.gpus:,} GPUs on {load.partitions} partitions"
        if not self._time_left("rest"):
            return {"missing": "the time was up"}
        self._write(bootstrap, load)
        try:
            found = run(ours(bootstrap, load), self._cores.of(1), self._plan.engine_timeout_s)
        except Failed as reason:
            self.result["faults"].append(f"{where}: {reason}")
            return {"missing": str(reason)}
        self._say(f"{where}: {found['messages_per_s']:,.0f} messages/s")
        self.result["faults"] += faults(load, where, found)
        return {name: found[name] for name in ("messages_per_s", "messages", "peak_rss_bytes", "stages_s")}

    def _write(self, bootstrap: str, load: Load) -> None:
        self._say(f"writing {load.messages:,} messages of {load.work.name}")
        command = [peers_python(), "-m", "tests.bench.load", bootstrap, *load_arguments(load)]
        run(command, self._cores.of(2), self._plan.engine_timeout_s)

    def _time_left(self, part: str) -> bool:
        return time.monotonic() - self._began_s < dict(self._plan.until)[part] * self._plan.time_s
