"""A snapshot as one file: arrays, what they are, checksum. No pickle: arrays are stored as their bytes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from crc32c import crc32c

from detectors.state import Array, Handed, Pieces
from service.errors import CorruptState

Bytes = bytes | memoryview
Read = Callable[[str, Array], Iterable[Bytes]]
Late = Mapping[str, Array | Pieces]

MAGIC = b"SKFLINT2"
_PIECE_BYTES = 1 << 18  # read at once: stays in the cache until its checksum is taken
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


def decode(file: BinaryIO, where: str) -> tuple[Handed, dict[str, Any]]:
    """Return arrays and extras, or raise CorruptState: a single wrong bit is found.

    The file is read twice, to be checked and into arrays of their own, so that it never lies in memory beside them.
    """
    end = file.seek(0, os.SEEK_END) - _END.size
    if end < len(MAGIC):
        raise CorruptState(f"{where}: {end + _END.size} bytes, too short for a snapshot")
    file.seek(0)
    if (magic := file.read(len(MAGIC))) != MAGIC:
        raise CorruptState(f"{where}: written by another version ({magic!r}), this one reads {MAGIC!r}")
    file.seek(end)
    size, crc = _END.unpack(file.read(_END.size))
    file.seek(0)
    if crc32c(size.to_bytes(8, "little"), _checksum(file, end)) != crc:
        raise CorruptState(f"{where}: checksum does not match")
    file.seek(end - size)
    index = json.loads(file.read(size))
    file.seek(len(MAGIC))
    arrays = Handed()
    for name, dtype, shape in index["arrays"]:
        arrays[name] = np.empty(shape, dtype)
        file.readinto(arrays[name].reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
    return arrays, index["extras"]


def _checksum(file: BinaryIO, size: int) -> int:
    """Return the checksum of the next `size` bytes."""
    crc = 0
    while size > 0 and (piece := file.read(min(size, _PIECE_BYTES))):
        crc = crc32c(piece, crc)
        size -= len(piece)
    return crc


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
