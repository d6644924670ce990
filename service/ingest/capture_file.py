"""Captures: files with one Kafka record a line, replayed as the partitions that they were taken from.

{"topic"?, "partition", "offset", "timestamp", "key_b64", "value_b64", "headers": [[name, value_b64], …]}
A capture is sorted by partition and offset, while its partitions ran side by side; so each is read on its own, with its own
pass over the file. Nothing is held in memory but the places where partitions begin and end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from service.ingest.contract import Corrupt, Record, RecordBatch, TopicPartition, Unplaced
from service.ingest.file_bytes import FileBytes
from service.ingest.file_lines import Chunk, LineReader

_PASS_BYTES: Final = 4 << 20
_PASS_RECORDS: Final = 10_000
_OPENING_LINES: Final = 10  # a capture may begin with a torn line; so many of nothing else are no capture
_BAD_LINES_MAX: Final = 1_000  # held back until the next good line says where they lie

_Raw = msgspec.Raw


class _Shape(msgspec.Struct):
    """What no line of telemetry has, and every line of a capture, whatever the values."""

    partition: _Raw
    offset: _Raw
    value_b64: _Raw


class _Place(msgspec.Struct):
    """Whose record it is; the rest of the line is passed over unread. Bounds are those of Kafka's protocol."""

    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    topic: str = ""


class _Line(_Place, kw_only=True):
    """A whole line; msgspec reads bytes from base64. A timestamp of -1 is Kafka's word for none."""

    offset: Annotated[int, Meta(ge=0, le=2**63 - 2)]  # so that the next one is an offset too
    value_b64: bytes | None
    key_b64: bytes | None = None
    timestamp: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1
    headers: list[tuple[str, bytes | None]] = []


@dataclass(slots=True)
class _Taken:
    """What some lines gave for one partition."""

    records: list[Record] = field(default_factory=list)
    corrupt: list[Corrupt] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.corrupt or self.unplaced)


class Part(NamedTuple):
    """The lines of one partition: the first, and the last before another one's (None: to the end)."""

    topic: str
    partition: int
    first_line: int
    last_line: int | None


_SHAPES: Final = msgspec.json.Decoder(_Shape)
_PLACES: Final = msgspec.json.Decoder(_Place)
_LINES: Final = msgspec.json.Decoder(_Line)
_TROUBLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def is_capture(path: Path) -> bool:
    """Tell from its first few lines whether the file is a capture; one of them is enough."""
    reader = LineReader(FileBytes(path))
    try:
        records = reader.read(_OPENING_LINES, _PASS_BYTES).records
        if reader.at_end:
            records += reader.finish().records
    finally:
        reader.close()
    return any(map(_has_shape, records))


def parts(path: Path) -> list[Part]:
    """Return the partitions in the capture, from one pass over it: at least one, so that no line belongs to nobody."""
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
            # What lies before the first readable line belongs to its partition.
            first = found[current].first_line if current in found else record.offset if found else 0
            found[current] = Part(*current, first, None)
    reader.close()
    return sorted(found.values()) or [Part("", 0, 0, None)]


class CaptureLog:
    """One partition of a capture, under the offsets it had.

    A line that cannot be a record belongs to the partition that it names, else to that of the line before. It is handed
    over with the next good line, so that a position in the log never lies between the two: after a restart it is
    neither lost nor reported twice.
    """

    def __init__(self, topic: str, path: Path, part: Part) -> None:
        self.partition = TopicPartition(topic, part.partition)
        self.ended = False
        self._path = path
        self._part = part
        self._start = self._next = 0
        self._due = 0  # one beyond the offset of the last good line, whether or not it was wanted
        self._ours = True  # whether the last readable line was of this partition
        self._bad: list[Unplaced | Corrupt] = []
        self._reader: LineReader | None = None

    def seek(self, offset: int | None) -> None:
        self.close()
        self._start = self._next = offset or 0
        self._due = 0
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
            self._end(taken)
            self.close()  # a capture may have more partitions than a process may have open files
        if not taken:
            return None
        return RecordBatch(*self.partition, self._next, taken.records, taken.corrupt, taken.unplaced)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _past_end(self) -> bool:
        last = self._part.last_line
        return last is not None and self._reader is not None and self._reader.position > last

    def _take(self, chunk: Chunk) -> _Taken:
        """Return the records of this partition among the lines, and what cannot be one."""
        taken = _Taken()
        last = self._part.last_line
        lines: list[Record | Corrupt] = [*chunk.records, *chunk.corrupt]
        for line in sorted(lines, key=lambda line: line[0]):
            if last is not None and line[0] > last:
                break
            if isinstance(line, Record):
                self._take_line(line, taken)
            elif self._ours:
                self._bad.append(line._replace(detail=f"line {line.first_offset + 1}: {line.detail}"))
        if len(self._bad) >= _BAD_LINES_MAX or self._bad_bytes() >= _PASS_BYTES:
            self._hand_over_bad(taken, self._next + len(self._bad))
        return taken

    def _take_line(self, record: Record, taken: _Taken) -> None:
        line = _line(record)
        place = line if isinstance(line, _Line) else _place(record)
        if place is not None:
            self._ours = (place.topic, place.partition) == self._part[:2]
        if not self._ours:
            return
        trouble = line if isinstance(line, str) else ""
        if isinstance(line, _Line) and line.offset < self._due:
            trouble = f"offset {line.offset}: expected {self._due} or more"
        if trouble or not isinstance(line, _Line):
            self._bad.append(Unplaced(-1, record.value or b"", f"line {record.offset + 1}: {trouble}"))
            return
        self._due = line.offset + 1
        if line.offset < self._start:
            self._bad.clear()  # reported before the position we came back to
            return
        self._hand_over_bad(taken, line.offset)
        headers = tuple((name, value or b"") for name, value in line.headers)
        taken.records.append(Record(line.offset, line.timestamp, line.key_b64, line.value_b64, headers))
        self._next = self._due

    def _bad_bytes(self) -> int:
        return sum(len(bad.value) for bad in self._bad if isinstance(bad, Unplaced))

    def _hand_over_bad(self, taken: _Taken, until: int) -> None:
        """Give each bad line an offset that is free before `until`; where none is left, `until` itself."""
        for i, bad in enumerate(self._bad):
            offset = min(self._next + i, until)
            if isinstance(bad, Corrupt):
                taken.corrupt.append(Corrupt(offset, offset + 1, bad.detail))
            else:
                taken.unplaced.append(bad._replace(offset=offset))
        self._bad.clear()

    def _end(self, taken: _Taken) -> None:
        """Hand over the bad lines after the last good one, unless the position that we came back to lies beyond them."""
        if self._due < self._start:
            self._bad.clear()
        end = self._next + len(self._bad)
        self._hand_over_bad(taken, end)
        self._next = end


def _has_shape(record: Record) -> bool:
    try:
        _SHAPES.decode(record.value or b"")
    except _TROUBLE:
        return False
    return True


def _line(record: Record) -> _Line | str:
    """Return the line, or what is wrong with it."""
    try:
        return _LINES.decode(record.value or b"")
    except _TROUBLE as error:
        return f"not a captured record: {error}"


def _place(record: Record) -> _Place | None:
    try:
        return _PLACES.decode(record.value or b"")
    except _TROUBLE:
        return None
