"""A list by entity of which readers get frozen copies, at the cost of what has changed since the last one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # a changed label costs a copy of so many references, a frozen million of GPUs a thousand blocks

T = TypeVar("T")


class Blocks(Sequence[T]):
    """An immutable sequence, as tuples of BLOCK items; those that did not change are shared with earlier ones."""

    def __init__(self, parts: Iterable[tuple[T, ...]]) -> None:
        self.parts = tuple(parts)
        self._count = sum(map(len, self.parts))

    @classmethod
    def of(cls, items: Iterable[T]) -> Blocks[T]:
        """Return these items as blocks; blocks as they are."""
        return items if isinstance(items, Blocks) else Roster(items).frozen()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self.parts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self.parts[index // BLOCK][index % BLOCK]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blocks) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def codes(self) -> tuple[tuple[T, ...], NDArray[np.int64]]:
        """Distinct items in order of appearance, and int64[m] the index of each one among them."""
        known: dict[T, int] = {}
        code = np.fromiter((known.setdefault(item, len(known)) for item in self), np.int64, self._count)
        return tuple(known), code


class Roster(Generic[T]):
    """A list that only grows or changes in place, with frozen copies of it."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = list(items)
        self._parts: list[tuple[T, ...]] = []
        self._stale = set(range(-(-len(self._items) // BLOCK)))
        self._frozen: Blocks[T] = Blocks(())

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __setitem__(self, index: int, item: T) -> None:
        if self._items[index] is not item:
            self._items[index] = item
            self._stale.add(index // BLOCK)

    def plain(self) -> list[T]:
        """Return the list itself, to be read only: it goes along with every change."""
        return self._items

    def extend(self, items: Iterable[T]) -> None:
        """Add items at the end."""
        before = len(self._items)
        self._items.extend(items)
        self._stale.update(range(before // BLOCK, -(-len(self._items) // BLOCK)))

    def put(self, indices: Iterable[int], items: Iterable[T]) -> None:
        """Set many items."""
        own, stale = self._items, self._stale
        for index, item in zip(indices, items, strict=True):
            if own[index] is not item:
                own[index] = item
                stale.add(index // BLOCK)

    def frozen(self) -> Blocks[T]:
        """Return the present items; the same object as last time when nothing has changed."""
        if self._stale:
            for number in sorted(self._stale):
                part = tuple(self._items[number * BLOCK : (number + 1) * BLOCK])
                self._parts[number : number + 1] = [part]
            self._stale.clear()
            self._frozen = Blocks(self._parts)
        return self._frozen
