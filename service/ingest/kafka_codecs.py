"""Decompression of record batches with a limit: the client's own decoders would expand 15 kB of zstd to 500 MB."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO

import cramjam
import lz4.frame
import zstandard

EXPANDED_BYTES_MAX = 64 << 20
XERIAL_MAGIC = b"\x82SNAPPY\x00"
XERIAL_HEADER_BYTES = 16
CODEC_NONE = 0


class BadCompression(Exception):
    """The bytes do not decompress, or to more than is allowed."""


def expanded(codec: int, packed: bytes, limit: int = EXPANDED_BYTES_MAX) -> bytes:
    """Return `packed` decompressed by the codec number of a batch's attributes. Raises BadCompression."""
    if codec == CODEC_NONE:
        return packed
    if codec not in _CODECS:
        raise BadCompression(f"codec {codec}: expected 0 to {max(_CODECS)}")
    name, decompress = _CODECS[codec]
    try:
        return decompress(packed, limit)
    except (
        zlib.error,
        zstandard.ZstdError,
        cramjam.DecompressionError,
        RuntimeError,  # what lz4 raises
        struct.error,
        EOFError,
        MemoryError,
    ) as error:
        raise BadCompression(f"{name}: {error}") from error


def _too_large(limit: int) -> BadCompression:
    return BadCompression(f"decompresses to more than {limit} bytes")


def _gzip(packed: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    plain = stream.decompress(packed, limit + 1)
    if len(plain) > limit:
        raise _too_large(limit)
    if not stream.eof:
        raise BadCompression("gzip: ends early")
    return plain


def _lz4(packed: bytes, limit: int) -> bytes:
    stream = lz4.frame.LZ4FrameDecompressor()
    plain: bytes = stream.decompress(packed, max_length=limit + 1)
    if len(plain) > limit:
        raise _too_large(limit)
    if not stream.eof:
        raise BadCompression("lz4: ends early")
    return plain


def _zstd(packed: bytes, limit: int) -> bytes:
    # The window is allocated up front, and its size is the sender's word.
    context = zstandard.ZstdDecompressor(max_window_size=EXPANDED_BYTES_MAX)
    with context.stream_reader(BytesIO(packed), read_across_frames=True) as stream:
        plain = stream.read(limit + 1)
    if len(plain) > limit:
        raise _too_large(limit)
    return plain


def _snappy(packed: bytes, limit: int) -> bytes:
    plain: list[bytes] = []
    size = 0
    for block in _xerial_blocks(packed) if packed.startswith(XERIAL_MAGIC) else (packed,):
        size += _snappy_length(block)
        if size > limit:
            raise _too_large(limit)
        plain.append(bytes(cramjam.snappy.decompress_raw(block)))
    return b"".join(plain)


def _xerial_blocks(packed: bytes) -> Iterator[bytes]:
    at = XERIAL_HEADER_BYTES
    while at < len(packed):
        (size,) = struct.unpack_from(">i", packed, at)
        at += 4
        if size <= 0 or at + size > len(packed):
            raise BadCompression(f"snappy: block of {size} bytes where {len(packed) - at} are left")
        yield packed[at : at + size]
        at += size


def _snappy_length(block: bytes) -> int:
    """Return the length that a block says it will have."""
    size = 0
    for i, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return size
    raise BadCompression("snappy: no length")


_CODECS: dict[int, tuple[str, Callable[[bytes, int], bytes]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _lz4),
    4: ("zstd", _zstd),
}
