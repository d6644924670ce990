"""Entities: label sets become dense ids, and each id knows who held it when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.label_texts import labels_of
from detectors.labels import NOBODY, LabelSet, LabelSets
from detectors.numbers import Numbers
from detectors.roster import Roster
from detectors.state import Array, ArraySpec, Snapshot, StateArrays, text_array, texts_of, under
from kernels.presence import holder_confirm, presence_add, presence_read

PLACEMENT = tuple(LabelSet._fields.index(name) for name in (
    "cluster", "region", "node", "gpu", "uuid", "mig_id", "mig_profile", "model", "instance_type", "capacity_type",
))  # fmt: skip
ATTRIBUTION = tuple(LabelSet._fields.index(name) for name in ("namespace", "pod", "container", "job", "team"))


class Sighting(NamedTuple):
    """One label set under which an entity reported within a tick: first and last event time."""

    labels: LabelSet
    first_ns: int
    last_ns: int


class Presence:
    """The entities that have rows in a tick, and when: arrays over these entities, in order of id.

    entity int32[k]; first_ns, last_ns int64[k]; start int64[k + 1], where each one's rows begin in label_set int32[n] and
    time_ns int64[n], which are sorted by (entity, time).
    """

    def __init__(
        self,
        order: NDArray[np.int64],
        entity: NDArray[np.int32],
        label_set: NDArray[np.int32],
        time_ns: NDArray[np.int64],
    ) -> None:
        n = len(order)
        present, first_ns, last_ns = np.empty(n, np.int32), np.empty(n, np.int64), np.empty(n, np.int64)
        start, count = np.empty(n + 1, np.int64), np.zeros(1, np.int64)
        presence_read(order, entity, time_ns, present, first_ns, last_ns, start, count)
        k = int(count[0])
        self.entity, self.first_ns, self.last_ns, self.start = present[:k], first_ns[:k], last_ns[:k], start[: k + 1]
        self.label_set, self.time_ns = label_set[order], time_ns[order]

    def sightings(self, index: int, label_sets: LabelSets) -> list[Sighting]:
        """Return the label sets under which one of these entities reported."""
        times: dict[int, list[int]] = {}
        rows = slice(self.start[index], self.start[index + 1])
        for label_set, time_ns in zip(self.label_set[rows].tolist(), self.time_ns[rows].tolist(), strict=True):
            times.setdefault(label_set, []).append(time_ns)
        return [Sighting(label_sets[i], own[0], own[-1]) for i, own in times.items()]


class Entities:
    """GPUs and MIG instances of one worker. Ids are dense and given in order of keys within a tick, so data decides them.

    `holder_since_ns` is when the present holder appeared, `attributed_ns` when labels last named it; both 0 while nobody
    holds the entity. `sharers` counts holders named at the same instant (time-slicing); the first in order is the one
    shown. `present_since_ns` starts anew after each silence longer than stale_ns.
    """

    def __init__(self, entities_max: int, stale_ns: int, resume: Snapshot | None) -> None:
        self._entities_max = entities_max
        self._stale_ns = stale_ns
        times = ("present_since_ns", "last_seen_ns", "holder_since_ns", "attributed_ns")
        specs = {name: ArraySpec(np.int64, 0) for name in times}
        self.state = StateArrays(specs | {"sharers": ArraySpec(np.int32, 0)}, under("state.", resume))
        self.labels: Roster[LabelSet] = Roster()
        self.keys: Roster[str] = Roster()
        self._ids = Numbers(self.keys.plain(), np.empty(0, np.int32))
        self.clusters_with_holders: set[str] = set()
        self._clusters = {"": 0}  # a number for each cluster, so that held() need not look at names
        self._places = StateArrays({"cluster": ArraySpec(np.int32, 0)}, None)
        if resume is not None:
            self._know(labels_of(resume["labels"]))
            self.clusters_with_holders = {name for (name,) in texts_of(resume["clusters_with_holders"])}
            self._places.grow(len(self.labels))
            self._places["cluster"][:] = self._cluster_numbers(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def find(self, key: str) -> int | None:
        """Return the id of a known entity."""
        entity = self._ids.find(key)
        return entity if entity >= 0 else None

    def ids(self) -> Mapping[str, int]:
        """Return the ids of all entities by their keys."""
        return self._ids

    def _know(self, labels: list[LabelSet]) -> None:
        self.labels = Roster(labels)
        self.keys = Roster(known.entity_key() for known in labels)
        self._ids = Numbers(self.keys.plain(), np.arange(len(labels), dtype=np.int32))

    def _cluster_numbers(self, labels: Iterable[LabelSet]) -> list[int]:
        names = [of_entity.cluster for of_entity in labels]
        for name in dict.fromkeys(names):
            self._clusters.setdefault(name, len(self._clusters))
        return list(map(self._clusters.__getitem__, names))

    def admit(self, keys: Iterable[str]) -> set[str]:
        """Give ids to new entities in order of their keys; return the keys there was no room for.

        Nothing is known of them until `describe_new` or `describe` has seen the label sets of their first tick.
        """
        known = len(self.labels)
        fresh = sorted({key for key in keys if key not in self._ids})
        admitted = fresh[: max(self._entities_max - known, 0)]
        self.keys.extend(admitted)
        self._ids.add_last(len(admitted))
        self.labels.extend(repeat(NOBODY, len(admitted)))
        self.state.grow(len(self.labels))
        self._places.grow(len(self.labels))
        return set(fresh[len(admitted) :])

    def seen(self, presence: Presence) -> None:
        """Note the first and last row of entities in a tick."""
        state = [self.state[name] for name in ("present_since_ns", "last_seen_ns")]
        presence_add(presence.entity, presence.first_ns, presence.last_ns, self._stale_ns, *state)

    def confirm(
        self, presence: Presence, names_holder: NDArray[np.bool_], settled: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """Note who reports under the same labels as before: what `describe` would do, for many at once.

        names_holder bool[label sets]; settled int32[m, s] is updated, see the kernel. Returns int64: indices into
        `presence` of the others, which `describe` must see.
        """
        p = presence
        unsettled, count = np.empty(len(p.entity), np.int64), np.zeros(1, np.int64)
        rows = p.entity, p.last_ns, p.start, p.label_set, p.time_ns
        scratch = np.empty(settled.shape[1], np.int32), np.empty(settled.shape[1], np.int64)
        holder_confirm(*rows, names_holder, settled, self.state["attributed_ns"], *scratch, unsettled, count)
        return unsettled[: count[0]]

    def describe_new(
        self, presence: Presence, first: int, label_sets: LabelSets, names_holder: NDArray[np.bool_]
    ) -> NDArray[np.int32]:
        """Do for entities from `first` on, in their first tick, what `describe` would; return those that it must see.

        All but a few report under one label set, which then says everything about them.
        """
        p = presence
        own = np.arange(np.searchsorted(p.entity, first), len(p.entity))
        if not len(own):
            return p.entity[:0]
        begin = p.start[own] - p.start[own[0]]
        seen = p.label_set[p.start[own[0]] :]
        alone = np.minimum.reduceat(seen, begin) == np.maximum.reduceat(seen, begin)
        rest: NDArray[np.int32] = p.entity[own[~alone]]
        own = own[alone]
        entity, label_set = p.entity[own], p.label_set[p.start[own]]
        holds = names_holder[label_set]
        known_sets = label_sets.frozen()
        labels = [known_sets[i] for i in label_set.tolist()]
        for i in np.flatnonzero(~holds).tolist():
            if labels[i].container or labels[i].team:  # nobody's, as long as nobody is named
                labels[i] = labels[i]._replace(container="", team="")
        self.labels.put(entity.tolist(), labels)
        self._places["cluster"][entity] = self._cluster_numbers(labels)
        self.clusters_with_holders |= {labels[i].cluster for i in np.flatnonzero(holds).tolist()}
        held = own[holds]
        self.state["holder_since_ns"][p.entity[held]] = p.first_ns[held]
        self.state["attributed_ns"][p.entity[held]] = p.last_ns[held]
        self.state["sharers"][p.entity[held]] = 1
        return rest

    def describe(self, entity: int, sightings: Sequence[Sighting]) -> bool:
        """Take in the label sets of one tick; return whether the entity's labels changed.

        Placement: the newest word on each label counts, and silence takes nothing back. Attribution goes as a whole
        with the newest label set that names a holder; at the same instant the first in order stands for all who share.
        """
        known = list(self.labels[entity])
        for sighting in sorted(sightings, key=lambda s: (s.last_ns, s.labels)):
            for i in PLACEMENT:
                known[i] = sighting.labels[i] or known[i]
        holders = [s for s in sightings if s.labels.is_attributed()]
        if holders:
            newest = max(s.last_ns for s in holders)
            sharing = sorted({s.labels for s in holders if s.last_ns == newest})
            first_ns = min(s.first_ns for s in holders if s.labels == sharing[0])
            self._hold(entity, known, sharing[0], first_ns, newest)
            self.state["sharers"][entity] = len({labels[10:12] for labels in sharing})
        merged = LabelSet(*known)
        if merged == self.labels[entity]:
            return False
        # Mostly it is what was sent: one object then, of 160 bytes per GPU.
        self.labels[entity] = next((s.labels for s in sightings if s.labels == merged), merged)
        self._places["cluster"][entity] = self._cluster_numbers([self.labels[entity]])[0]
        return True

    def _hold(self, entity: int, known: list[str], holder: LabelSet, first_ns: int, last_ns: int) -> None:
        if [holder[i] for i in ATTRIBUTION] != [known[i] for i in ATTRIBUTION]:
            for i in ATTRIBUTION:
                known[i] = holder[i]
            self.state["holder_since_ns"][entity] = first_ns
        self.state["attributed_ns"][entity] = max(self.state["attributed_ns"][entity], last_ns)
        self.clusters_with_holders.add(known[0])

    def release(self, entities: NDArray[np.int64]) -> None:
        """Forget the holder: its labels are gone for too long, or the GPU is visibly empty."""
        for entity in entities.tolist():
            known = list(self.labels[entity])
            for i in ATTRIBUTION:
                known[i] = ""
            self.labels[entity] = LabelSet(*known)
        for name in ("holder_since_ns", "attributed_ns", "sharers"):
            self.state[name][entities] = 0

    def held(self) -> NDArray[np.bool_]:
        """Return bool[m]: somebody holds the entity. Where no holder was ever named in its cluster, all count as held."""
        held = self.state["attributed_ns"] > 0
        if held.all():
            return held
        unnamed = np.array([name not in self.clusters_with_holders for name in self._clusters], np.bool_)
        held |= unnamed[self._places["cluster"]]
        return held

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities, which get the ids 0.. in this order."""
        self._know([self.labels[entity] for entity in entities.tolist()])
        self.state.keep(entities)
        self._places.keep(entities)

    def snapshot(self) -> dict[str, Array]:
        """Return the state but for `labels`, which a checkpoint takes from its frozen copy."""
        clusters = text_array([name] for name in sorted(self.clusters_with_holders))
        return self.state.snapshot("state.") | {"clusters_with_holders": clusters}
