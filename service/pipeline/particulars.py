"""Particulars: what the labels of each entity mean in owners, money and power."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from detectors.entities import Entities
from detectors.labels import LabelSet
from detectors.roster import Roster
from detectors.state import Array, ArraySpec, StateArrays
from service.alerting.lifecycle import Subject
from service.pipeline.directory import NO_ENTRY, Directory, Entry

COLUMNS = ("usd_per_hour", "idle_watts", "limit_watts")


class Particulars:
    """The directory's entry of every entity, its owner, and its figures as columns; made anew from labels, never saved."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.entries: list[Entry] = []
        self.owners: Roster[str] = Roster()
        self._columns = StateArrays({name: ArraySpec(np.float64, np.nan) for name in COLUMNS}, None)

    def column(self, name: str) -> Array:
        """Return a figure of all entities, float64[m], NaN where it is not known."""
        return self._columns[name]

    def grow(self, count: int) -> None:
        """Make room for new entities."""
        new = count - len(self.entries)
        self.entries.extend(repeat(NO_ENTRY, new))
        self.owners.extend(repeat(NO_ENTRY.owner, new))
        self._columns.grow(count)

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities, which get the ids 0.. in this order."""
        self.entries = [self.entries[entity] for entity in entities.tolist()]
        self.owners = Roster(self.owners[entity] for entity in entities.tolist())
        self._columns.keep(entities)

    def learn(self, entities: Sequence[int], at: NDArray[np.int64] | slice, labels: Iterable[LabelSet]) -> list[str]:
        """Look up what these entities' labels mean, `at` being their places as an index; return their owners."""
        distinct, code = self._directory.look_up_all(labels)
        entries = list(map(distinct.__getitem__, code.tolist()))
        owners = [entry.owner for entry in entries]
        for entity, entry in zip(entities, entries, strict=True):
            self.entries[entity] = entry
        self.owners.put(entities, owners)
        for name in COLUMNS:
            self._columns[name][at] = np.array([getattr(entry, name) for entry in distinct], np.float64)[code]
        return owners


class Subjects(dict[int, Subject]):
    """Subjects made on demand: only alerts that open need one."""

    def __init__(self, entities: Entities, entries: list[Entry]) -> None:
        super().__init__()
        self._entities = entities
        self._entries = entries

    def __missing__(self, entity: int) -> Subject:
        labels = self._entities.labels[entity]
        return Subject(labels.entity_key(), labels, self._entries[entity].owner)
