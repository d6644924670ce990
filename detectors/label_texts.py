"""Label sets as saved bytes: blocks of columns, since most labels of neighbours are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, repeat

import numpy as np

from detectors.labels import LabelSet
from detectors.state import Array, Pieces

BLOCK = 1024  # a millisecond to write, during which no other thread runs

_UNSHARED = LabelSet._fields.index("uuid")  # each is found once
_made = partial(tuple.__new__, LabelSet)  # _make is a function of Python's, and takes twice as long


def label_pieces(labels: Iterable[LabelSet]) -> Pieces:
    """Return label sets as bytes, to be saved: a line of JSON for each block.

    A block is its length, and for each field its distinct values and, where there are several, the index of each row's.
    """
    return Pieces(np.uint8, _lines(labels))


def _lines(labels: Iterable[LabelSet]) -> Iterator[bytes]:
    left = iter(labels)
    while rows := list(islice(left, BLOCK)):
        block = len(rows), list(map(_packed, zip(*rows, strict=True)))
        yield json.dumps(block, separators=(",", ":")).encode() + b"\n"


def _packed(column: Sequence[str]) -> list[list[str] | list[int]]:
    distinct = dict.fromkeys(column)
    if len(distinct) in (1, len(column)):
        return [list(distinct)]
    index = {text: i for i, text in enumerate(distinct)}
    return [list(distinct), list(map(index.__getitem__, column))]


def labels_of(saved: Array) -> list[LabelSet]:
    """Return the label sets that `label_pieces` gave; equal texts are one object."""
    shared: dict[str, str] = {}
    found: list[LabelSet] = []
    for line in saved.tobytes().splitlines():
        count, fields = json.loads(line)
        columns = [_unpacked(count, packed, shared if k != _UNSHARED else None) for k, packed in enumerate(fields)]
        found.extend(map(_made, zip(*columns, strict=True)))
    return found


def _unpacked(count: int, packed: Sequence[list[str]], shared: dict[str, str] | None) -> Iterable[str]:
    texts = packed[0] if shared is None else list(map(shared.setdefault, packed[0], packed[0]))
    if len(packed) == 2:
        return map(texts.__getitem__, packed[1])  # type: ignore[arg-type]
    return repeat(texts[0], count) if len(texts) == 1 else texts
