"""Raw labels as they lie in records, each byte string with the label set that it means."""

from __future__ import annotations

import secrets
from struct import unpack_from

import numpy as np
from numpy.typing import NDArray

from kernels.interned import NEVER_SEEN, PARTS_MAX, slots_fill
from service.ingest.records import Records
from service.ingest.scanners.contract import Ask

ENTRIES_FIRST = 1 << 12
ENTRIES_MAX = 1 << 21  # labels come from outside: beyond this the table starts anew
WORDS_PER_ENTRY = 32  # room in the arena; an entry may take more while others take less
_MOVED_AT_ONCE = 1 << 14  # entries, so that moving a table takes little room beside it
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
    """The table of kernels.interned. Grows by half when room is short; one that may grow no further is emptied."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._seed = secrets.randbits(63)
        self.parts = np.zeros((PARTS_MAX, 3), np.int64)
        self.emptied = 0  # how often: numbers of entries noted before mean nothing then
        self._begin(min(ENTRIES_FIRST, entries_max))

    def _begin(self, capacity: int) -> None:
        self._slot = np.full(1 << (2 * capacity).bit_length(), -1, np.int32)
        self._hash = np.zeros(capacity, np.uint64)
        self._at = np.zeros(capacity, np.int32)
        self._words = np.zeros(capacity, np.int32)
        self._next = np.zeros(capacity, np.int32)
        self.meaning = np.full(capacity, NEVER_SEEN, np.int32)
        self._arena = np.zeros(capacity * WORDS_PER_ENTRY, np.uint64)
        self._used = np.zeros(5, np.int64)
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
                self.clear()
            else:
                self._grow(min(max(capacity * 3 // 2, wanted + 1), self._entries_max))
        return self._slot, self._hash, self._at, self._words, self._next, self.meaning, self._arena, self._used

    def made_room(self) -> bool:
        """Tell whether room was short when the table was last used, and there is more now."""
        short, self._used[4] = self._used[4] > 0, 0
        capacity = len(self._hash)
        if not short or capacity >= self._entries_max:
            return False
        self._grow(min(2 * capacity, self._entries_max))
        return True

    def contents(self, entry: NDArray[np.int32]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the words of these entries one after the other, and int64[entries + 1] where each begins."""
        words = self._words[entry].astype(np.int64)
        begin = np.concatenate([[0], np.cumsum(words)])
        place = np.arange(begin[-1]) + np.repeat(self._at[entry] - begin[:-1], words)
        return self._arena[place], begin

    def parts_of(self, entry: int) -> list[tuple[int, bytes]]:
        """Return the parts of one entry, key and bytes of each."""
        at, words = int(self._at[entry]), int(self._words[entry])
        content = self._arena[at : at + words].tobytes()
        parts: list[tuple[int, bytes]] = []
        begin = 0
        while begin < len(content):
            size, key = unpack_from("<II", content, begin)
            parts.append((key, content[begin + 8 : begin + 8 + size]))
            begin += 8 + (size + 7) // 8 * 8
        return parts

    def clear(self) -> None:
        """Forget everything."""
        self._begin(len(self._hash))
        self.emptied += 1

    def forget(self, used: NDArray[np.bool_]) -> None:
        """Drop the entries whose label set is not used, and those that mean none; used bool[label sets]."""
        meaning = self.meaning[: len(self)]
        known = meaning >= 0
        known[known] = used[meaning[known]]
        self._rebuild(np.flatnonzero(known), len(self._hash))

    def _grow(self, capacity: int) -> None:
        self._rebuild(np.arange(len(self)), capacity)

    def _rebuild(self, kept: NDArray[np.int64], capacity: int) -> None:
        """Begin anew with these entries, which get the numbers 0.. in this order.

        Only what is taken of the arrays is written to: the rest of an arena costs no memory until it is used.
        """
        before = self._hash, self.meaning, self._at, self._words, self._next, self._arena, int(self._used[2])
        hash_, meaning, at, size, next_, arena, last = before
        number = np.zeros(len(hash_), np.int32)  # what comes next is a guess: the first in the place of what is gone
        number[kept] = np.arange(len(kept))
        self._begin(capacity)
        words = 0
        for first in range(0, len(kept), _MOVED_AT_ONCE):
            own = kept[first : first + _MOVED_AT_ONCE]
            to = slice(first, first + len(own))
            end = words + np.cumsum(size[own], dtype=np.int64)
            self._at[to] = end - size[own]
            self._words[to], self._hash[to], self.meaning[to] = size[own], hash_[own], meaning[own]
            self._next[to] = number[next_[own]]
            from_ = np.repeat(at[own] - self._at[to], size[own]) + np.arange(words, end[-1])
            self._arena[words : end[-1]] = arena[from_]
            words = int(end[-1])
        self._used[:3] = len(kept), words, number[last]
        slots_fill(self._hash, len(kept), self._slot)


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
