"""Record batches as they lie in a Kafka log (format v2): fetched bytes → records, and what is corrupt named, not raised.

Why not the client's own reader: an exception while it unpacks kills its generator, after which `poll()` spins for
ever; and it decompresses without limit. Here nothing is raised, whatever the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crc32c import crc32c

from service.ingest.contract import Corrupt, Record
from service.ingest.kafka_codecs import BadCompression, expanded

HEADER = struct.Struct(">qiibIhiqqqhii")
PREFIX_BYTES = 12  # base offset and length, which the length does not count
CRC_FROM = 21  # the checksum covers everything after itself
RECORD_BYTES_MIN = 7  # seven fields of at least one byte: more records than this allows is a lie
VARINT_BITS_MAX = 70
CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
NO_PRODUCER = -1
ABORT = 0


class BadBatch(Exception):
    """The bytes are not what a batch must be; never leaves this module."""


class AbortedTransaction(NamedTuple):
    """A producer whose records from `first_offset` up to its next abort marker don't count."""

    producer_id: int
    first_offset: int


class Header(NamedTuple):
    """The fixed part of a batch, in the order of the bytes."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta


class BatchReader:
    """Reads the answer of one fetch of one partition, from `position` on, a few records at a time.

    `position` is where reading goes on; it also passes batches that yield nothing (control batches, aborted
    transactions, batches emptied by compaction). `end` is the high watermark, or None where it is unknown: no
    offset may lie beyond it. After something corrupt the rest is left for the next fetch, since a damaged length
    makes every later boundary a guess.
    """

    def __init__(self, fetched: bytes, position: int, aborted: Sequence[AbortedTransaction], end: int | None) -> None:
        self.position = position
        self.leader_epoch = -1
        self.done = False
        self._fetched = memoryview(fetched)
        self._at = 0
        self._end = end
        self._aborted = sorted(aborted, key=lambda each: each.first_offset, reverse=True)
        self._aborted_producers: set[int] = set()
        self._records: Iterator[Record] | None = None
        self._next_offset = position

    def read(self, records_max: int) -> list[Record | Corrupt]:
        """Return at most `records_max` items; a Corrupt is the last one there will be. `done` says that no more will come."""
        items: list[Record | Corrupt] = []
        while len(items) < records_max and not self.done:
            try:
                if self._records is None:
                    self._open_batch()
                else:
                    self._take(items, records_max)
            except BadBatch as error:
                items.append(self._corrupt(str(error)))
        return items

    def _take(self, items: list[Record | Corrupt], records_max: int) -> None:
        assert self._records is not None
        for record in self._records:
            self.position = record.offset + 1
            items.append(record)
            if len(items) >= records_max:
                return
        self._close_batch()

    def _close_batch(self) -> None:
        self._records = None
        self.position = self._next_offset

    def _corrupt(self, detail: str) -> Corrupt:
        first = self.position
        self.position = self._next_offset = max(self._next_offset, first + 1)
        self._records = None
        self.done = True
        return Corrupt(first, self.position, detail)

    def _open_batch(self) -> None:
        self._next_offset = self.position + 1
        left = len(self._fetched) - self._at
        if left < HEADER.size:
            self._end_here(left)
            return
        header = Header(*HEADER.unpack_from(self._fetched, self._at))
        self._check_offsets(header)
        size = PREFIX_BYTES + header.length
        if size < HEADER.size:
            raise BadBatch(f"batch length {header.length}: expected at least {HEADER.size - PREFIX_BYTES}")
        if size > left:
            self._end_here(left)
            return
        raw = self._fetched[self._at : self._at + size]
        self._at += size
        if crc32c(raw[CRC_FROM:]) != header.crc:
            raise BadBatch("checksum does not match")
        self.leader_epoch = header.leader_epoch
        if self._counts(header, raw):
            self._records = _records(_body(header, raw), header, self.position)
        else:
            self._close_batch()

    def _end_here(self, left: int) -> None:
        """Stop before an incomplete batch: the broker cuts its answer anywhere, but never within the first batch."""
        if left and not self._at:
            raise BadBatch(f"the first batch does not end within the {left} bytes fetched")
        self.done = True

    def _check_offsets(self, header: Header) -> None:
        """Learn where the batch ends, if that is to be believed: base offset and length are outside the checksum."""
        if header.magic != 2:
            raise BadBatch(f"record format v{header.magic}: expected v2")
        if header.base_offset < 0 or header.last_offset_delta < 0 or header.last_offset < self.position:
            raise BadBatch(
                f"offsets {header.base_offset} to {header.last_offset} in answer to a fetch at {self.position}"
            )
        if self._end is not None and header.last_offset >= self._end:
            raise BadBatch(f"last offset {header.last_offset} in a log that ends at {self._end}")
        self._next_offset = header.last_offset + 1

    def _counts(self, header: Header, raw: memoryview) -> bool:
        """Tell whether the batch holds records of ours: neither control records nor those of an aborted transaction."""
        if header.producer_id != NO_PRODUCER:
            while self._aborted and self._aborted[-1].first_offset <= header.last_offset:
                self._aborted_producers.add(self._aborted.pop().producer_id)
        if header.attributes & CONTROL:
            if _marks_abort(header, raw):
                self._aborted_producers.discard(header.producer_id)
            return False
        transactional = header.attributes & TRANSACTIONAL
        return not (transactional and header.producer_id in self._aborted_producers)


def _marks_abort(header: Header, raw: memoryview) -> bool:
    if not header.records:
        return False
    marker = next(_records(_body(header, raw), header, header.base_offset), None)
    if marker is None or marker.key is None or len(marker.key) < 4:
        raise BadBatch("control batch without a marker")
    return bool(struct.unpack_from(">hh", marker.key)[1] == ABORT)


def _body(header: Header, raw: memoryview) -> bytes:
    try:
        body = expanded(header.attributes & CODEC_MASK, bytes(raw[HEADER.size :]))
    except BadCompression as error:
        raise BadBatch(str(error)) from error
    if not 0 <= header.records * RECORD_BYTES_MIN <= len(body):
        raise BadBatch(f"{header.records} records in {len(body)} bytes")
    return body


def _records(body: bytes, header: Header, position: int) -> Iterator[Record]:
    """Yield the records at `position` and after; raise BadBatch at the first that breaks the structure."""
    append_time = header.attributes & LOG_APPEND_TIME
    at = 0
    previous = header.base_offset - 1
    for _ in range(header.records):
        try:
            length, start = _varint(body, at)
            timestamp_delta, at = _varint(body, start + 1)
            offset_delta, at = _varint(body, at)
            key, at = _bytes(body, at)
            value, at = _bytes(body, at)
            headers, at = _headers(body, at)
        except IndexError as error:
            raise BadBatch("a record ends after its batch") from error
        offset = header.base_offset + offset_delta
        if at != start + length or not previous < offset <= header.last_offset:
            raise BadBatch(f"a record of {length} bytes took {at - start}, or its offset {offset} is out of order")
        previous = offset
        if offset >= position:
            timestamp = header.max_timestamp if append_time else header.base_timestamp + timestamp_delta
            yield Record(offset, timestamp, key, value, headers)
    if at != len(body):
        raise BadBatch(f"{len(body) - at} bytes after the last record")


def _headers(body: bytes, at: int) -> tuple[Sequence[tuple[str, bytes]], int]:
    count, at = _varint(body, at)
    if count == 0:
        return (), at
    if not 0 < count <= len(body):
        raise BadBatch(f"{count} headers")
    headers = []
    for _ in range(count):
        key, at = _bytes(body, at)
        value, at = _bytes(body, at)
        headers.append(((key or b"").decode("utf-8", "replace"), value or b""))
    return headers, at


def _bytes(body: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(body, at)
    if length < 0:
        return None, at
    end = at + length
    if end > len(body):
        raise BadBatch(f"a field of {length} bytes where {len(body) - at} are left")
    return body[at:end], end


def _varint(body: bytes, at: int) -> tuple[int, int]:
    byte = body[at]
    at += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at
    number = byte & 0x7F
    for shift in range(7, VARINT_BITS_MAX, 7):
        byte = body[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
    raise BadBatch("a number longer than ten bytes")
