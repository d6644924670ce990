"""Records: consecutive records of one log as one stretch of bytes and where each part lies, with no object per record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from kernels.log import HEADERS, HEADERS_END, KEY, VALUE, VALUE_END
from kernels.words import PADDING
from service.ingest.contract import Record

SPAN_COLUMNS = 6


class RecordBlock(NamedTuple):
    """Records inside one buffer, of whose bytes [begin, end) are theirs, with PADDING after them.

    offset, timestamp_ms int64[n]; span int32[n, 6], places in the buffer, as kernels.log gives them.
    """

    data: NDArray[np.uint8]
    begin: int
    end: int
    offset: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    span: NDArray[np.int32]

    def part(self, first: int, end: int) -> RecordBlock:
        """Return the records [first, end) of the same bytes."""
        return self._replace(
            offset=self.offset[first:end], timestamp_ms=self.timestamp_ms[first:end], span=self.span[first:end]
        )

    def size(self) -> int:
        """Return how many bytes the records have, about."""
        if not len(self.span):
            return 0
        return int(self.span[-1, HEADERS_END]) - int(self.span[0, HEADERS_END]) + self._first_size()

    def _first_size(self) -> int:
        places = self.span[0]
        return int(places[HEADERS_END]) - int(places[places >= 0].min())


class Records(Sequence[Record]):
    """Blocks put together: kernels read the arrays, everybody else sees a sequence of Record, each made when asked for.

    data uint8[…] has PADDING bytes after the last record; offset, timestamp_ms int64[n]; span int32[n, 6].
    """

    __slots__ = ("data", "offset", "span", "timestamp_ms")

    def __init__(self, blocks: Sequence[RecordBlock]) -> None:
        self.offset = _joined([block.offset for block in blocks], np.empty(0, np.int64))
        self.timestamp_ms = _joined([block.timestamp_ms for block in blocks], np.empty(0, np.int64))
        if len({id(block.data) for block in blocks}) > 1:
            blocks = _moved_together(blocks)
        self.data = blocks[0].data if blocks else np.zeros(PADDING, np.uint8)
        self.span = _joined([block.span for block in blocks], np.empty((0, SPAN_COLUMNS), np.int32))

    @classmethod
    def of(cls, records: Sequence[Record]) -> Records:
        """Return the records themselves if they lie in arrays already, else put them there."""
        return records if isinstance(records, Records) else cls([block_of(records)])

    def __len__(self) -> int:
        return len(self.offset)

    def value_bytes(self) -> int:
        """Return how many bytes the values have in all."""
        present = self.span[self.span[:, VALUE] >= 0]
        return int((present[:, VALUE_END] - present[:, VALUE]).sum())

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        span = self.span[index].tolist()
        return Record(
            int(self.offset[index]),
            int(self.timestamp_ms[index]),
            self._part(span, KEY),
            self._part(span, VALUE),
            _headers(self._part(span, HEADERS) or b""),
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def _part(self, span: Sequence[int], part: int) -> bytes | None:
        return None if span[part] < 0 else self.data[span[part] : span[part + 1]].tobytes()


def _joined(parts: Sequence[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate([empty, *parts])


def _moved_together(blocks: Sequence[RecordBlock]) -> list[RecordBlock]:
    """Return the blocks in one buffer of their own."""
    data = np.zeros(sum(block.end - block.begin for block in blocks) + PADDING, np.uint8)
    at = 0
    moved = []
    for block in blocks:
        data[at : at + block.end - block.begin] = block.data[block.begin : block.end]
        span = np.where(block.span < 0, block.span, block.span + (at - block.begin)).astype(np.int32)
        moved.append(RecordBlock(data, at, at + block.end - block.begin, block.offset, block.timestamp_ms, span))
        at += block.end - block.begin
    return moved


def block_of(records: Sequence[Record]) -> RecordBlock:
    """Return the records in a buffer of their own."""
    parts: list[bytes | None] = list(
        chain.from_iterable((record.key, record.value, _headers_bytes(record.headers)) for record in records)
    )
    sizes = np.fromiter((len(part or b"") for part in parts), np.int64, len(parts))
    ends = np.cumsum(sizes)
    span = np.stack([ends - sizes, ends], axis=1).astype(np.int32)
    missing = np.fromiter((part is None for part in parts), np.bool_, len(parts))
    span[missing, 0] = -1
    # Writable, as the buffers of the Kafka source are: kernels are compiled anew for arrays that are not.
    text = bytearray().join([*(part or b"" for part in parts), bytes(PADDING)])
    return RecordBlock(
        np.frombuffer(text, np.uint8),
        0,
        len(text) - PADDING,
        np.fromiter((record.offset for record in records), np.int64, len(records)),
        np.fromiter((record.timestamp_ms for record in records), np.int64, len(records)),
        span.reshape(-1, SPAN_COLUMNS),
    )


def _headers(text: bytes) -> Sequence[tuple[str, bytes]]:
    """Read headers as they lie in a record, without their count; the walk has proved that they are whole."""
    found = []
    at = 0
    while at < len(text):
        key, at = _field(text, at)
        value, at = _field(text, at)
        found.append((key.decode("utf-8", "replace"), value))
    return found or ()


def _field(text: bytes, at: int) -> tuple[bytes, int]:
    number = shift = 0
    while True:
        byte = text[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    size = max((number >> 1) ^ -(number & 1), 0)
    return text[at : at + size], at + size


def _headers_bytes(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Write headers as they lie in a record, without their count."""
    return b"".join(_sized(part) for name, value in headers for part in (name.encode(), value))


def _sized(part: bytes) -> bytes:
    number = len(part) << 1
    size = bytearray()
    while number >= 0x80:
        size.append(number & 0x7F | 0x80)
        number >>= 7
    size.append(number)
    return bytes(size) + part
