"""Refusals: rows that were decoded but cannot be used, and the letters of a batch that they and all else bad end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detectors.batch import EventBatch
from kernels.log import VALUE, VALUE_END
from service.ingest.contract import CORRUPT_BATCH, ENTITIES_MAX, LATE, MALFORMED, REASONS, RecordBatch
from service.ingest.decode import Decoded
from service.ingest.letters import Letters
from service.ingest.records import Records

assert LATE < ENTITIES_MAX, "a record refused for both is late: _by_record takes the lowest"


@dataclass(frozen=True, slots=True)
class Refusals:
    """Rows of a batch that are late or whose GPU there is no room for: row int64[n], ascending; reason int8[n] of REASONS."""

    row: NDArray[np.int64]
    reason: NDArray[np.int8]
    entities_max: int

    @classmethod
    def of(cls, late: NDArray[np.bool_], room: NDArray[np.bool_], entities_max: int) -> Self:
        """Return the rows that are late or have no room; what is late claims none."""
        row = np.flatnonzero(late | ~room)
        return cls(row, np.where(late[row], LATE, ENTITIES_MAX).astype(np.int8), entities_max)

    def __len__(self) -> int:
        return len(self.row)

    def details(self, among: NDArray[np.int64], batch: EventBatch) -> list[str]:
        """Return in words why these of the rows were refused."""
        no_room = f"fleet.entities_max {self.entities_max} reached"
        times_ns = batch.event_time_ns[self.row[among]].tolist()
        return [
            f"event time {time_ns} ns is behind the watermark" if reason == LATE else no_room
            for time_ns, reason in zip(times_ns, self.reason[among].tolist(), strict=True)
        ]


class _ByRecord(NamedTuple):
    """Refusals put together by record: its index, how many of its rows, the reason, and which refusal stands for it."""

    record: NDArray[np.int64]
    rows: NDArray[np.int64]
    reason: NDArray[np.int8]
    first: NDArray[np.int64]
    left_none: int  # records of which no row was accepted


def _by_record(refusals: Refusals, rows: EventBatch, records: Records) -> _ByRecord:
    offsets = rows.offset[refusals.row]
    starts = np.flatnonzero(np.diff(offsets, prepend=-1))
    offset = offsets[starts]
    refused = np.diff(starts, append=len(offsets))
    # The lowest pair of reason and index, of each record.
    pairs = refusals.reason.astype(np.int64) << 32 | np.arange(len(offsets))
    lowest = np.minimum.reduceat(pairs, starts) if len(starts) else pairs
    decoded = np.searchsorted(rows.offset, offset, "right") - np.searchsorted(rows.offset, offset)
    return _ByRecord(
        np.searchsorted(records.offset, offset),
        refused,
        (lowest >> 32).astype(np.int8),
        lowest & 0xFFFF_FFFF,
        int(np.count_nonzero(refused == decoded)),
    )


def letters_of(batch: RecordBatch, decoded: Decoded, refusals: Refusals) -> tuple[Letters, int]:
    """Return a letter for all that had to be left out, by offset, the unreadable before a record.

    Also returns how many records, read well, had no row that was accepted.
    """
    refused = _by_record(refusals, decoded.batch, decoded.records)
    bad = np.array([each.record for each in decoded.rejected], np.int64)
    index = np.union1d(bad, refused.record) if len(bad) else refused.record
    samples, reason = np.zeros(len(index), np.int64), np.empty(len(index), np.int8)
    details = [""] * len(index)
    at = np.searchsorted(index, refused.record)
    samples[at], reason[at] = refused.rows, refused.reason
    for i, detail in zip(at.tolist(), refusals.details(refused.first, decoded.batch), strict=True):
        details[i] = detail
    # What was wrong when the record was read stands before what became of its rows.
    for i, each in zip(np.searchsorted(index, bad).tolist(), decoded.rejected, strict=True):
        samples[i] += each.samples
        reason[i], details[i] = REASONS.index(each.reason), each.detail
    records = decoded.records
    letters = Letters(
        batch.topic,
        batch.partition,
        len(records),
        index,
        records.offset[index],
        reason,
        samples,
        records.timestamp_ms[index],
        details,
        _values(records, index),
    )
    lost = _lost(batch)
    return (_with_lost(letters, lost, records.offset) if lost else letters), refused.left_none


def _values(records: Records, index: NDArray[np.int64]) -> list[memoryview | None]:
    data = records.data.data
    span = records.span[index]
    places = zip(span[:, VALUE].tolist(), span[:, VALUE_END].tolist(), strict=True)
    return [None if begin < 0 else data[begin:end] for begin, end in places]


class _Lost(NamedTuple):
    """Something in the log that is no record: bytes without an offset, or offsets that could not be read."""

    offset: int
    reason: int
    detail: str
    records: int
    value: bytes | None


def _lost(batch: RecordBatch) -> list[_Lost]:
    found = [
        _Lost(
            first,
            CORRUPT_BATCH,
            f"offsets {first} to {next_offset - 1}: {detail}",
            next_offset - first,
            None,
        )
        for first, next_offset, detail in batch.corrupt
    ]
    found += [_Lost(each.offset, MALFORMED, each.detail, 1, each.value) for each in batch.unplaced]
    return sorted(found, key=lambda each: each.offset)


def _with_lost(letters: Letters, lost: Sequence[_Lost], record_offset: NDArray[np.int64]) -> Letters:
    """Return both, by offset; `record_offset` is that of every record, among which the lost ones are counted."""
    offset = np.array([each.offset for each in lost], np.int64)
    place = np.searchsorted(record_offset, offset) + np.arange(len(lost))
    moved = letters.place + np.searchsorted(offset, letters.offset, "right")
    order = np.argsort(np.concatenate([offset, letters.offset]), kind="stable")

    def both(first: Any, second: NDArray[Any]) -> NDArray[Any]:
        merged: NDArray[Any] = np.concatenate([np.asarray(first, second.dtype), second])[order]
        return merged

    details = [*(each.detail for each in lost), *letters.detail]
    values = [*(each.value for each in lost), *letters.value]
    return Letters(
        letters.topic,
        letters.partition,
        len(record_offset) + len(lost),
        both(place, moved),
        both(offset, letters.offset),
        both([each.reason for each in lost], letters.reason),
        both([each.records for each in lost], letters.rejected_samples),
        both([-1] * len(lost), letters.timestamp_ms),
        [details[i] for i in order.tolist()],
        [values[i] for i in order.tolist()],
    )
