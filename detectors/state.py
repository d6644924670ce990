"""State that lies in arrays by entity: grown, thinned, copied out and resumed in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Snapshot = Mapping[str, Array]


class ArraySpec(NamedTuple):
    """One array of state: dtype, the value of a new entity, and the axes after the entity's."""

    dtype: DTypeLike
    fresh: float
    shape: tuple[int, ...] = ()


class StateArrays:
    """Named arrays with the entity id as first axis. Built fresh or from a snapshot, and only here."""

    def __init__(self, specs: Mapping[str, ArraySpec], resume: Snapshot | None) -> None:
        self._specs = dict(specs)
        self._arrays: dict[str, Array] = {}
        for name, spec in specs.items():
            if resume is None:
                self._arrays[name] = np.empty((0, *spec.shape), spec.dtype)
                continue
            saved = resume[name]
            if saved.dtype != np.dtype(spec.dtype) or saved.shape[1:] != spec.shape:
                raise ValueError(f"{name}: saved as {saved.dtype}{saved.shape}, expected {spec}")
            self._arrays[name] = saved.copy()

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def grow(self, entity_count: int) -> None:
        """Add fresh entities up to `entity_count`; those known keep their state."""
        for name, spec in self._specs.items():
            old = self._arrays[name]
            if len(old) < entity_count:
                fresh = np.full((entity_count - len(old), *spec.shape), spec.fresh, spec.dtype)
                self._arrays[name] = np.concatenate([old, fresh])

    def keep(self, entities: NDArray[np.int64]) -> None:
        """Keep only these entities, which get the ids 0.. in this order."""
        for name, old in self._arrays.items():
            self._arrays[name] = old[entities]

    def snapshot(self, prefix: str) -> dict[str, Array]:
        """Return copies of all arrays under prefixed names."""
        return {prefix + name: array.copy() for name, array in self._arrays.items()}


def under(prefix: str, snapshot: Snapshot | None) -> Snapshot | None:
    """Return the part of a snapshot that was taken under `prefix`, with the prefix taken off."""
    if snapshot is None:
        return None
    return {name[len(prefix) :]: array for name, array in snapshot.items() if name.startswith(prefix)}
