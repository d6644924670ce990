"""Captures: files with one Kafka record a line, replayed as the partitions that they were taken from.

{"topic"?, "partition", "offset", "timestamp", "key_b64", "value_b64", "headers": [[name, value_b64], …]}
A capture is sorted by partition and offset, while its partitions ran side by side; so each is read on its own, with its own
pass over the file. Nothing is held in memory but the places where partitions begin and end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from service.ingest.contract import Corrupt, Record, RecordBatch, TopicPartition
from service.ingest.file_bytes import FileBytes
from service.ingest.file_lines import Chunk, LineReader

_PASS_BYTES: Final = 4 << 20
_PASS_RECORDS: Final = 10_000


class _Place(msgspec.Struct):
    """Where a record lay; the rest of the line is passed over unread."""

    partition: int
    offset: int
    topic: str = ""


class _Line(_Place, kw_only=True):
    """A whole line; msgspec reads bytes from base64."""

    value_b64: bytes | None
    key_b64: bytes | None = None
    timestamp: int = -1
    headers: list[tuple[str, bytes | None]] = []


class Part(NamedTuple):
    """The lines of one partition: the first, and the last before another one's (None: to the end)."""

    topic: str
    partition: int
    first_line: int
    last_line: int | None


_PLACES: Final = msgspec.json.Decoder(_Place)
_LINES: Final = msgspec.json.Decoder(_Line)


def is_capture(path: Path) -> bool:
    """Tell from its first line whether the file is a capture."""
    reader = LineReader(FileBytes(path))
    try:
        chunk = reader.read(1, _PASS_BYTES) or reader.finish()
    finally:
        reader.close()
    return bool(chunk.records) and isinstance(_line(chunk.records[0]), _Line)


def parts(path: Path) -> list[Part]:
    """Return the partitions in the capture, from one pass over it."""
    found: dict[tuple[str, int], Part] = {}
    current: tuple[str, int] | None = None
    reader = LineReader(FileBytes(path))
    while not reader.at_end:
        records = reader.read(_PASS_RECORDS, _PASS_BYTES).records
        if reader.at_end:
            records += reader.finish().records
        for record in records:
            place = _place(record)
            if place is None or (place.topic, place.partition) == current:
                continue
            if current is not None:
                found[current] = found[current]._replace(last_line=record.offset - 1)
            current = (place.topic, place.partition)
            first = found[current].first_line if current in found else record.offset
            found[current] = Part(*current, first, None)
    reader.close()
    return sorted(found.values())


class CaptureLog:
    """One partition of a capture, under the offsets it had. A line that cannot be read is a gap in them."""

    def __init__(self, topic: str, path: Path, part: Part) -> None:
        self.partition = TopicPartition(topic, part.partition)
        self.ended = False
        self._path = path
        self._part = part
        self._start = self._next = 0
        self._ours = True  # whether the last readable line was of this partition: bad lines belong to the one before
        self._bad: list[str] = []
        self._reader: LineReader | None = None

    def seek(self, offset: int | None) -> None:
        self.close()
        self._start = self._next = offset or 0
        self._ours = True
        self._bad.clear()
        self.ended = False
        self._reader = LineReader(FileBytes(self._path), 0, self._part.first_line)

    def read(self, records_max: int, bytes_max: int) -> RecordBatch | None:
        assert self._reader is not None, "read before seek"
        if self.ended:
            return None
        chunk = self._reader.read(records_max, bytes_max)
        if self._reader.at_end:
            rest = self._reader.finish()
            chunk.records += rest.records
            chunk.corrupt += rest.corrupt
        taken = self._take(chunk)
        if self._reader.at_end or self._past_end():
            self.ended = True
            self._end_gap(taken)
            self.close()  # a capture may have more partitions than a process may have open files
        if not taken:
            return None
        return RecordBatch(*self.partition, self._next, taken.records, taken.corrupt)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _past_end(self) -> bool:
        last = self._part.last_line
        return last is not None and self._reader is not None and self._reader.position > last

    def _take(self, chunk: Chunk) -> Chunk:
        """Return the records of this partition among the lines, and the gaps between them."""
        taken = Chunk()
        last = self._part.last_line
        lines: list[Record | Corrupt] = [*chunk.records, *chunk.corrupt]
        for line in sorted(lines, key=lambda line: line[0]):
            if last is not None and line[0] > last:
                break
            if isinstance(line, Corrupt):
                self._note(f"line {line.first_offset + 1}: {line.detail}")
            else:
                self._take_line(line, taken)
        return taken

    def _take_line(self, record: Record, taken: Chunk) -> None:
        line = _line(record)
        place = line if isinstance(line, _Line) else _place(record)
        if place is not None:
            self._ours = (place.topic, place.partition) == self._part[:2]
        if not self._ours:
            return
        if isinstance(line, _Line):
            self._take_record(record.offset, line, taken)
        else:
            self._note(f"line {record.offset + 1}: {line}")

    def _take_record(self, number: int, line: _Line, taken: Chunk) -> None:
        if line.offset < self._start:
            self._bad.clear()  # reported before the position we came back to
        elif line.offset < self._next:
            self._note(f"line {number + 1}: offset {line.offset} where {self._next} or more was due")
        else:
            self._gap(line.offset, taken)
            headers = tuple((name, value or b"") for name, value in line.headers)
            taken.records.append(Record(line.offset, line.timestamp, line.key_b64, line.value_b64, headers))
            self._next = line.offset + 1

    def _note(self, detail: str) -> None:
        if self._ours:
            self._bad.append(detail)

    def _gap(self, until: int, taken: Chunk) -> None:
        if self._bad:
            taken.corrupt.append(Corrupt(self._next, until, "; ".join(self._bad[:5])))
            self._bad.clear()

    def _end_gap(self, taken: Chunk) -> None:
        """Bad lines at the end count as one lost record, since nothing says how many there were."""
        if self._bad:
            self._gap(self._next + 1, taken)
            self._next += 1


def _line(record: Record) -> _Line | str:
    """Return the line, or what is wrong with it."""
    try:
        return _LINES.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"not a captured record: {error}"


def _place(record: Record) -> _Place | None:
    try:
        return _PLACES.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
