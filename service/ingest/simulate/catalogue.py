"""What a simulated fleet is made of: GPU models, instance types, teams and the names of their workloads."""

from __future__ import annotations

from typing import Final, NamedTuple

MIB: Final = 1 << 20
GIB: Final = 1 << 30


class GpuModel(NamedTuple):
    """One GPU product. `nvlink` False: the column does not exist for it."""

    name: str
    idle_watts: float
    tdp_watts: float
    memory_mib: int
    reserved_mib: int
    sm_clock_mhz: float
    idle_clock_mhz: float
    memory_clock_mhz: float
    pcie_bytes_per_s: float
    nvlink_bytes_per_s: float
    nvlink: bool


# Idle and board power, clocks and sizes as nvidia-smi shows them on these boards; NVLink is both directions, all links.
H100: Final = GpuModel("NVIDIA H100 80GB HBM3", 70, 700, 81559, 551, 1980, 345, 2619, 63e9, 900e9, True)
H200: Final = GpuModel("NVIDIA H200", 76, 700, 143771, 697, 1980, 345, 3201, 63e9, 900e9, True)
A100: Final = GpuModel("NVIDIA A100-SXM4-40GB", 54, 400, 40960, 409, 1410, 210, 1215, 31e9, 600e9, True)
L40S: Final = GpuModel("NVIDIA L40S", 34, 350, 46068, 533, 2520, 210, 9001, 31e9, 0, False)
L4: Final = GpuModel("NVIDIA L4", 16, 72, 23034, 468, 2040, 210, 6251, 15e9, 0, False)
T4: Final = GpuModel("Tesla T4", 10, 70, 15360, 447, 1590, 300, 5000, 15e9, 0, False)


class InstanceType(NamedTuple):
    """A cloud machine with eight GPUs."""

    name: str
    model: GpuModel


P5: Final = InstanceType("p5.48xlarge", H100)
P5EN: Final = InstanceType("p5en.48xlarge", H200)
P4D: Final = InstanceType("p4d.24xlarge", A100)
G6E: Final = InstanceType("g6e.48xlarge", L40S)
G6: Final = InstanceType("g6.48xlarge", L4)
G4DN: Final = InstanceType("g4dn.metal", T4)

INSTANCES: Final = {
    "training": (P5, P5EN, P4D),
    "inference": (G6E, G6, P5),
    "notebooks": (P4D, G6, G4DN),
    "batch": (G6, G4DN, G6E),
}

CLUSTERS: Final = (("ml-east", "us-east-1"), ("ml-west", "us-west-2"))


class MigSlice(NamedTuple):
    """A MIG instance of an 80 GB board: its id, profile, and shares of compute and of memory."""

    mig_id: str
    profile: str
    compute: float
    memory: float


MIG_LAYOUT: Final = (
    MigSlice("1", "3g.40gb", 3 / 7, 1 / 2),
    MigSlice("5", "2g.20gb", 2 / 7, 1 / 4),
    MigSlice("13", "1g.10gb", 1 / 7, 1 / 8),
)


class Workload(NamedTuple):
    """Where pods of one kind of work run and whose they are."""

    namespace: str
    team: str
    container: str
    names: tuple[str, ...]


WORKLOADS: Final = {
    "training": (
        Workload(
            "llm-pretrain", "foundation-models", "trainer", ("orca-13b-pretrain", "orca-moe-pretrain", "tokenmix-7b")
        ),
        Workload(
            "post-training", "alignment", "trainer", ("orca-13b-sft", "orca-13b-dpo", "reward-model-v3", "rlhf-ppo")
        ),
        Workload("vision", "perception", "pytorch", ("lane-seg-vit-l", "depth-anything-ft", "clip-retrain")),
    ),
    "inference": (
        Workload(
            "serving", "inference-platform", "vllm", ("chat-orca-13b", "embed-large", "rerank-v2", "code-assist-7b")
        ),
        Workload("search", "search-relevance", "triton", ("query-encoder", "doc-ranker")),
        Workload("speech", "voice", "triton", ("asr-large-v3", "tts-streaming")),
    ),
    "notebooks": (
        Workload(
            "research", "research", "notebook", ("jupyter-anna", "jupyter-kenji", "jupyter-priya", "jupyter-mateo")
        ),
        Workload("growth-ds", "growth-analytics", "notebook", ("jupyter-sofia", "jupyter-liam", "jupyter-chen")),
    ),
    "batch": (
        Workload("eval", "alignment", "eval", ("eval-nightly", "mmlu-sweep", "safety-bench")),
        Workload("data-prep", "data-platform", "worker", ("dedup-embed", "caption-images", "transcribe-backlog")),
    ),
}
