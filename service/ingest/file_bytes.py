"""The bytes of a file as far as they are written, unpacked where it is compressed."""

from __future__ import annotations

import os
import sys
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final, Protocol

import zstandard

# A piece of 4 KiB unpacks to at most 4 MiB of gzip or 128 MiB of zstd, whatever it claims: a bomb bursts small.
PACKED_PIECE_BYTES: Final = 4 << 10
PLAIN_PIECE_BYTES: Final = 256 << 10
ZSTD_WINDOW_BYTES_MAX: Final = 128 << 20
_MARKS: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Damaged(Exception):
    """What follows in the file cannot be read."""


class ByteStream(Protocol):
    """Bytes in order, read once."""

    def read(self) -> bytes:
        """Return some bytes; none means that there are no more for now. Raises Damaged."""
        ...

    def cut_off(self) -> bool:
        """Tell whether the bytes so far end in the middle of something compressed."""
        ...

    def change(self) -> str:
        """Return how the file changed other than by growing: "truncated", "replaced", or nothing."""
        ...

    def close(self) -> None:
        """Leave the file."""
        ...


class _Frame(Protocol):
    """What zlib's and zstandard's decompressors have in common: one gzip member, one zstd frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Unpacking(ABC):
    """Plain bytes, gzip (any number of members) or zstd (any number of frames), told by the first bytes."""

    def __init__(self) -> None:
        self._packing: str | None = None  # not known before the first bytes are there
        self._first = b""  # of them, while they may still become a mark of packing
        self._frame: _Frame | None = None
        self._spare = b""

    def read(self) -> bytes:
        while True:
            piece = self._piece()
            if self._packing is None:
                piece = self._recognised(piece)
            if not piece:
                return b""
            if not self._packing:
                return piece
            unpacked = self._unpack(piece)
            if unpacked:
                return unpacked

    def cut_off(self) -> bool:
        return self._frame is not None

    @abstractmethod
    def _fetch(self, bytes_max: int) -> bytes:
        """Return what comes next, as it is."""

    @abstractmethod
    def _may_come(self) -> bool:
        """Tell whether more may come right behind what was read."""

    def _recognised(self, piece: bytes) -> bytes:
        """Return the bytes from the beginning on, once it is clear how they are packed."""
        self._first += piece
        undecided = any(len(self._first) < len(mark) and mark.startswith(self._first) for mark in _MARKS)
        if not self._first or (undecided and self._may_come()):
            return b""
        self._packing = next((name for mark, name in _MARKS.items() if self._first.startswith(mark)), "")
        first, self._first = self._first, b""
        return first

    def _piece(self) -> bytes:
        if self._spare:
            piece, self._spare = self._spare, b""
            return piece
        return self._fetch(PLAIN_PIECE_BYTES if self._packing == "" else PACKED_PIECE_BYTES)

    def _unpack(self, piece: bytes) -> bytes:
        if self._frame is None:
            piece = piece.lstrip(b"\0") if self._packing == "gzip" else piece  # padding of tapes
            if not piece:
                return b""
            self._frame = _fresh_frame(self._packing)
        try:
            unpacked = self._frame.decompress(piece)
        except (zlib.error, zstandard.ZstdError) as error:
            raise Damaged(f"{self._packing} data damaged: {error}") from error
        if self._frame.eof:
            self._spare = self._frame.unused_data
            self._frame = None
        return unpacked


class FileBytes(_Unpacking):
    """A file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = path.open("rb", buffering=PLAIN_PIECE_BYTES)

    def change(self) -> str:
        opened = os.fstat(self._file.fileno())
        if opened.st_size < self._file.tell():
            return "truncated"
        try:
            present = self._path.stat()
        except FileNotFoundError:
            return ""
        same = (present.st_ino, present.st_dev) == (opened.st_ino, opened.st_dev)
        return "" if same else "replaced"

    def close(self) -> None:
        self._file.close()

    def _fetch(self, bytes_max: int) -> bytes:
        return self._file.read(bytes_max)

    def _may_come(self) -> bool:
        return False


class StdinBytes(_Unpacking):
    """Standard input, read without blocking where it is a pipe or a terminal."""

    def __init__(self, descriptor: int | None = None) -> None:
        super().__init__()
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        os.set_blocking(self._descriptor, False)
        self.closed = False

    def change(self) -> str:
        return ""

    def close(self) -> None:
        os.set_blocking(self._descriptor, True)

    def _fetch(self, bytes_max: int) -> bytes:
        try:
            piece = os.read(self._descriptor, bytes_max)
        except BlockingIOError:
            return b""
        self.closed = self.closed or not piece
        return piece

    def _may_come(self) -> bool:
        return not self.closed


def _fresh_frame(packing: str | None) -> _Frame:
    if packing == "gzip":
        return zlib.decompressobj(wbits=31)
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX).decompressobj()
