"""The three works: what lies on the topic, when whose GPU falls idle, and who must be found. Needs nothing but Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_MS = 1_732_400_000_000
GPUS_PER_NODE = 8
IDLE_EVERY = 16  # every 16th GPU falls idle half way
IDLE_SPAN_MIN_S = 900  # long enough for the peers' 600 s, and for our window of 300 s and 300 s in the state
STEADY_ROUNDS_PER_S = 20  # event time goes 200 times as fast as the clock: 13 ticks a second
STEADY_GPUS_MIN, STEADY_ALERTS_MAX = 64, 1024
STEADY_FIRST_ROUND, STEADY_ROUNDS_MIN = 60, 200  # by then windows are full and kernels warm
FLOOD_ROUND = 4096
STEP_MIN_S, STEP_MAX_S = 10, 45  # a window of 300 s must hold five samples


@dataclass(frozen=True)
class Metric:
    """One DCGM metric: its range while a GPU works, and its value while it idles."""

    name: str
    low: float
    high: float
    idle: float
    decimals: int = 0
    counter: bool = False  # grows by `high` a step


# The metrics that dcgm-exporter's default list gives on data-centre GPUs, under the names of its releases up to 4.8.
METRICS = (
    Metric("DCGM_FI_DEV_FB_FREE", 9_000, 12_000, 41_000),
    Metric("DCGM_FI_DEV_FB_RESERVED", 600, 600, 600),
    Metric("DCGM_FI_DEV_FB_USED", 68_000, 71_000, 40_000),
    Metric("DCGM_FI_DEV_GPU_TEMP", 50, 78, 34),
    Metric("DCGM_FI_DEV_GPU_UTIL", 60, 100, 0),
    Metric("DCGM_FI_DEV_MEMORY_TEMP", 55, 85, 40),
    Metric("DCGM_FI_DEV_MEM_CLOCK", 2619, 2619, 2619),
    Metric("DCGM_FI_DEV_MEM_COPY_UTIL", 20, 60, 0),
    Metric("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", 10_000, 90_000, 0),
    Metric("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 0, 0, 0, counter=True),
    Metric("DCGM_FI_DEV_POWER_USAGE", 250, 650, 62.5, 3),
    Metric("DCGM_FI_DEV_SM_CLOCK", 1400, 1980, 345),
    Metric("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 0, 4_500_000, 0, counter=True),
    Metric("DCGM_FI_DEV_XID_ERRORS", 0, 0, 0),
    Metric("DCGM_FI_PROF_DRAM_ACTIVE", 0.2, 0.6, 0, 6),
    Metric("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.6, 1.0, 0, 6),
    Metric("DCGM_FI_PROF_PCIE_RX_BYTES", 1e8, 9e8, 0),
    Metric("DCGM_FI_PROF_PCIE_TX_BYTES", 1e8, 9e8, 0),
    Metric("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 0.2, 0.5, 0, 6),
    Metric("DCGM_FI_PROF_SM_ACTIVE", 0.55, 0.85, 0, 6),
)


@dataclass(frozen=True)
class Work:
    """One kind of topic; `messages_per_gpu` is how many messages one reading of one GPU takes."""

    name: str
    title: str
    format: str  # as source.kafka.formats calls it
    messages_per_gpu: float
    points_per_message: int = 1


WORKS = {
    work.name: work
    for work in (
        Work("W1", "single-sample JSON, 150 B", "native", 1),
        Work(
            "W2",
            f"OTLP protobuf from dcgm-exporter, {GPUS_PER_NODE} GPUs x {len(METRICS)} metrics a message",
            "otlp_proto",
            1 / GPUS_PER_NODE,
            GPUS_PER_NODE * len(METRICS),
        ),
        Work("W3", "prometheus-kafka-adapter JSON, one sample a message", "prometheus_adapter", len(METRICS)),
    )
}

# Works of ours alone: nobody is compared in them.
STEADY = Work("steady", "W1 at a steady rate, GPU after GPU falling idle", "native", 1)
FLOOD = Work("flood", "W1 in which no GPU reports twice", "native", 1)


@dataclass(frozen=True)
class Load:
    """One topic of one work: so many GPUs, read once a step for so many rounds."""

    work: Work
    gpus: int
    rounds: int
    partitions: int = 4

    @staticmethod
    def of(work: str, messages: int, gpus: int, partitions: int = 4) -> Load:
        """Return the load that comes nearest to so many messages."""
        chosen = WORKS[work]
        return Load(chosen, gpus, max(1, int(messages / (gpus * chosen.messages_per_gpu))), partitions)

    @property
    def messages(self) -> int:
        """How many messages lie on the topic."""
        return int(self.rounds * self.gpus * self.work.messages_per_gpu)

    @property
    def topic(self) -> str:
        """A name that no other load has."""
        return f"bench-{self.work.name.lower()}-{self.gpus}-{self.rounds}-{self.partitions}"

    @property
    def step_s(self) -> int:
        """Seconds of event time between two rounds: few rounds are spread so that idleness still lasts long enough."""
        return min(STEP_MAX_S, max(STEP_MIN_S, -(-2 * IDLE_SPAN_MIN_S // self.rounds)))

    @property
    def idle_from(self) -> int:
        """The round from which the idle GPUs idle."""
        return self.rounds // 2

    def is_idle(self, gpu: int, round_: int) -> bool:
        """Tell whether a GPU is one of those that idle, and has begun to."""
        return gpu % IDLE_EVERY == 0 and round_ >= self.idle_from

    def idle_gpus(self) -> set[str]:
        """Return the GPUs that every engine must find; none where the load is too short to tell."""
        span_s = (self.rounds - self.idle_from) * self.step_s
        return {self.gpu_name(g) for g in range(0, self.gpus, IDLE_EVERY)} if span_s >= IDLE_SPAN_MIN_S else set()

    def gpu_name(self, gpu: int) -> str:
        """Return the id under which a GPU stands in the messages."""
        scattered = gpu * 2654435761 % 2**32
        if self.work.format == "native":
            return f"GPU-{scattered:08x}-{gpu:04x}"
        return f"GPU-{scattered:08x}-5ac1-4e4e-9b1d-{gpu:012x}"

    def labels(self, gpu: int) -> dict[str, str]:
        """Return the labels that dcgm-exporter gives a GPU, in the order in which the Collector writes them."""
        index = gpu % GPUS_PER_NODE
        return {
            "DCGM_FI_DRIVER_VERSION": "570.86.15",
            "Hostname": f"gpu-node-{gpu // GPUS_PER_NODE:04d}",
            "UUID": self.gpu_name(gpu),
            "container": "main",
            "device": f"nvidia{index}",
            "gpu": str(index),
            "modelName": "NVIDIA H100 80GB HBM3",
            "namespace": f"team-{gpu // 64 % 16}",
            "pci_bus_id": f"00000000:{index:X}7:00.0",
            "pod": f"train-{gpu:05x}-0",
        }

    def readings(self, random_: random.Random, gpu: int, round_: int) -> Iterator[float]:
        """Give the value of each metric of one GPU in one round."""
        idle = self.is_idle(gpu, round_)
        for metric in METRICS:
            if metric.counter:
                yield round_ * metric.high
            elif idle:
                yield metric.idle
            else:
                yield round(metric.low + random_.random() * (metric.high - metric.low), metric.decimals)


@dataclass(frozen=True)
class Steady(Load):
    """W1 of which one GPU after the other falls idle, so that many ticks bring alerts."""

    @staticmethod
    def at(rate: float, seconds: float, partitions: int = 4) -> Steady:
        """Return the load that takes so long at so many messages a second: the fleet that reports so often."""
        rounds = max(STEADY_ROUNDS_MIN, int(seconds * STEADY_ROUNDS_PER_S))
        gpus = max(STEADY_GPUS_MIN, int(rate / STEADY_ROUNDS_PER_S)) // partitions * partitions
        return Steady(STEADY, gpus, rounds, partitions)

    @property
    def step_s(self) -> int:
        """Seconds of event time between two rounds: event time goes much faster than the clock."""
        return STEP_MIN_S

    @property
    def falling(self) -> dict[int, int]:
        """Return the GPUs that fall idle, spread over the fleet, and the round in which each does; all in time to be told."""
        count = min(STEADY_ALERTS_MAX, self.gpus // 4)
        last = self.rounds - IDLE_SPAN_MIN_S // self.step_s - 1
        span = last - STEADY_FIRST_ROUND
        return {k * self.gpus // count: STEADY_FIRST_ROUND + k * span // count for k in range(count)}

    def idle_gpus(self) -> set[str]:
        """Return the GPUs for each of which an alert must be told."""
        return {self.gpu_name(gpu) for gpu in self.falling}


@dataclass(frozen=True)
class Flood(Load):
    """As many ids as messages; only the first `entities_max` of them find room."""

    @staticmethod
    def of_ids(ids: int) -> Flood:
        """Return the load of so many ids, or a few less."""
        return Flood(FLOOD, FLOOD_ROUND, max(1, ids // FLOOD_ROUND))

    @property
    def step_s(self) -> int:
        """Seconds of event time between two rounds."""
        return STEP_MIN_S


def named(work: str, messages: int, gpus: int, partitions: int) -> Load:
    """Return the load that has these numbers on another command line, see `load_arguments`."""
    if work == STEADY.name:
        return Steady(STEADY, gpus, messages // gpus, partitions)
    if work == FLOOD.name:
        return Flood(FLOOD, gpus, messages // gpus, partitions)
    return Load.of(work, messages, gpus, partitions)


def begun(ready: Path) -> Path:
    """Return the file that is there once the first record is sent: encoding a large load takes longer than a start."""
    return ready.with_suffix(".begun")
