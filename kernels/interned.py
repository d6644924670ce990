"""A table of byte strings seen before: raw labels as they lie in records, each with a dense number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.words import MIX, head_of, inline, mixed, routine, word_at

PARTS_MAX = 48
NEVER_SEEN = -2  # what a new entry means is not known yet


@inline
def words_of(size):
    """Return how many words `size` bytes take."""
    return (size + 7) >> 3


@inline
def part_hash(data, hash_, key, first, end):
    """Return a hash that has taken in one part: its key, its size and its bytes."""
    size = end - first
    hash_ = mixed(hash_, np.uint64(key) << np.uint64(32) | np.uint64(size))
    at = first
    while at + 8 <= end:
        hash_ = mixed(hash_, word_at(data, at))
        at += 8
    if at < end:
        hash_ = mixed(hash_, head_of(word_at(data, at), end - at))
    return hash_


@inline
def parts_hash(data, parts, count, seed):
    """Return the hash of `count` parts; parts int64[PARTS_MAX, 3]: key, first byte, end."""
    hash_ = MIX ^ np.uint64(seed)
    for k in range(count):
        hash_ = part_hash(data, hash_, parts[k, 0], parts[k, 1], parts[k, 2])
    return hash_


@inline
def bytes_equal(data, first, end, arena, at):
    """Tell whether data[first:end] is what lies in the arena from word `at` on, four words at a time."""
    while first + 32 <= end:
        differ = arena[at] ^ word_at(data, first)
        differ |= arena[at + 1] ^ word_at(data, first + 8)
        differ |= arena[at + 2] ^ word_at(data, first + 16)
        differ |= arena[at + 3] ^ word_at(data, first + 24)
        if differ != np.uint64(0):
            return False
        first += 32
        at += 4
    while first + 8 <= end:
        if arena[at] != word_at(data, first):
            return False
        first += 8
        at += 1
    return first >= end or arena[at] == head_of(word_at(data, first), end - first)


@inline
def parts_equal(data, parts, count, arena, at, words):
    """Tell whether the parts are what lies in arena[at : at + words]."""
    end_words = at + words
    for k in range(count):
        first, end = parts[k, 1], parts[k, 2]
        size = end - first
        if at + 1 + words_of(size) > end_words:
            return False
        if arena[at] != np.uint64(parts[k, 0]) << np.uint64(32) | np.uint64(size):
            return False
        if not bytes_equal(data, first, end, arena, at + 1):
            return False
        at += 1 + words_of(size)
    return at == end_words


@routine
def parts_number(data, parts, count, slot, entry_hash, entry_at, entry_words, entry_next, meaning, arena, used):
    """Return the number of an entry, a new one if these parts were never seen, -1 if there is no room for it.

    Agents report in the same order every time, so the entry that followed the last one before is tried first.

    State: slot int32[power of two], -1 empty, at most half of it taken; entry_hash uint64[e], entry_at, entry_words,
    entry_next int32[e], meaning int32[e] (NEVER_SEEN for a new entry); arena uint64[a]; used int64[5]: entries, words of
    the arena, the last entry, a seed that nobody outside knows (names that all fall into one slot can't be made up), and
    how many entries found no room.
    """
    last = used[2]
    guess = np.int64(entry_next[last])
    if guess < used[0] and parts_equal(
        data, parts, count, arena, np.int64(entry_at[guess]), np.int64(entry_words[guess])
    ):
        used[2] = guess
        return guess
    hash_ = parts_hash(data, parts, count, used[3])
    mask = np.uint64(slot.size - 1)
    place = hash_ & mask
    while True:
        entry = slot[place]
        if entry < 0:
            break
        if entry_hash[entry] == hash_ and parts_equal(
            data, parts, count, arena, np.int64(entry_at[entry]), np.int64(entry_words[entry])
        ):
            entry_next[last] = entry
            used[2] = entry
            return np.int64(entry)
        place = (place + np.uint64(1)) & mask
    words = np.int64(0)
    for k in range(count):
        words += 1 + words_of(parts[k, 2] - parts[k, 1])
    number, at = used[0], used[1]
    if number >= entry_hash.size or at + words > arena.size:
        used[4] += 1
        return np.int64(-1)
    slot[place] = number
    entry_hash[number] = hash_
    entry_at[number] = at
    entry_words[number] = words
    meaning[number] = NEVER_SEEN
    for k in range(count):
        first, end = parts[k, 1], parts[k, 2]
        arena[at] = np.uint64(parts[k, 0]) << np.uint64(32) | np.uint64(end - first)
        at += 1
        while first < end:
            arena[at] = head_of(word_at(data, first), min(end - first, 8))
            first += 8
            at += 1
    used[0] = number + 1
    used[1] = at
    used[2] = entry_next[last] = number
    return number


@kernel
def slots_fill(entry_hash: NDArray[np.uint64], count: int, out_slot: NDArray[np.int32]) -> None:
    """Put entries into a table of another size.

    Rows        entry_hash uint64[e], of which `count` are taken
    Output      out_slot int32[power of two, more than twice count], -1 everywhere before
    """
    mask = np.uint64(out_slot.size - 1)
    for entry in range(count):
        place = entry_hash[entry] & mask
        while out_slot[place] >= 0:
            place = (place + np.uint64(1)) & mask
        out_slot[place] = entry
