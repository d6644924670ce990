"""Decompression of record batches into bytes that are there already, and never beyond them.

The client's own decoders would expand 15 kB of zstd to 500 MB; and memory that is fresh for every batch costs several times
what lz4 does, in page faults.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

import cramjam
import zstandard

EXPANDED_BYTES_MAX = 64 << 20
XERIAL_MAGIC = b"\x82SNAPPY\x00"
XERIAL_HEADER_BYTES = 16
CODEC_NONE = 0


class BadCompression(Exception):
    """The bytes do not decompress, or to more than there is room for."""


def expand(codec: int, packed: memoryview, out: memoryview) -> int:
    """Decompress by the codec number of a batch's attributes; return how many bytes of `out` that filled.

    Raises BadCompression, after which `out` may hold anything.
    """
    if codec == CODEC_NONE:
        return _copy(packed, out)
    if codec not in _CODECS:
        raise BadCompression(f"codec {codec}: expected 0 to {max(_CODECS)}")
    name, decompress = _CODECS[codec]
    try:
        return decompress(packed, out)
    except (
        zlib.error,
        zstandard.ZstdError,
        cramjam.DecompressionError,
        struct.error,
        EOFError,
        MemoryError,
    ) as error:
        raise BadCompression(f"{name}: {error}") from error


def _too_large(room: int) -> BadCompression:
    return BadCompression(f"decompresses to more than {room} bytes")


def _copy(plain: bytes | memoryview, out: memoryview) -> int:
    if len(plain) > len(out):
        raise _too_large(len(out))
    out[: len(plain)] = plain
    return len(plain)


def _gzip(packed: memoryview, out: memoryview) -> int:
    stream = zlib.decompressobj(wbits=31)
    plain = stream.decompress(packed, len(out) + 1)
    size = _copy(plain, out)
    if not stream.eof:
        raise BadCompression("gzip: ends early")
    return size


def _lz4(packed: memoryview, out: memoryview) -> int:
    try:
        return int(cramjam.lz4.decompress_into(packed, out))
    except cramjam.DecompressionError as error:
        if "whole buffer" in str(error):
            raise _too_large(len(out)) from error
        raise


def _zstd(packed: memoryview, out: memoryview) -> int:
    # The window is allocated up front, and its size is the sender's word.
    context = zstandard.ZstdDecompressor(max_window_size=EXPANDED_BYTES_MAX)
    size = 0
    with context.stream_reader(packed, read_across_frames=True) as stream:
        while size < len(out):
            read = stream.readinto(out[size:])
            if read == 0:
                return size
            size += read
        if stream.read(1):
            raise _too_large(len(out))
    return size


def _snappy(packed: memoryview, out: memoryview) -> int:
    size = 0
    for block in _xerial_blocks(packed) if packed[: len(XERIAL_MAGIC)] == XERIAL_MAGIC else (packed,):
        length = _snappy_length(block)
        if length > len(out) - size:
            raise _too_large(len(out))
        size += int(cramjam.snappy.decompress_raw_into(block, out[size : size + length])) if length else 0
    return size


def _xerial_blocks(packed: memoryview) -> Iterator[memoryview]:
    at = XERIAL_HEADER_BYTES
    while at < len(packed):
        (size,) = struct.unpack_from(">i", packed, at)
        at += 4
        if size <= 0 or at + size > len(packed):
            raise BadCompression(f"snappy: block of {size} bytes where {len(packed) - at} are left")
        yield packed[at : at + size]
        at += size


def _snappy_length(block: memoryview) -> int:
    """Return the length that a block says it will have."""
    size = 0
    for i, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return size
    raise BadCompression("snappy: no length")


_CODECS: dict[int, tuple[str, Callable[[memoryview, memoryview], int]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _lz4),
    4: ("zstd", _zstd),
}
