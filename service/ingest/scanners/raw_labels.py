"""Raw labels as they lie in records, each byte string with the label set that it means."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.interned import NEVER_SEEN, PARTS_MAX, slots_fill
from service.ingest.records import Records
from service.ingest.scanners.contract import Ask

ENTRIES_FIRST = 1 << 12
ENTRIES_MAX = 1 << 21  # labels come from outside: beyond this the table starts anew
WORDS_PER_ENTRY = 32  # room in the arena; an entry may take more while others take less
REFERENCE = -3  # what these labels mean, only the reference parser can tell

TableArrays = tuple[  # slot, entry_hash, entry_at, entry_words, entry_next, meaning, arena, used
    NDArray[np.int32],
    NDArray[np.uint64],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.uint64],
    NDArray[np.int64],
]


class RawLabels:
    """The table of kernels.interned. Doubles when room is short; one that may grow no further is emptied."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._seed = secrets.randbits(63)
        self.parts = np.zeros((PARTS_MAX, 3), np.int64)
        self._begin(min(ENTRIES_FIRST, entries_max))

    def _begin(self, capacity: int) -> None:
        self._slot = np.full(4 * capacity, -1, np.int32)
        self._hash = np.zeros(capacity, np.uint64)
        self._at = np.zeros(capacity, np.int32)
        self._words = np.zeros(capacity, np.int32)
        self._next = np.zeros(capacity, np.int32)
        self.meaning = np.full(capacity, NEVER_SEEN, np.int32)
        self._arena = np.zeros(capacity * WORDS_PER_ENTRY, np.uint64)
        self._used = np.zeros(4, np.int64)
        self._used[3] = self._seed
        slots_fill(self._hash, 0, self._slot)  # of nothing: compiled before the first record comes

    def __len__(self) -> int:
        return int(self._used[0])

    def arrays(self, more: int | None = None) -> TableArrays:
        """Return the state that a kernel takes, with room for so many more entries; by default, as there are already."""
        entries, words = self._used[:2].tolist()
        capacity = len(self._hash)
        wanted = entries + min(entries if more is None else more, self._entries_max)
        if wanted >= capacity or 2 * words >= len(self._arena):
            if capacity >= self._entries_max:
                self._begin(capacity)
            else:
                self._grow(min(max(2 * capacity, 1 << wanted.bit_length()), self._entries_max))
        return self._slot, self._hash, self._at, self._words, self._next, self.meaning, self._arena, self._used

    def _contents(self) -> list[NDArray[Any]]:
        return [self._hash, self._at, self._words, self._next, self.meaning, self._arena, self._used]

    def _grow(self, capacity: int) -> None:
        entries, words = self._used[:2].tolist()
        before = self._contents()
        self._begin(capacity)
        # What is not taken yet stays untouched: it costs no memory until then.
        for old, new, taken in zip(before, self._contents(), (*[entries] * 5, words, 4), strict=True):
            new[:taken] = old[:taken]
        slots_fill(self._hash, entries, self._slot)

    def contents(self, entry: NDArray[np.int32]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the words of these entries one after the other, and int64[entries + 1] where each begins."""
        words = self._words[entry].astype(np.int64)
        begin = np.concatenate([[0], np.cumsum(words)])
        place = np.arange(begin[-1]) + np.repeat(self._at[entry] - begin[:-1], words)
        return self._arena[place], begin


def resolve(
    labels: RawLabels,
    records: Records,
    record: NDArray[np.int32],
    entry: NDArray[np.int32],
    ask: Ask,
) -> NDArray[np.int32]:
    """Return the label set of each row, negative where only the reference can tell; asks it once for each new entry.

    record int32[r], ascending, the record of each row; entry int32[r], the entry of its labels. Entries whose meaning
    the caller has found are not asked about.
    """
    fresh = np.flatnonzero(labels.meaning[entry] == NEVER_SEEN)
    if len(fresh):
        _, first = np.unique(entry[fresh], return_index=True)
        rows = np.sort(fresh[first])
        begins, ends = (np.searchsorted(record, record[rows], side).tolist() for side in ("left", "right"))
        asked, samples = -1, None
        for row, begin, end in zip(rows.tolist(), begins, ends, strict=True):
            own = records[int(record[row])]
            if asked != begin:
                asked, samples = begin, ask.samples(own)
            whole = samples is not None and len(samples) == end - begin
            label_set = ask.label_set(own, samples[row - begin]) if whole and samples is not None else REFERENCE
            labels.meaning[entry[row]] = label_set if label_set >= 0 else REFERENCE
    return labels.meaning[entry]
