"""The places of items in a list: what a dict would tell, in a sixth of its memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=Hashable)

_SLOTS_FIRST = 1 << 10


class Numbers(Mapping[T, int]):
    """Tells at which place of `items`, its owner's list, an item stands, of those places that it was told of.

    A table of places by hash, at most half full: eight to sixteen bytes an item, where a dict and the numbers in it, which
    are objects, take seventy. Hashes of texts have a seed of their own in each process, so that names that all fall into
    one slot can't be made up.
    """

    def __init__(self, items: list[T], places: NDArray[np.int32]) -> None:
        self._items = items
        self._count = 0
        self._fill(places)

    def _fill(self, places: NDArray[np.int32], room: int = 0) -> None:
        """Begin anew with these places. All look for a free slot at once: of several that meet, one gets it."""
        self._count = len(places)
        slots = max(_SLOTS_FIRST, 1 << (2 * max(self._count, room)).bit_length())
        self._mask = slots - 1
        table = np.full(slots, -1, np.int32)
        left = places
        slot = np.fromiter((hash(self._items[i]) for i in places.tolist()), np.int64, len(places)) & self._mask
        while len(left):
            free = table[slot] < 0
            table[slot[free]] = left[free]
            lost = table[slot] != left
            left, slot = left[lost], (slot[lost] + 1) & self._mask
        self._slots = table.data  # which gives a number in a third of an array's time

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return (self._items[place] for place in self.places().tolist())

    def __getitem__(self, item: T) -> int:
        place = self.find(item)
        if place < 0:
            raise KeyError(item)
        return place

    def __contains__(self, item: object) -> bool:
        return self.find(item) >= 0

    def find(self, item: object) -> int:
        """Return the place of an item, -1 if it is not known."""
        slots, items, mask = self._slots, self._items, self._mask
        slot = hash(item) & mask
        while (place := slots[slot]) >= 0:
            if items[place] == item:
                break
            slot = (slot + 1) & mask
        return place

    def places(self) -> NDArray[np.int32]:
        """Return all places, in order."""
        table = np.asarray(self._slots)
        return np.sort(table[table >= 0])

    def claim(self, item: T, place: int) -> int:
        """Return the place of an item; one that is not known gets this one, and is put there by its owner."""
        if 2 * self._count >= self._mask:
            self._fill(self.places(), self._count + 1)
        slots, items, mask = self._slots, self._items, self._mask
        slot = hash(item) & mask
        while (known := slots[slot]) >= 0:
            if items[known] == item:
                return known
            slot = (slot + 1) & mask
        slots[slot] = place
        self._count += 1
        return place

    def add_last(self, count: int) -> None:
        """Learn of the last places of the list; their items are none of those known, and differ."""
        last = range(len(self._items) - count, len(self._items))
        if count > self._count >> 4:
            self._fill(np.concatenate([self.places(), np.array(last, np.int32)]))
            return
        for place in last:
            self.claim(self._items[place], place)
