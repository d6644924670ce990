"""Dead letters in numbered files within a budget: what a flood fills up is a disk's share, and not the service's life."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from service.errors import Unavailable
from service.ingest.letters import Letters, Room
from service.settings import DeadLetterSettings

NEWLINE = b"\n"
READ_BYTES = 1 << 16
BLOCK_LETTERS = 4096  # written at once, two megabytes or so
FILES = 8  # that share the budget
POSITION_DIGITS = 16

_log = structlog.get_logger(__name__)


class _Part(NamedTuple):
    """One file: the position of its first byte in all that was ever written, and its size."""

    begin: int
    size: int
    path: Path


class DeadLetterFile:
    """Letters as NDJSON, appended to `path`, and from an eighth of `bytes_max` on to files beside it.

    A position counts the bytes of all letters since the first; the files after the first carry in their names the
    position at which they begin. So files but the newest may be moved away at any time, and a restart knows what is what.

    `resume_bytes` is what `flush` returned for the checkpoint that processing resumes from, None where there is no
    checkpoint. Letters beyond it are cut off, since their records are read again: a crash leaves no trace in the files.
    A failing fsync is not survivable (the kernel may have dropped the pages and will not say so twice): its OSError
    leaves, ends the process, and the restart resumes from the checkpoint.
    """

    def __init__(self, path: Path, settings: DeadLetterSettings, resume_bytes: int | None) -> None:
        self._path = path
        self._settings = settings
        self._part_bytes_max = settings.bytes_max // FILES
        self._file = -1
        self._begin = self._end = self._older_bytes = self._dropped = 0
        self._full = self._closed = False
        self._cut(self._end_of_last_line() if resume_bytes is None else resume_bytes)

    def write(self, letters: Letters) -> None:
        """Append all the letters, or none and raise Unavailable."""
        began = self._end
        lines = letters.lines(self._settings.value_bytes_max)
        try:
            while block := "\n".join(itertools.islice(lines, BLOCK_LETTERS)):
                self._append(block.encode("ascii") + NEWLINE)
        except Unavailable:
            self._roll_back(began)
            raise

    def room(self) -> Room:
        """Return how full the files are; only where reading waits for room does that look at the folder."""
        why = self._why_full()
        if why:
            self._older_bytes = sum(part.size for part in self._older())
            why = self._why_full()
        if bool(why) != self._full:
            self._full = bool(why)
            tell = _log.error if why else _log.info
            tell(why or "dead letters: there is room again", path=str(self._path))
        return Room(self._used_bytes(), self._settings.bytes_max, self._dropped, why)

    def flush(self) -> int:
        """Make the letters durable and return the position after the last."""
        os.fsync(self._file)
        return self._end

    def close(self) -> None:
        """Flush and close the file."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            os.close(self._file)

    def _used_bytes(self) -> int:
        return self._older_bytes + self._end - self._begin

    def _why_full(self) -> str:
        """Say why reading should wait: what was read already must still find room."""
        used, most = self._used_bytes(), self._settings.bytes_max
        if self._settings.when_full != "pause" or used <= most - self._part_bytes_max:
            return ""
        return (
            f"dead letters: {used} bytes in {self._path.parent}, and of bytes_max {most} an eighth is kept for what was "
            f"read already: expected files before {self._path_of(self._begin).name} to be moved away"
        )

    def _append(self, block: bytes) -> None:
        size = self._end - self._begin
        if size and size + len(block) > self._part_bytes_max:
            self._begin_part()
        try:
            self._make_room(len(block))
            _write_all(self._file, block, self._end - self._begin)
        except OSError as error:
            raise self._unwritable(error) from error
        self._end += len(block)

    def _make_room(self, block_bytes: int) -> None:
        most = self._settings.bytes_max
        if self._used_bytes() + block_bytes <= most:
            return
        older = self._older()
        while older and self._settings.when_full == "drop_oldest":
            if sum(part.size for part in older) + self._end - self._begin + block_bytes <= most:
                break
            self._drop(older.pop(0))
        self._older_bytes = sum(part.size for part in older)
        if self._used_bytes() + block_bytes > most:
            raise Unavailable(
                f"{self._used_bytes()} bytes in {self._path.parent} and {block_bytes} more would pass "
                f"bytes_max {most}: expected files before {self._path_of(self._begin).name} to be moved away"
            )

    def _drop(self, part: _Part) -> None:
        letters = _lines_in(part.path)
        part.path.unlink()
        self._dropped += letters
        _log.error("dead letters: the oldest file was dropped", path=str(part.path), letters=letters)

    def _begin_part(self) -> None:
        """Go on in a new file. The old one is made durable here: `flush` only knows the newest."""
        try:
            fresh = _opened(self._path_of(self._end))
        except OSError as error:
            raise self._unwritable(error) from error
        _sync_folder(self._path.parent)
        os.fsync(self._file)
        os.close(self._file)
        self._file, self._begin = fresh, self._end
        self._older_bytes = sum(part.size for part in self._older())

    def _unwritable(self, error: OSError) -> Unavailable:
        return Unavailable(f"cannot write to {self._path.parent}: {error.strerror}")

    def _roll_back(self, position: int) -> None:
        if position < self._begin:
            self._cut(position)
            return
        os.ftruncate(self._file, position - self._begin)
        self._end = position

    def _cut(self, position: int) -> None:
        """Drop all letters from `position` on, and go on writing there. Later files go first: what stays has no gap."""
        parts = self._parts()
        while parts and (parts[-1].begin > position or _follows_whole(parts, position)):
            parts.pop().path.unlink()
        begin = parts[-1].begin if parts else 0
        if self._file >= 0:
            os.close(self._file)
        found = parts[-1].size if parts else 0
        if begin + found < position:
            # Moved away by hand, or never flushed; the position goes on all the same, so that names stay true.
            _log.warning("dead letters end before the checkpoint", path=str(self._path), position=begin + found,
                         checkpoint_position=position)  # fmt: skip
            begin = position
        self._file = _opened(self._path_of(begin))
        _sync_folder(self._path.parent)
        os.ftruncate(self._file, position - begin)
        self._begin, self._end = begin, position
        self._older_bytes = sum(part.size for part in self._older())

    def _end_of_last_line(self) -> int:
        """Return where the last whole letter ends: a crash may have left half of one."""
        parts = self._parts()
        return parts[-1].begin + _whole_lines_bytes(parts[-1]) if parts else 0

    def _path_of(self, begin: int) -> Path:
        return self._path if not begin else self._path.with_stem(f"{self._path.stem}-{begin:0{POSITION_DIGITS}d}")

    def _older(self) -> list[_Part]:
        return [part for part in self._parts() if part.begin < self._begin]

    def _parts(self) -> list[_Part]:
        """Return the files that are there, in order."""
        return sorted(self._found())

    def _found(self) -> Iterator[_Part]:
        for path in self._path.parent.glob(f"{self._path.stem}*{self._path.suffix}"):
            digits = path.stem.removeprefix(self._path.stem).removeprefix("-") or "0"
            if digits.isdecimal() and path == self._path_of(int(digits)):
                with suppress(FileNotFoundError):  # moved away this very moment
                    yield _Part(int(digits), path.stat().st_size, path)


def _follows_whole(parts: list[_Part], position: int) -> bool:
    """Tell whether the last file begins at `position`, where the one before ends: without it that one is gone on with."""
    return len(parts) > 1 and parts[-1].begin == position == parts[-2].begin + parts[-2].size


def _opened(path: Path) -> int:
    """Open a file for its owner alone."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _sync_folder(folder: Path) -> None:
    """Make the names in it durable, not only the files' content."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(file: int, block: bytes, at: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(file, view, at)
        view = view[written:]
        at += written


def _whole_lines_bytes(part: _Part) -> int:
    end = part.size
    with part.path.open("rb") as file:
        while end > 0:
            start = max(0, end - READ_BYTES)
            newline = os.pread(file.fileno(), end - start, start).rfind(NEWLINE)
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _lines_in(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(NEWLINE) for block in iter(lambda: file.read(READ_BYTES), b""))
