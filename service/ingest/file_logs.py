"""Files, folders and standard input as logs that can be read from an offset.

A file's offset is its line (or row) number. A folder is one log in the order of its files' names; its offsets hold the
file's place, a check of its name and the line, so that a position is found again after older files were deleted.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol

from service.ingest.contract import RecordBatch, TopicPartition
from service.ingest.file_bytes import FileBytes, StdinBytes
from service.ingest.file_lines import Chunk, LineReader, Reader
from service.ingest.parquet import ParquetReader, is_parquet
from service.logs import get_logger

# Bits of a folder's offset: 131,072 files of 4 billion lines each; 14 bits tell a file's name from another's.
LINE_BITS: Final = 32
CHECK_BITS: Final = 14

_log = get_logger(__name__)


class FileLog(Protocol):
    """One log among the files."""

    partition: TopicPartition
    ended: bool  # everything that was there was handed over

    def seek(self, offset: int | None) -> None:
        """Go on from `offset`; None is the beginning."""
        ...

    def read(self, records_max: int, bytes_max: int) -> RecordBatch | None:
        """Return the next records; None when there are none right now (see `ended`)."""
        ...

    def close(self) -> None:
        """Leave the files."""
        ...


def open_reader(path: Path, base: int, first: int) -> Reader:
    """Return a reader of the file, whatever it is, from position `first` on."""
    if is_parquet(path):
        return ParquetReader(path, base, first)
    return LineReader(FileBytes(path), base, first)


class SingleFileLog:
    """One file; with `follow` also what is appended to it later."""

    def __init__(self, topic: str, path: Path, follow: bool) -> None:
        self.partition = TopicPartition(topic, 0)
        self.ended = False
        self._path = path
        self._follow = follow
        self._base = 0
        self._wanted = 0
        self._reader: Reader | None = None

    def seek(self, offset: int | None) -> None:
        self._reopen(0, offset or 0)

    def read(self, records_max: int, bytes_max: int) -> RecordBatch | None:
        assert self._reader is not None, "read before seek"
        chunk = self._reader.read(records_max, bytes_max)
        self.ended = self._reader.at_end
        if self.ended and (not self._follow or self._reader.change() == "replaced"):
            _append(chunk, self._reader.finish())
        next_offset = self._base + self._reader.position
        if self.ended and not chunk:
            self._notice_change(self._reader)
        return _batch(self.partition, next_offset, chunk)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _notice_change(self, reader: Reader) -> None:
        """Start over where the file is not the one that was being read; offsets go on from where they were."""
        position = self._base + reader.position
        if reader.too_short():
            position = self._wanted
            _log.warning(
                "file is shorter than its saved position, it is read from the start",
                path=str(self._path),
                position=position,
            )
        else:
            change = reader.change() if self._follow else ""
            if not change:
                return
            _log.warning(
                "file was not only appended to, it is read from the start",
                path=str(self._path),
                change=change,
                next_offset=position,
            )
        self._reopen(position, 0)

    def _reopen(self, base: int, first: int) -> None:
        self.close()
        self._base = base
        self._wanted = base + first
        self._reader = open_reader(self._path, base, first)
        self.ended = False


class FolderLog:
    """All files of a folder, one after the other; with `follow` also those that appear later."""

    def __init__(self, topic: str, folder: Path, follow: bool, without: Collection[str] = ()) -> None:
        """`without` names files that are logs of their own."""
        self.partition = TopicPartition(topic, 0)
        self.ended = False
        self._folder = folder
        self._follow = follow
        self._without = frozenset(without)
        self._names: list[str] = []
        self._i = 0  # index of the current file in _names
        self._shift = 0  # its ordinal less that index: how many files before it are gone
        self._first = 0  # line to begin with in the current file
        self._reader: Reader | None = None
        self._look()

    def seek(self, offset: int | None) -> None:
        self.close()
        self._reader = None
        self.ended = False
        self._i = self._shift = self._first = 0
        if offset is None:
            return
        ordinal, check, line = _split(offset)
        matches = [i for i, name in enumerate(self._names) if _check(name) == check]
        if matches:
            self._i = ordinal if ordinal in matches else matches[0]
            self._shift, self._first = ordinal - self._i, line
            if self._shift:
                self._say("files before the saved position came or went", count=self._shift)
        elif line or ordinal:
            self._shift = ordinal + 1
            self._say("the file of the saved position is gone, reading begins with the first one left")

    def read(self, records_max: int, bytes_max: int) -> RecordBatch | None:
        if self._reader is None and not self._open():
            self.ended = not self._more()
            return None
        assert self._reader is not None, "opened above"
        another = self._i + 1 < len(self._names)  # seen before this read: this file gets no more
        chunk = self._reader.read(records_max, bytes_max)
        next_offset = self._base() + self._reader.position
        if self._reader.at_end:
            if another or not self._follow:
                _append(chunk, self._reader.finish())
                next_offset = self._base() + self._reader.position
                self._leave(self._reader)
            else:
                self._notice_change(self._reader)
        self.ended = not self._more()
        return _batch(self.partition, next_offset, chunk)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _more(self) -> bool:
        if self._follow and (self._reader is None or self._reader.at_end):
            self._look()
        if self._reader is not None and not self._reader.at_end:
            return True
        return self._i + (self._reader is not None) < len(self._names)

    def _open(self) -> bool:
        if self._follow:
            self._look()
        if self._i >= len(self._names):
            return False
        try:
            path = self._folder / self._names[self._i]
            self._reader = open_reader(path, self._base(), self._first)
        except FileNotFoundError:
            self._say("a file was deleted before it was read", file=self._names[self._i])
            self._i += 1
            self._first = 0
        return self._reader is not None

    def _leave(self, reader: Reader) -> None:
        reader.close()
        self._reader = None
        self._i += 1
        self._first = 0

    def _look(self) -> None:
        """Learn which files there are; a new one is expected to come after all others."""
        known = set(self._names)
        with os.scandir(self._folder) as entries:
            present = sorted(entry.name for entry in entries if entry.is_file())
        for name in present:
            if name in known or name in self._without or name.startswith("."):
                continue
            if self._names and name < self._names[-1]:
                self._without |= {name}
                self._say("a file appeared before one already known, it is not read", file=name)
                continue
            self._names.append(name)

    def _notice_change(self, reader: Reader) -> None:
        change = "shorter than the saved position" if reader.too_short() else reader.change()
        if change:
            # Its lines are numbered by place, so a rewritten file could only be read under offsets already used.
            name = self._names[self._i]
            self._without |= {name}
            self._say("a file changed under us, the rest of it is not read", file=name, change=change)
            self._leave(reader)

    def _base(self) -> int:
        ordinal = self._i + self._shift
        return (ordinal << CHECK_BITS | _check(self._names[self._i])) << LINE_BITS

    def _say(self, event: str, **facts: object) -> None:
        _log.warning(event, folder=str(self._folder), **facts)


class StdinLog:
    """Standard input. It cannot be rewound: after a restart reading goes on with whatever comes, under further offsets."""

    def __init__(self, topic: str, stream: StdinBytes) -> None:
        self.partition = TopicPartition(topic, 0)
        self.ended = False
        self._stream = stream
        self._base = 0
        self._reader = LineReader(stream)

    def seek(self, offset: int | None) -> None:
        self._base = offset or 0
        self._reader = LineReader(self._stream, self._base)

    def read(self, records_max: int, bytes_max: int) -> RecordBatch | None:
        chunk = self._reader.read(records_max, bytes_max)
        self.ended = self._reader.at_end
        if self.ended and self._stream.closed:
            _append(chunk, self._reader.finish())
        return _batch(self.partition, self._base + self._reader.position, chunk)

    def is_open(self) -> bool:
        """Tell whether somebody may still write."""
        return not self._stream.closed

    def close(self) -> None:
        self._stream.close()


def _batch(partition: TopicPartition, next_offset: int, chunk: Chunk) -> RecordBatch | None:
    if not chunk:
        return None
    return RecordBatch(*partition, next_offset, chunk.records, chunk.corrupt)


def _append(chunk: Chunk, more: Chunk) -> None:
    chunk.records += more.records
    chunk.corrupt += more.corrupt


def _check(name: str) -> int:
    return zlib.crc32(name.encode(errors="surrogateescape")) & ((1 << CHECK_BITS) - 1)


def _split(offset: int) -> tuple[int, int, int]:
    """Return ordinal, check and line of a folder's offset."""
    line = offset & ((1 << LINE_BITS) - 1)
    check = offset >> LINE_BITS & ((1 << CHECK_BITS) - 1)
    return offset >> (LINE_BITS + CHECK_BITS), check, line
