"""A snapshot as one file: arrays, what they are, checksum. No pickle: arrays are stored as their bytes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from detectors.state import Array, Pieces
from service.errors import CorruptState

Bytes = bytes | memoryview
Read = Callable[[str, Array], Iterable[Bytes]]
Late = Mapping[str, Array | Pieces]

MAGIC = b"SKFLINT2"
_END = struct.Struct("<QI")  # bytes of the index before it, checksum of all before that


def whole(name: str, array: Array) -> Iterable[Bytes]:
    """Return the bytes of an array in one piece."""
    return (np.ascontiguousarray(array).reshape(-1).view(np.uint8).data,)


def _nothing() -> Late:
    return {}


def _in_order(made: Callable[[], Late]) -> Iterator[tuple[str, Array | Pieces]]:
    """Yield arrays by name; they are made when the first is wanted."""
    arrays = made()
    for name in sorted(arrays):
        yield name, arrays[name]


def encode(
    arrays: Mapping[str, Array],
    extras: Mapping[str, Any],
    read: Read = whole,
    late: Callable[[], Late] = _nothing,
) -> Iterator[Bytes]:
    """Yield the file's bytes in pieces, so that it never lies in memory: the same content gives the same bytes.

    The arrays that `late` returns are made when the others have been read, and their index comes last: whoever waits for
    the arrays to be read need not wait for those.
    """
    crc = 0
    index: list[list[Any]] = []

    def pieces() -> Iterator[Bytes]:
        yield MAGIC
        for name, array in chain(_in_order(lambda: arrays), _in_order(late)):
            if not isinstance(array, Pieces):
                index.append([name, array.dtype.str, list(array.shape)])
                yield from read(name, array)
                continue
            size = 0
            for piece in array.pieces:
                size += len(piece)
                yield piece
            kind = np.dtype(array.dtype)
            index.append([name, kind.str, [size // kind.itemsize]])
        yield json.dumps({"extras": extras, "arrays": index}, sort_keys=True, separators=(",", ":")).encode()

    size = 0
    for piece in pieces():
        crc = crc32c(piece, crc)
        size = len(piece)
        yield piece
    yield _END.pack(size, crc32c(size.to_bytes(8, "little"), crc))


def decode(content: bytes, where: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return arrays and extras, or raise CorruptState: a single wrong bit is found."""
    if len(content) < len(MAGIC) + _END.size:
        raise CorruptState(f"{where}: {len(content)} bytes, too short for a snapshot")
    body, (size, crc) = memoryview(content)[: -_END.size], _END.unpack(content[-_END.size :])
    magic = bytes(body[: len(MAGIC)])
    if magic != MAGIC:
        raise CorruptState(f"{where}: written by another version ({magic!r}), this one reads {MAGIC!r}")
    if crc32c(size.to_bytes(8, "little"), crc32c(body)) != crc:
        raise CorruptState(f"{where}: checksum does not match")
    index = json.loads(bytes(body[len(body) - size :]))
    arrays: dict[str, Array] = {}
    position = len(MAGIC)
    for name, dtype, shape in index["arrays"]:
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(body, kind, count, position) if count else np.empty(0, kind)
        arrays[name] = flat.reshape(shape)
        position += count * kind.itemsize
    return arrays, index["extras"]


def write_durably(path: Path, pieces: Iterable[Bytes]) -> None:
    """Write a file that is there whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_suffix(".tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
