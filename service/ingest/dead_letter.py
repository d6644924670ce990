"""Dead letters in a file, and the breaker that stops a partition before its records drain into them."""

from __future__ import annotations

import base64
import json
import os
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from service.errors import CorruptState, FloodOfPoison, Unavailable
from service.ingest.contract import DeadLetter, RecordBatch, TopicPartition
from service.settings import DeadLetterSettings

NEWLINE = b"\n"
TAIL_BYTES = 1 << 16
ACCEPTED = ""
DETAIL_CHARS_MAX = 1000
# A record that there is no room for was read well: a fleet beyond fleet.entities_max is no flood of poison.
NOT_POISON = frozenset({"entities_max"})

_log = structlog.get_logger(__name__)


def letter_json(letter: DeadLetter, value_bytes_max: int) -> bytes:
    """Return the letter as one line of JSON without its newline: the same letter gives the same bytes."""
    value = None if letter.value is None else letter.value[:value_bytes_max]
    document = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason,
        "detail": letter.detail[:DETAIL_CHARS_MAX],
        "rejected_samples": letter.rejected_samples,
        "sha256": letter.sha256,
        "value_b64": None if value is None else base64.b64encode(value).decode("ascii"),
        "timestamp_ms": letter.timestamp_ms,
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


class DeadLetterFile:
    """Letters as NDJSON, appended to `path`.

    `resume_bytes` is what `flush` returned for the checkpoint that processing resumes from, None where there is no
    checkpoint. Letters beyond it are cut off, since their records are read again: a crash leaves no trace in the file.
    A failing fsync is not survivable (the kernel may have dropped the pages and will not say so twice): its OSError
    leaves, ends the process, and the restart resumes from the checkpoint.
    """

    def __init__(self, path: Path, settings: DeadLetterSettings, resume_bytes: int | None) -> None:
        self._path = path
        self._settings = settings
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        found = os.fstat(self._file).st_size
        if resume_bytes is None:
            self._size = self._end_of_last_line(found)
        else:
            self._size = min(found, resume_bytes)
            if found < resume_bytes:
                # Letters were moved away by hand, as the limit asks for; nothing that was flushed is ours to restore.
                _log.warning("dead letter file is shorter than at the checkpoint", path=str(path),
                             bytes=found, checkpoint_bytes=resume_bytes)  # fmt: skip
        os.ftruncate(self._file, self._size)
        _sync_folder(path.parent)
        self._closed = False

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Append all the letters, or none and raise Unavailable."""
        lines = [letter_json(letter, self._settings.value_bytes_max) + NEWLINE for letter in letters]
        block = b"".join(lines)
        if self._size + len(block) > self._settings.file_bytes_max:
            raise Unavailable(
                f"dead letters: {self._path} has {self._size} bytes and {len(block)} more would pass file_bytes_max "
                f"{self._settings.file_bytes_max}: expected the file to be moved away"
            )
        try:
            _write_all(self._file, block, self._size)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise Unavailable(f"dead letters: cannot write to {self._path}: {error.strerror}") from error
        self._size += len(block)

    def flush(self) -> int:
        """Make the letters durable and return the size of the file in bytes."""
        os.fsync(self._file)
        return self._size

    def close(self) -> None:
        """Flush and close the file."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            os.close(self._file)

    def _end_of_last_line(self, size: int) -> int:
        """Return where the last whole letter ends: a crash may have left half of one."""
        end = size
        while end > 0:
            start = max(0, end - TAIL_BYTES)
            newline = os.pread(self._file, end - start, start).rfind(NEWLINE)
            if newline >= 0:
                return start + newline + 1
            end = start
        return 0


