"""Raw labels that were seen before, with what they mean, so that a GPU's labels are resolved once and not per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.labels import LabelSet, LabelSets
from service.ingest.fields import FieldTable, Lookup
from service.ingest.label_columns import Columns, LabelColumns
from service.ingest.reading import MEASUREMENT

NO_GPU = -1  # in the place of a label set's id: these labels name no GPU
TOO_LONG = -4  # one of these labels is longer than a name may be
Pairs = tuple[tuple[str, str], ...]

_CACHE_MAX = 1 << 17  # labels come from outside: the memory they take is bounded
_CACHED_CHARS_MAX = 1 << 13  # of one set of raw labels


class KnownLabels:
    """Raw labels seen before, with the id of the label set that they mean and the metric names of their measurement."""

    def __init__(self, fields: FieldTable, label_sets: LabelSets, chars_max: int) -> None:
        self._fields = fields
        self._columns = LabelColumns(fields)
        self._chars_max = chars_max
        self._label_sets = label_sets
        self._known: dict[Pairs, dict[Pairs, tuple[int, Lookup]]] = {}
        self._size = 0

    def find(self, labels: Mapping[str, str], defaults: Pairs) -> tuple[int, Lookup]:
        """Return the label set's id, NO_GPU or TOO_LONG, and what metric names mean there."""
        pairs = tuple(labels.items())
        of_defaults = self._known.get(defaults)
        found = of_defaults.get(pairs) if of_defaults is not None else None
        return found if found is not None else self._learn(labels, pairs, defaults)

    def meant(self, labels: Mapping[str, str], defaults: Pairs) -> int:
        """Return the label set's id, NO_GPU or TOO_LONG, for those who remember it themselves."""
        return self._number(self._fields.label_set(labels, dict(defaults)))

    def meant_by_columns(self, measurement: str, names: Sequence[str], columns: Columns, defaults: Pairs) -> list[int]:
        """Return the same for many under one measurement: columns hold the values of the labels `names`."""
        meant = self._columns.label_sets(names, columns, {MEASUREMENT: measurement}, dict(defaults))
        if max(max(map(len, column)) for column in (*columns, *defaults)) > self._chars_max:
            return list(map(self._number, meant))
        intern = self._label_sets.intern
        return [intern(labels) if labels.is_gpu() else NO_GPU for labels in meant]

    def _number(self, meant: LabelSet) -> int:
        if max(map(len, meant)) > self._chars_max:
            return TOO_LONG
        return self._label_sets.intern(meant) if meant.is_gpu() else NO_GPU

    def forget(self, used: NDArray[np.bool_]) -> None:
        """Forget raw labels that mean none of the used label sets, bool[label sets]."""
        self._known = {
            defaults: {pairs: found for pairs, found in known.items() if found[0] >= 0 and used[found[0]]}
            for defaults, known in self._known.items()
        }
        self._size = sum(map(len, self._known.values()))

    def _learn(self, labels: Mapping[str, str], pairs: Pairs, defaults: Pairs) -> tuple[int, Lookup]:
        if self._size >= _CACHE_MAX:
            self._known = {}
            self._size = 0
        found = self.meant(labels, defaults), self._fields.lookup(labels.get(MEASUREMENT, ""))
        if sum(map(len, labels)) + sum(map(len, labels.values())) > _CACHED_CHARS_MAX:
            return found
        self._known.setdefault(defaults, {})[pairs] = found
        self._size += 1
        return found
