"""State that lies in arrays by entity: grown, thinned, copied out and resumed in one place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ROWS_AT_ONCE = 256  # 30 kB of labels or 250 kB of alerts: a millisecond or two

Array = NDArray[Any]
Snapshot = Mapping[str, Array]


class ArraySpec(NamedTuple):
    """One array of state: dtype, the value of a new entity (one for all axes, or an array), the axes after the entity's."""

    dtype: DTypeLike
    fresh: float | Array
    shape: tuple[int, ...] = ()


class Handed(dict[str, Array]):
    """A snapshot that nobody else has: whoever resumes from it may keep its arrays, where others are copied."""


class StateArrays:
    """Named arrays with an id as first axis, mostly the entity's. Built fresh or from a snapshot, and only here."""

    def __init__(self, specs: Mapping[str, ArraySpec], resume: Snapshot | None) -> None:
        self._specs = dict(specs)
        self._count = 0
        self._arrays: dict[str, Array] = {}
        # Each array is the front of one with room to spare, so that a fleet that arrives over many ticks is not copied
        # at every one of them.
        self._roomy: dict[str, Array] = {}
        for name, spec in specs.items():
            if resume is None:
                self._set(name, np.empty((0, *spec.shape), spec.dtype))
                continue
            saved = resume[name]
            if saved.dtype != np.dtype(spec.dtype) or saved.shape[1:] != spec.shape:
                raise ValueError(f"{name}: saved as {saved.dtype}{saved.shape}, expected {spec}")
            self._set(name, saved if isinstance(resume, Handed) else saved.copy())

    def _set(self, name: str, array: Array) -> None:
        self._roomy[name] = self._arrays[name] = array
        self._count = len(array)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def grow(self, count: int) -> None:
        """Add fresh entries up to `count`; those known keep their state, and stay where they are while there is room."""
        if count <= self._count:
            return
        for name, spec in self._specs.items():
            if len(self._roomy[name]) < count:
                roomy = np.empty((max(count, self._count * 3 // 2), *spec.shape), spec.dtype)
                roomy[: self._count] = self._arrays[name]
                self._roomy[name] = roomy
            self._roomy[name][self._count : count] = spec.fresh
            self._arrays[name] = self._roomy[name][:count]
        self._count = count

    def keep(self, ids: NDArray[np.int64]) -> None:
        """Keep only these, which get the ids 0.. in this order."""
        for name, old in list(self._arrays.items()):
            self._set(name, old[ids])

    def snapshot(self, prefix: str) -> dict[str, Array]:
        """Return the arrays themselves under prefixed names: a checkpoint reads them before anybody writes to them."""
        return {prefix + name: array for name, array in self._arrays.items()}


def under(prefix: str, snapshot: Snapshot | None) -> Snapshot | None:
    """Return the part of a snapshot that was taken under `prefix`, with the prefix taken off."""
    if snapshot is None:
        return None
    part = {name[len(prefix) :]: array for name, array in snapshot.items() if name.startswith(prefix)}
    return Handed(part) if isinstance(snapshot, Handed) else part


class Pieces(NamedTuple):
    """An array of one axis that never lies in memory whole: its dtype and, once, its bytes."""

    dtype: DTypeLike
    pieces: Iterable[bytes | memoryview]

    def joined(self) -> Array:
        """Return the array after all."""
        return np.frombuffer(b"".join(self.pieces), self.dtype)


def pieces_of(dtype: DTypeLike, arrays: Iterable[Array]) -> Pieces:
    """Return arrays of one axis as pieces of one, each made when it is its turn."""
    return Pieces(dtype, (np.ascontiguousarray(array, dtype).view(np.uint8).data for array in arrays))


def text_pieces(rows: Iterable[Any]) -> Pieces:
    """Return rows of texts as bytes, to be saved: a text array would give every cell the width of the longest.

    In pieces, since json.dumps lets no other thread run until it is through.
    """
    return Pieces(np.uint8, _texts(rows))


def _texts(rows: Iterable[Any]) -> Iterator[bytes]:
    left = iter(rows)
    before = b"["
    while piece := list(islice(left, _ROWS_AT_ONCE)):
        yield before + json.dumps(piece, sort_keys=True, separators=(",", ":"))[1:-1].encode()
        before = b","
    yield b"]" if before == b"," else b"[]"


def text_array(rows: Iterable[Any]) -> Array:
    """Return rows of texts as one array of bytes."""
    return text_pieces(rows).joined()


def texts_of(saved: Array) -> list[Any]:
    """Return the rows that `text_array` saved."""
    rows: list[Any] = json.loads(saved.tobytes())
    return rows
