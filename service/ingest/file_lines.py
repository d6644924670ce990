"""Lines of a file as records: numbered, bounded, resumable at any line, and whole or not at all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

from service.ingest.contract import Corrupt, Record
from service.ingest.file_bytes import ByteStream, Damaged

LINE_BYTES_MAX: Final = 64 << 20


@dataclass(slots=True)
class Chunk:
    """Some records and what could not be read between them, in order."""

    records: list[Record] = field(default_factory=list)
    corrupt: list[Corrupt] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.corrupt)


class Reader(Protocol):
    """The records of one file from a position on; the record at position p has offset base + p."""

    position: int  # of the next record
    at_end: bool  # nothing more to hand over for now

    def read(self, records_max: int, bytes_max: int) -> Chunk:
        """Return the next records. May be empty before the end, while records before the first wanted are passed."""
        ...

    def finish(self) -> Chunk:
        """Return what is left at the end of a file that will not grow: a last line without its newline."""
        ...

    def too_short(self) -> bool:
        """Tell, at the end, whether the file does not reach the first wanted position."""
        ...

    def change(self) -> str:
        """Return how the file changed other than by growing: "truncated", "replaced", or nothing."""
        ...

    def close(self) -> None:
        """Leave the file."""
        ...


class LineReader:
    """Each line that is not blank is a record; a blank one only counts."""

    def __init__(self, stream: ByteStream, base: int = 0, first: int = 0) -> None:
        self.position = 0
        self.at_end = False
        self._stream = stream
        self._base = base
        self._first = first
        self._lines: deque[bytes | None] = deque()  # None: longer than LINE_BYTES_MAX
        self._half: list[bytes] = []  # pieces of the line that is not complete yet
        self._half_bytes = 0
        self._dead = False

    def read(self, records_max: int, bytes_max: int) -> Chunk:
        chunk = Chunk()
        passed = 0
        while len(chunk.records) < records_max and passed < bytes_max:
            if not self._lines:
                fetched = self._fetch(chunk)
                if not fetched:
                    self.at_end = True
                    return chunk
                passed += fetched
                continue
            self._take(self._lines.popleft(), chunk)
        self.at_end = False
        return chunk

    def finish(self) -> Chunk:
        chunk = Chunk()
        if self._dead:
            return chunk
        if self._stream.cut_off():
            self._give_up("the file ends in the middle of its compressed data", chunk)
        elif self._half_bytes:
            self._take(self._whole(b""), chunk)
        self._dead = True
        return chunk

    def too_short(self) -> bool:
        return self.position + bool(self._half_bytes) < self._first

    def change(self) -> str:
        return self._stream.change()

    def close(self) -> None:
        self._stream.close()

    def _fetch(self, chunk: Chunk) -> int:
        """Read more of the stream, split it, and return how many bytes it was."""
        if self._dead:
            return 0
        try:
            piece = self._stream.read()
        except Damaged as error:
            self._give_up(str(error), chunk)
            return 0
        head, newline, rest = piece.partition(b"\n")
        if not newline:
            self._keep(piece)
            return len(piece)
        self._lines.append(self._whole(head))
        lines = rest.split(b"\n")
        self._keep(lines.pop())
        self._lines.extend(lines)
        return len(piece)

    def _keep(self, piece: bytes) -> None:
        self._half_bytes += len(piece)
        if self._half_bytes > LINE_BYTES_MAX:
            self._half.clear()
        elif piece:
            self._half.append(piece)

    def _whole(self, end: bytes) -> bytes | None:
        self._keep(end)
        line = None if self._half_bytes > LINE_BYTES_MAX else b"".join(self._half)
        self._half.clear()
        self._half_bytes = 0
        return line

    def _take(self, line: bytes | None, chunk: Chunk) -> None:
        number = self.position
        self.position += 1
        if number < self._first:
            return
        offset = self._base + number
        if line is None or len(line) > LINE_BYTES_MAX:
            detail = f"line longer than {LINE_BYTES_MAX} bytes"
            chunk.corrupt.append(Corrupt(offset, offset + 1, detail))
        elif line and not line.isspace():
            chunk.records.append(Record(offset, -1, None, line.removesuffix(b"\r")))

    def _give_up(self, detail: str, chunk: Chunk) -> None:
        """Report the place from which on nothing can be read, as one lost line."""
        self._dead = True
        self._half.clear()
        self._half_bytes = 0
        if self.position >= self._first:
            offset = self._base + self.position
            chunk.corrupt.append(Corrupt(offset, offset + 1, detail))
        self.position += 1