def _write_all(file: int, block: bytes, at: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(file, view, at)
        view = view[written:]
        at += written


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable, not only its content."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def places(batch: RecordBatch, letters: Sequence[DeadLetter]) -> tuple[int, list[tuple[int, str]]]:
    """Return how much the batch held, and index and reason of what has a letter: what the breaker observes.

    What was unreadable counts where it lay, before the record of its offset. Letters stand in the order of Intake.take.
    """
    unread = Counter([corrupt.first_offset for corrupt in batch.corrupt])
    unread.update(unplaced.offset for unplaced in batch.unplaced)
    total = len(batch.records) + unread.total()
    offsets = [record.offset for record in batch.records] if letters else []
    before = 0
    found = []
    for letter in letters:
        found.append((bisect_left(offsets, letter.offset) + before, letter.reason))
        if unread[letter.offset]:
            unread[letter.offset] -= 1
            before += 1
    return total, found


class Breaker:
    """Watches how many records of each partition are rejected, and raises before too many are passed.

    Two limits: rejected records in a row, and their share of the last `breaker_window_records`. Both are looked at
    after each rejected record, so that the answer does not depend on how the log was cut into batches.
    `resume` is a `snapshot()`; the state belongs in the checkpoint, or a crash loop would start the count anew.
    """

    def __init__(self, settings: DeadLetterSettings, resume: Mapping[str, Any] | None = None) -> None:
        self._settings = settings
        self._windows: dict[TopicPartition, _Window] = {}
        if resume is not None:
            self._windows = _resumed(resume, settings.breaker_window_records)

    def observe(self, partition: TopicPartition, records: int, rejected: Sequence[tuple[int, str]]) -> None:
        """Count a batch of `records` records; `rejected` holds index in the batch and reason, ascending by index.

        Reasons in NOT_POISON count as read. Raises FloodOfPoison; the batch's offsets must then not be passed.
        """
        window = self._windows.get(partition)
        if window is None:
            window = self._windows[partition] = _Window(self._settings.breaker_window_records)
        counted = 0
        for index, reason in rejected:
            if reason in NOT_POISON:
                continue
            window.add(ACCEPTED, index - counted)
            window.add(reason, 1)
            counted = index + 1
            self._check(partition, window)
        window.add(ACCEPTED, records - counted)

    def forget(self, partition: TopicPartition) -> None:
        """Drop the count of a partition that is not ours any more."""
        self._windows.pop(partition, None)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain lists, numbers and text."""
        partitions = [
            {
                "topic": partition.topic,
                "partition": partition.partition,
                "runs": [list(run) for run in window.runs],
            }
            for partition, window in sorted(self._windows.items())
        ]
        return {"partitions": partitions}

    def _check(self, partition: TopicPartition, window: _Window) -> None:
        limits = self._settings
        full = window.records >= limits.breaker_window_records
        if window.rejected_in_a_row >= limits.breaker_run_records:
            found = f"{window.rejected_in_a_row} records in a row"
        elif full and window.rejected > limits.breaker_ratio_max * limits.breaker_window_records:
            found = f"{window.rejected} of the last {window.records} records"
        else:
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in window.reasons().most_common())
        raise FloodOfPoison(
            f"{partition.topic}/{partition.partition}: {found} were rejected ({reasons}): expected fewer than "
            f"breaker_run_records {limits.breaker_run_records} and breaker_ratio_max {limits.breaker_ratio_max}"
        )


class _Window:
    """The last records of one partition as runs of equal outcome: (reason or ACCEPTED, count), the oldest first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.runs: deque[tuple[str, int]] = deque()
        self.records = 0
        self.rejected = 0
        self.rejected_in_a_row = 0

    def add(self, outcome: str, count: int) -> None:
        """Append `count` records of one outcome and let as many old ones fall out."""
        if count <= 0:
            return
        if outcome == ACCEPTED:
            self.rejected_in_a_row = 0
        else:
            self.rejected += count
            self.rejected_in_a_row += count
        self.records += count
        if self.runs and self.runs[-1][0] == outcome:
            count += self.runs.pop()[1]
        self.runs.append((outcome, count))
        self._shorten()

    def reasons(self) -> Counter[str]:
        """Return the rejected records by reason."""
        found: Counter[str] = Counter()
        for outcome, count in self.runs:
            if outcome != ACCEPTED:
                found[outcome] += count
        return found

    def _shorten(self) -> None:
        while self.records > self.size:
            outcome, count = self.runs.popleft()
            gone = min(count, self.records - self.size)
            self.records -= gone
            if outcome != ACCEPTED:
                self.rejected -= gone
            if gone < count:
                self.runs.appendleft((outcome, count - gone))


def _resumed(snapshot: Mapping[str, Any], size: int) -> dict[TopicPartition, _Window]:
    windows: dict[TopicPartition, _Window] = {}
    try:
        for each in snapshot["partitions"]:
            window = _Window(size)
            for outcome, count in each["runs"]:
                window.add(ACCEPTED if outcome in NOT_POISON else str(outcome), int(count))
            windows[TopicPartition(str(each["topic"]), int(each["partition"]))] = window
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptState(f"breaker: {error!r}: expected what snapshot() returned") from error
    return windows
