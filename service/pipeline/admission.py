"""Which entity each label set stands for, and whether there is room for it: worked out once, then looked up by id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.entities import Entities
from detectors.labels import LabelSets
from detectors.state import Array, ArraySpec, StateArrays

# Who was refused once stays so until entities are forgotten: places are only claimed, never given back.
_UNASKED, _ADMITTED, _REFUSED = 0, 1, 2


class Admission:
    """Only label sets that were never seen cost Python; the rows of all others are one look into an array.

    A place is claimed when a row is taken in, and taken when its tick is closed: ids are given in order of keys within a
    tick, so that data decides them and not the order of arrival.
    """

    def __init__(self, entities: Entities, label_sets: LabelSets, entities_max: int) -> None:
        self._entities = entities
        self._label_sets = label_sets
        self._entities_max = entities_max
        self._known = StateArrays(
            {
                "entity": ArraySpec(np.int32, -1),
                "names_holder": ArraySpec(np.bool_, False),
                "room": ArraySpec(np.int8, _UNASKED),
            },
            None,
        )
        self._claimed: set[str] = set()

    def _by_label_set(self, name: str) -> Array:
        self._known.grow(len(self._label_sets))
        return self._known[name]

    def names_holder(self) -> NDArray[np.bool_]:
        """Return bool[label sets]: somebody is named as the holder; right for those that `admit` has seen."""
        names_holder: NDArray[np.bool_] = self._by_label_set("names_holder")
        return names_holder

    def recall(self, label_set: NDArray[np.int32]) -> None:
        """Learn under which label set each entity was known before this worker; int32[m] by entity."""
        labels = self._label_sets.frozen()
        self._by_label_set("entity")[label_set] = np.arange(len(label_set))
        self._known["names_holder"][label_set] = [labels[i].is_attributed() for i in label_set.tolist()]
        self._known["room"][label_set] = _ADMITTED

    def room(self, label_set: NDArray[np.int32], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell for each wanted row whether its GPU is known, or may still become so; the others claim no place."""
        known = self._by_label_set("room")
        room = known[label_set]
        if not room.all():
            asking = label_set[wanted & (room == _UNASKED)]
            # In order of rows: who comes first in the log has the last place, whatever numbers the label sets have.
            self._claim(known, asking[np.sort(np.unique(asking, return_index=True)[1])].tolist())
            room = known[label_set]
        admitted: NDArray[np.bool_] = room == _ADMITTED
        return admitted

    def _claim(self, room: Array, label_sets: list[int]) -> None:
        """Claim places for these label sets; note in `room` which of them have one."""
        known, claimed = self._entities.ids(), self._claimed
        left = self._entities_max - len(known) - len(claimed)
        for i in label_sets:
            key = self._label_sets[i].entity_key()
            if key in known or key in claimed:
                room[i] = _ADMITTED
            elif left > 0:
                room[i] = _ADMITTED
                claimed.add(key)
                left -= 1
            else:
                room[i] = _REFUSED

    def admit(self, label_set: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the entity of each row of a tick; new ones have the highest ids."""
        entity_of = self._by_label_set("entity")
        entity: NDArray[np.int32] = entity_of[label_set]
        if (entity >= 0).all():
            return entity
        unplaced = np.zeros(len(entity_of), np.bool_)
        unplaced[label_set[entity < 0]] = True
        fresh = np.flatnonzero(unplaced)
        known_sets = self._label_sets.frozen()
        labels = [known_sets[i] for i in fresh.tolist()]
        keys = [known.entity_key() for known in labels]
        refused = self._entities.admit(keys)
        assert not refused, "room was checked when the rows were taken in"
        ids = self._entities.ids()
        self._claimed.difference_update(keys)
        entity_of[fresh] = [ids[key] for key in keys]
        self._known["names_holder"][fresh] = [known.is_attributed() for known in labels]
        return entity_of[label_set]

    def keep(self, entities: NDArray[np.int64], before: int) -> None:
        """Follow the new ids of these entities, of `before` in all; the others' places are free again."""
        renamed = np.full(before + 1, -1, np.int32)  # the last for label sets without entity, which have -1
        renamed[entities] = np.arange(len(entities))
        entity_of = self._by_label_set("entity")
        entity_of[:] = renamed[entity_of]
        self._known["room"][:] = np.where(entity_of >= 0, _ADMITTED, _UNASKED)

    def forget(self, used: NDArray[np.bool_]) -> None:
        """Forget what is known of all but the used label sets, bool[label sets]: their ids will mean others."""
        for name, fresh in (("entity", -1), ("names_holder", False), ("room", _UNASKED)):
            self._by_label_set(name)[~used] = fresh

    def claim_for(self, waiting: NDArray[np.bool_]) -> None:
        """Claim places anew, for the label sets of all rows that wait and were accepted before, bool[label sets]."""
        entity_of = self._by_label_set("entity")[: len(waiting)]  # the decoder may have learned more meanwhile
        unplaced = np.flatnonzero(waiting & (entity_of < 0)).tolist()
        keys = {self._label_sets[i].entity_key() for i in unplaced}
        self._claimed = {key for key in keys if self._entities.find(key) is None}
