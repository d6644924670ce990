"""A snapshot as one file: header, arrays, checksum. No pickle: arrays are stored as their bytes."""

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

from detectors.state import Array
from service.errors import CorruptState

Bytes = bytes | memoryview
Read = Callable[[str, Array], Iterable[Bytes]]

MAGIC = b"SKFLINT1"
_PREFIX = struct.Struct("<8sQ")  # magic, bytes of the header
_CRC = struct.Struct("<I")


def whole(name: str, array: Array) -> Iterable[Bytes]:
    """Return the bytes of an array in one piece."""
    return (np.ascontiguousarray(array).reshape(-1).view(np.uint8).data,)


def encode(arrays: Mapping[str, Array], extras: Mapping[str, Any], read: Read = whole) -> Iterator[Bytes]:
    """Yield the file's bytes in pieces, so that it never lies in memory: the same content gives the same bytes."""
    header = {
        "extras": extras,
        "arrays": [[name, arrays[name].dtype.str, list(arrays[name].shape)] for name in sorted(arrays)],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    crc = 0
    head: list[Bytes] = [_PREFIX.pack(MAGIC, len(text)), text]
    for piece in chain(head, *(read(name, arrays[name]) for name in sorted(arrays))):
        crc = crc32c(piece, crc)
        yield piece
    yield _CRC.pack(crc)


def decode(content: bytes, where: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return arrays and extras, or raise CorruptState: a single wrong bit is found."""
    if len(content) < _PREFIX.size + _CRC.size:
        raise CorruptState(f"{where}: {len(content)} bytes, too short for a snapshot")
    body, (crc,) = memoryview(content)[: -_CRC.size], _CRC.unpack(content[-_CRC.size :])
    if crc32c(body) != crc:
        raise CorruptState(f"{where}: checksum does not match")
    magic, header_bytes = _PREFIX.unpack_from(body)
    if magic != MAGIC:
        raise CorruptState(f"{where}: written by another version ({magic!r}), this one reads {MAGIC!r}")
    position = _PREFIX.size + header_bytes
    header = json.loads(bytes(body[_PREFIX.size : position]))
    arrays: dict[str, Array] = {}
    for name, dtype, shape in header["arrays"]:
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(body, kind, count, position) if count else np.empty(0, kind)
        arrays[name] = flat.reshape(shape)
        position += count * kind.itemsize
    return arrays, header["extras"]


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
