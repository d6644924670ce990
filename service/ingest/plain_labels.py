"""Labels of native JSON as they lie in the table of raw labels, read column by column where they are plain."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.text import QUOTE

_NULL = np.uint64(int.from_bytes(b"null", "little"))
_TEXT, _WHOLE, _ABSENT = 0, 1, 2
_WHOLE_DIGITS_MAX = 15


class PlainGroup(NamedTuple):
    """Entries with the same keys: entry int64[n], their places; columns hold the text of each key's value."""

    entry: NDArray[np.int64]
    keys: tuple[int, ...]
    columns: list[list[str]]


def plain_groups(
    words: NDArray[np.uint64], begin: NDArray[np.int64], suspects: AbstractSet[str]
) -> Iterator[PlainGroup]:
    """Yield the entries whose labels are printable ASCII without escapes, or whole numbers; null is no label.

    words uint64[w], begin int64[n + 1] as RawLabels.contents gives them. Every other entry is left out, and those that
    have one of `suspects` as a value.
    """
    if not len(words):
        return
    shape, start, size = _layout(words, begin)
    text = words.tobytes().decode("latin-1")
    for entry in _alike(shape):
        kinds = [int(code) for code in shape[entry[0]] if code >= 0]
        keys = [code >> 2 for code in kinds if code & 3 != _ABSENT]
        columns, plain = [], np.ones(len(entry), np.bool_)
        for k, code in enumerate(kinds):
            if code & 3 == _ABSENT:
                continue
            quote = 1 if code & 3 == _TEXT else 0
            first = (start[entry, k] + quote).tolist()
            end = (start[entry, k] + size[entry, k] - quote).tolist()
            column = [text[a:b] for a, b in zip(first, end, strict=True)]
            plain &= _plain(column, bool(quote), suspects)
            columns.append(column)
        if plain.all():
            yield PlainGroup(entry, tuple(keys), columns)
        elif plain.any():
            kept = np.flatnonzero(plain)
            yield PlainGroup(entry[kept], tuple(keys), [[column[i] for i in kept.tolist()] for column in columns])


def _layout(
    words: NDArray[np.uint64], begin: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return int64[n, parts] each: 4 * key + kind of a part, -1 where there are no more; its first byte; its size."""
    data = words.view(np.uint8)
    at, end = begin[:-1].copy(), begin[1:]
    shapes, starts, sizes = [], [], []
    while (going := at < end).any():
        head = words[np.where(going, at, 0)]
        key, size = (head >> np.uint64(32)).astype(np.int64), (head & np.uint64(0xFFFFFFFF)).astype(np.int64)
        first = np.minimum(at + 1, len(words) - 1)
        kind = np.where(data[8 * first] == QUOTE, _TEXT, _WHOLE)
        kind[(size == 4) & (words[first] == _NULL)] = _ABSENT
        shapes.append(np.where(going, 4 * key + kind, -1))
        starts.append(8 * first)
        sizes.append(size)
        at = np.where(going, at + 1 + (size + 7) // 8, at)
    return np.stack(shapes, axis=1), np.stack(starts, axis=1), np.stack(sizes, axis=1)


def _alike(shape: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the places of equal rows, together; nearly always all are."""
    if (shape == shape[0]).all():
        return [np.arange(len(shape))]
    _, group = np.unique(shape, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group.ravel()[order])) + 1)


def _plain(column: list[str], is_text: bool, suspects: AbstractSet[str]) -> NDArray[np.bool_]:
    """Tell which values are what they look like."""
    if not is_text:
        return np.array(list(map(_is_whole, column)), np.bool_)
    whole = "".join(column)
    if whole.isascii() and whole.isprintable() and all(column) and suspects.isdisjoint(column):
        return np.ones(len(column), np.bool_)
    usual = [text.isascii() and text.isprintable() and text not in suspects and text != "" for text in column]
    return np.array(usual, np.bool_)


def _is_whole(text: str) -> bool:
    canonical = text == "0" or not text.startswith("0")
    return text.isascii() and text.isdigit() and len(text) <= _WHOLE_DIGITS_MAX and canonical
