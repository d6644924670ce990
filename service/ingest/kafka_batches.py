"""Record batches as they lie in a Kafka log (format v2): fetched bytes → records, and what is corrupt named, not raised.

Why not the client's own reader: an exception while it unpacks kills its generator, after which `poll()` spins for
ever; and it decompresses without limit. Here nothing is raised, whatever the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from crc32c import crc32c

from kernels.log import BAD_FIELD, BAD_HEADERS, ENDS_EARLY, LEFT_OVER, OVERLONG, WHOLE, WRONG_SIZE, records_walk
from service.ingest.contract import Corrupt
from service.ingest.kafka_buffers import Buffers
from service.ingest.kafka_codecs import BadCompression
from service.ingest.records import SPAN_COLUMNS, RecordBlock, Records

HEADER = struct.Struct(">qiibIhiqqqhii")
PREFIX_BYTES = 12  # base offset and length, which the length does not count
CRC_FROM = 21  # the checksum covers everything after itself
RECORD_BYTES_MIN = 7  # seven fields of at least one byte: more records than this allows is a lie
TAKEN_BYTES_MAX = 8 << 20  # expanded at once, over several batches: what a record limit does not bound
CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
NO_PRODUCER = -1
ABORT = 0

_TROUBLE = {
    ENDS_EARLY: "a record ends after its batch",
    OVERLONG: "a number longer than ten bytes",
    WRONG_SIZE: "a record is not as long as it says, or its offset is out of order",
    BAD_FIELD: "a field ends after its batch",
    BAD_HEADERS: "an impossible number of headers",
    LEFT_OVER: "bytes are left after the last record",
}


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


class _OpenBatch(NamedTuple):
    """A batch that is being handed over: what was found in it, what ended the walk, how much is taken already."""

    block: RecordBlock
    trouble: int
    taken: int = 0


class BatchReader:
    """Reads the answer of one fetch of one partition, from `position` on, a few records at a time.

    `position` is where reading goes on; it also passes batches that yield nothing (control batches, aborted
    transactions, batches emptied by compaction). `end` is the high watermark, or None where it is unknown: no
    offset may lie beyond it. After something corrupt the rest is left for the next fetch, since a damaged length
    makes every later boundary a guess.
    """

    def __init__(
        self,
        fetched: bytes,
        position: int,
        aborted: Sequence[AbortedTransaction],
        end: int | None,
        buffers: Buffers,
    ) -> None:
        self.position = position
        self.leader_epoch = -1
        self.done = False
        self._fetched = memoryview(fetched)
        self._at = 0
        self._end = end
        self._buffers = buffers
        self._aborted = sorted(aborted, key=lambda each: each.first_offset, reverse=True)
        self._aborted_producers: set[int] = set()
        self._open: _OpenBatch | None = None
        self._next_offset = position

    def read(self, records_max: int) -> list[RecordBlock | Corrupt]:
        """Return blocks of at most `records_max` records in all; a Corrupt is the last item there will be.

        `done` says that no more will come.
        """
        items: list[RecordBlock | Corrupt] = []
        left = records_max
        bytes_left = TAKEN_BYTES_MAX
        while left > 0 and bytes_left > 0 and not self.done:
            try:
                if self._open is None:
                    self._open_batch()
                    continue
                if items and isinstance(items[-1], RecordBlock) and items[-1].data is not self._open.block.data:
                    break  # another buffer: what lies in two would have to be copied
                block = self._take(self._open, left)
            except BadBatch as error:
                items.append(self._corrupt(str(error)))
                break
            if block is not None:
                items.append(block)
                left -= len(block.offset)
                bytes_left -= block.size()
        return items

    def _take(self, batch: _OpenBatch, records_max: int) -> RecordBlock | None:
        """Return the next records of the open batch, None after the last; raise what ended it early."""
        if batch.taken == len(batch.block.offset):
            if batch.trouble != WHOLE:
                raise BadBatch(_TROUBLE[batch.trouble])
            self._close_batch()
            return None
        part = batch.block.part(batch.taken, batch.taken + records_max)
        self._open = batch._replace(taken=batch.taken + len(part.offset))
        self.position = int(part.offset[-1]) + 1
        return part

    def _close_batch(self) -> None:
        self._open = None
        self.position = self._next_offset

    def _corrupt(self, detail: str) -> Corrupt:
        first = self.position
        self.position = self._next_offset = max(self._next_offset, first + 1)
        self._open = None
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
            self._open = self._walked(header, raw, self.position)
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
            if self._marks_abort(header, raw):
                self._aborted_producers.discard(header.producer_id)
            return False
        transactional = header.attributes & TRANSACTIONAL
        return not (transactional and header.producer_id in self._aborted_producers)

    def _marks_abort(self, header: Header, raw: memoryview) -> bool:
        if not header.records:
            return False
        marker = Records([self._walked(header, raw, header.base_offset).block.part(0, 1)])
        key = marker[0].key if len(marker) else None
        if key is None or len(key) < 4:
            raise BadBatch("control batch without a marker")
        return bool(struct.unpack_from(">hh", key)[1] == ABORT)

    def _walked(self, header: Header, raw: memoryview, position: int) -> _OpenBatch:
        """Expand the batch and find its records at `position` and after, up to the first that breaks the structure."""
        try:
            data, begin, body_end = self._buffers.expand(header.attributes & CODEC_MASK, raw[HEADER.size :])
        except BadCompression as error:
            raise BadBatch(str(error)) from error
        count = header.records
        if not 0 <= count * RECORD_BYTES_MIN <= body_end - begin:
            raise BadBatch(f"{count} records in {body_end - begin} bytes")
        offset, timestamp_ms = np.empty(count, np.int64), np.empty(count, np.int64)
        span = np.empty((count, SPAN_COLUMNS), np.int32)
        end = np.empty(2, np.int64)
        records_walk(
            data,
            begin,
            body_end,
            header.base_offset,
            header.last_offset,
            position,
            header.base_timestamp,
            header.max_timestamp if header.attributes & LOG_APPEND_TIME else -1,
            offset,
            timestamp_ms,
            span,
            end,
        )
        found, trouble = end.tolist()
        block = RecordBlock(data, begin, body_end, offset[:found], timestamp_ms[:found], span[:found])
        return _OpenBatch(block, trouble)
