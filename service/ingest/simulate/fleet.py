"""The fixed part of a simulated fleet: nodes, GPUs and MIG instances, and the slots that workloads occupy in turn."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

from detectors.labels import LabelSet
from service.ingest.simulate.catalogue import (
    CLUSTERS,
    G6E,
    INSTANCES,
    MIG_LAYOUT,
    P4D,
    P5,
    P5EN,
    InstanceType,
    MigSlice,
)

GPUS_PER_NODE = 8
PARTITIONS_MAX = 4
# Two rings of seven slots half a period apart: whatever the time, every state has a slot that is well inside it.
RING_STATES = 7
RINGS = 2
RING_GPUS = 2
RING_NODES = 4
MIG_NODE = 4
MIG_GPUS = 4
_FIXED_INSTANCES: Final = dict(enumerate((P5, P5EN, P4D, G6E, P5)))
_SIZES: Final = {"inference": (1, 1, 2, 4), "notebooks": (1, 1, 1, 1), "batch": (1, 1, 2, 2)}


@dataclass(frozen=True, slots=True)
class Node:
    """One machine and how its exporter is set up. `generation` 1: DCGM names up to 4.8, 2: from 4.9."""

    index: int
    name: str
    cluster: str
    region: str
    instance: InstanceType
    capacity_type: str
    generation: int
    exports_sm: bool
    scrape_lag_ms: int


@dataclass(frozen=True, slots=True)
class Entity:
    """A GPU or a MIG instance. `board` numbers the physical GPU within the fleet; `slot` the slot that it belongs to."""

    node: Node
    gpu: int
    board: int
    uuid: str
    mig: MigSlice | None
    slot: int
    rank: int

    @property
    def key(self) -> str:
        """The entity key that LabelSet gives for this GPU."""
        return f"{self.uuid}#{self.mig.mig_id}" if self.mig else self.uuid

    def labels(self) -> LabelSet:
        """Return identity and placement, without a holder."""
        return LabelSet(
            cluster=self.node.cluster,
            region=self.node.region,
            node=self.node.name,
            gpu=str(self.gpu),
            uuid=self.uuid,
            mig_id=self.mig.mig_id if self.mig else "",
            mig_profile=self.mig.profile if self.mig else "",
            model=self.node.instance.model.name,
            instance_type=self.node.instance.name,
            capacity_type=self.node.capacity_type,
        )


@dataclass(frozen=True, slots=True)
class Slot:
    """GPUs that one workload holds together. `ring` is -1, or which ring this slot is in, at `position`.

    Slots with the same `clock` begin their days together: the MIG instances of one board share its energy counter.
    """

    index: int
    kind: str
    size: int
    clock: int
    mig: bool = False
    ring: int = -1
    position: int = 0


@dataclass(slots=True)
class Fleet:
    """The whole fleet; `entities` are in the order of their nodes."""

    seed: int
    scenario: str
    nodes: list[Node] = field(default_factory=list)
    entities: list[Entity] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)

    @property
    def partitions(self) -> int:
        """How many partitions there are; each has at least one node, so that none is ever silent for want of GPUs."""
        return min(PARTITIONS_MAX, len(self.nodes))

    def of_partition(self, partition: int) -> list[Entity]:
        """Return the entities whose nodes write to `partition`."""
        return [entity for entity in self.entities if entity.node.index % self.partitions == partition]


class Site(NamedTuple):
    """What the nodes of one block have in common."""

    role: str
    instance: InstanceType
    cluster: str
    region: str


def build_fleet(nodes: int, seed: int, scenario: str) -> Fleet:
    """Lay out a fleet. The first nodes hold the rings and the MIG boards; the rest is drawn by role, block by block."""
    fleet = Fleet(seed, scenario)
    while len(fleet.nodes) < nodes:
        index = len(fleet.nodes)
        rng = random.Random(f"{seed}/block/{index}")
        role = _role(index, rng)
        instance = _FIXED_INSTANCES.get(index) or rng.choice(INSTANCES[role])
        site = Site(role, instance, *(CLUSTERS[0] if rng.random() < 0.7 else CLUSTERS[1]))
        width = min(_width(role, index, rng), nodes - index)
        block = [_node(fleet, site, i) for i in range(index, index + width)]
        fleet.nodes.extend(block)
        _fill(fleet, role, block, rng)
    return fleet


def _role(index: int, rng: random.Random) -> str:
    if index < RING_NODES:
        return "ring"
    fixed = {MIG_NODE: "mig", MIG_NODE + 1: "inference", MIG_NODE + 2: "training"}
    if index in fixed:
        return fixed[index]
    return rng.choices(("training", "inference", "notebooks", "batch"), (50, 24, 12, 14))[0]


def _width(role: str, index: int, rng: random.Random) -> int:
    if role != "training":
        return 1
    return 2 if index == MIG_NODE + 2 else rng.choice((1, 2, 2, 4, 8))


def _node(fleet: Fleet, site: Site, index: int) -> Node:
    rng = random.Random(f"{fleet.seed}/node/{index}")
    address = f"ip-10-{32 + index // 65536}-{index // 256 % 256}-{index % 256}"
    return Node(
        index=index,
        name=f"{address}.{site.region}.compute.internal",
        cluster=site.cluster,
        region=site.region,
        instance=site.instance,
        capacity_type="spot" if rng.random() < (0.6 if site.role == "batch" else 0.08) else "on-demand",
        generation=2 if rng.random() < 0.4 else 1,
        exports_sm=fleet.scenario == "clean" or _exports_sm(index, rng),
        scrape_lag_ms=rng.randrange(900),
    )


def _exports_sm(index: int, rng: random.Random) -> bool:
    # However small the fleet is, some rings are seen with every column and one node without SM activity.
    return index < RING_NODES - 1 or (index != MIG_NODE + 1 and rng.random() < 0.75)


def _fill(fleet: Fleet, role: str, block: list[Node], rng: random.Random) -> None:
    if role == "training":
        _add_slot(fleet, "training", [(node, gpu) for node in block for gpu in range(GPUS_PER_NODE)])
        return
    node = block[0]
    first = 0
    if role == "mig":
        for gpu in range(MIG_GPUS):
            _add_mig_slots(fleet, node, gpu)
        first, role = MIG_GPUS, "notebooks"
    while first < GPUS_PER_NODE:
        kind, size = ("ring", RING_GPUS) if role == "ring" else (role, _SIZES[role][rng.randrange(4)])
        gpus = range(first, min(first + size, GPUS_PER_NODE))
        _add_slot(fleet, kind, [(node, gpu) for gpu in gpus])
        first = gpus.stop


def _add_slot(fleet: Fleet, kind: str, places: list[tuple[Node, int]]) -> None:
    index = len(fleet.slots)
    slot = Slot(index, kind, len(places), index)
    if kind == "ring":
        # Past the last ring slot the ring nodes serve inference.
        ring, position = divmod(index, RING_STATES)
        in_ring = ring < RINGS
        kind = kind if in_ring else "inference"
        slot = Slot(index, kind, len(places), index, ring=ring if in_ring else -1, position=position)
    fleet.slots.append(slot)
    for rank, (node, gpu) in enumerate(places):
        fleet.entities.append(_entity(fleet.seed, node, gpu, None, (index, rank)))


def _add_mig_slots(fleet: Fleet, node: Node, gpu: int) -> None:
    clock = len(fleet.slots)
    for mig in MIG_LAYOUT:
        index = len(fleet.slots)
        fleet.slots.append(Slot(index, "inference", 1, clock, mig=True))
        fleet.entities.append(_entity(fleet.seed, node, gpu, mig, (index, 0)))


def _entity(seed: int, node: Node, gpu: int, mig: MigSlice | None, place: tuple[int, int]) -> Entity:
    board = node.index * GPUS_PER_NODE + gpu
    number = random.Random(f"{seed}/uuid/{board}").getrandbits(128)
    return Entity(node, gpu, board, f"GPU-{UUID(int=number)}", mig, *place)
