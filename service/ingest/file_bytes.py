"""The bytes of a file as far as they are written, unpacked where it is compressed."""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path
from typing import Final, Protocol

import zstandard

# A piece of 4 KiB unpacks to at most 4 MiB of gzip or 128 MiB of zstd, whatever it claims: a bomb bursts small.
PACKED_PIECE_BYTES: Final = 4 << 10
PLAIN_PIECE_BYTES: Final = 256 << 10
ZSTD_WINDOW_BYTES_MAX: Final = 128 << 20


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


class FileBytes:
    """A file: plain, gzip (any number of members) or zstd (any number of frames), told by its first bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=PLAIN_PIECE_BYTES)
        self._packing: str | None = None  # not known before the first byte is there
        self._frame: _Frame | None = None
        self._spare = b""

    def read(self) -> bytes:
        while True:
            piece = self._piece()
            if not piece:
                return b""
            if self._packing is None:
                self._packing = _packing(piece)
            if not self._packing:
                return piece
            unpacked = self._unpack(piece)
            if unpacked:
                return unpacked

    def cut_off(self) -> bool:
        return self._frame is not None

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

    def _piece(self) -> bytes:
        if self._spare:
            piece, self._spare = self._spare, b""
            return piece
        return self._file.read(PLAIN_PIECE_BYTES if self._packing == "" else PACKED_PIECE_BYTES)

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


class StdinBytes:
    """Standard input, read without blocking where it is a pipe or a terminal."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        os.set_blocking(self._descriptor, False)
        self.closed = False

    def read(self) -> bytes:
        try:
            piece = os.read(self._descriptor, PLAIN_PIECE_BYTES)
        except BlockingIOError:
            return b""
        self.closed = self.closed or not piece
        return piece

    def cut_off(self) -> bool:
        return False

    def change(self) -> str:
        return ""

    def close(self) -> None:
        os.set_blocking(self._descriptor, True)


def _packing(first: bytes) -> str:
    """Return how the file is packed; empty for not at all."""
    if first.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zstd" if first.startswith(b"\x28\xb5\x2f\xfd") else ""


def _fresh_frame(packing: str | None) -> _Frame:
    if packing == "gzip":
        return zlib.decompressobj(wbits=31)
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX).decompressobj()
