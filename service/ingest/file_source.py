"""The file source: recorded telemetry through the same loop as Kafka, for a first look, backtests and plain-file users."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from service.clock import Clock
from service.errors import ConfigError, ConfigProblem, Unavailable
from service.ingest.capture_file import CaptureLog, is_capture, parts
from service.ingest.contract import Gap, RecordBatch, TopicPartition
from service.ingest.file_bytes import StdinBytes
from service.ingest.file_logs import FileLog, FolderLog, SingleFileLog, StdinLog
from service.ingest.parquet import is_parquet
from service.settings import FileSettings

STDIN: Final = "-"
POLL_RECORDS_MAX: Final = 10_000  # of one partition
POLL_BYTES_MAX: Final = 4 << 20  # of one partition; a longer single line is still handed over
POLL_TOTAL_BYTES_MAX: Final = 64 << 20  # of all; which partition comes first goes round
LOOK_AGAIN_S: Final = 0.25


class FileSource:
    """Files, folders, captures and standard input as partitions. With `follow` it goes on as they grow.

    Raises ConfigError when a path is missing or two inputs have one name. Captures are never followed.
    """

    live: bool

    def __init__(self, settings: FileSettings, clock: Clock) -> None:
        self.live = settings.follow
        self._clock = clock
        self._logs: dict[TopicPartition, FileLog] = {}
        self._sought: set[TopicPartition] = set()
        self._turn = 0
        problems: list[ConfigProblem] = []
        for i, path in enumerate(settings.paths):
            self._add(path, settings.follow, f"source.file.paths[{i}]", problems)
        if problems:
            raise ConfigError(problems)

    def assigned(self) -> frozenset[TopicPartition]:
        return frozenset(self._logs)

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        self._logs[partition].seek(offset)
        self._sought.add(partition)

    def poll(self, timeout_s: float, paused: frozenset[TopicPartition]) -> list[RecordBatch]:
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            wanted = [log for name, log in self._logs.items() if name in self._sought - paused]
            try:
                batches = self._read(wanted)
            except OSError as error:
                raise Unavailable(f"{error.filename or 'input file'}: {error.strerror}") from error
            left_s = deadline_s - self._clock.monotonic_s()
            if batches or left_s <= 0 or not all(log.ended for log in wanted):
                return batches
            self._clock.wait(min(left_s, LOOK_AGAIN_S))

    def ended(self, partition: TopicPartition) -> bool:
        """Tell whether all was read; a pipe that is only slow has not ended, unless the source goes on anyway."""
        log = self._logs[partition]
        slow = isinstance(log, StdinLog) and log.is_open() and not self.live
        return partition in self._sought and log.ended and not slow

    def behind(self, partition: TopicPartition) -> int | None:
        """Return 0 at the end; what lies before it was not counted."""
        return 0 if self.ended(partition) else None

    def gaps(self) -> Sequence[Gap]:
        """Return nothing: what cannot be read here is reported as corrupt."""
        return ()

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing: no lag tool looks at files."""

    def close(self) -> None:
        for log in self._logs.values():
            log.close()

    def _read(self, logs: list[FileLog]) -> list[RecordBatch]:
        batches = []
        size = 0
        for i in range(len(logs)):
            log = logs[(self._turn + i) % len(logs)]
            batch = log.read(POLL_RECORDS_MAX, POLL_BYTES_MAX)
            if batch is not None:
                batches.append(batch)
                size += sum(len(record.value or b"") for record in batch.records)
            if size >= POLL_TOTAL_BYTES_MAX:
                self._turn += i + 1
                break
        return batches

    def _add(self, text: str, follow: bool, place: str, problems: list[ConfigProblem]) -> None:
        try:
            for log in _logs_at(text, follow):
                if log.partition in self._logs:
                    problems.append(ConfigProblem(place, f'another input is also called "{log.partition.topic}"'))
                self._logs[log.partition] = log
        except OSError as error:
            problems.append(ConfigProblem(place, f"{text} cannot be read: {error.strerror}"))


def setting_problems(settings: FileSettings) -> list[ConfigProblem]:
    """Return a problem for each path that cannot be read, without reading any."""
    return [
        ConfigProblem(f"source.file.paths[{i}]", f"{path} cannot be read: {why}")
        for i, path in enumerate(settings.paths)
        if path != STDIN and (why := _why_not_readable(path))
    ]


def _why_not_readable(path: str) -> str:
    try:
        os.stat(path)
    except OSError as error:
        return str(error.strerror)
    return "" if os.access(path, os.R_OK) else os.strerror(errno.EACCES)


def _logs_at(text: str, follow: bool) -> Iterator[FileLog]:
    """Yield the logs that a path stands for; the topic is the file's or folder's name."""
    if text == STDIN:
        yield StdinLog("stdin", StdinBytes())
        return
    path = Path(text).resolve()
    if path.is_dir():
        yield from _folder_logs(path, follow)
    elif _is_capture(path):
        yield from _capture_logs(path)
    else:
        yield SingleFileLog(path.name, path, follow)


def _folder_logs(folder: Path, follow: bool) -> Iterator[FileLog]:
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    captures = [file for file in files if not file.name.startswith(".") and _is_capture(file)]
    for capture in captures:
        yield from _capture_logs(capture)
    if follow or len(files) > len(captures):
        yield FolderLog(folder.name, folder, follow, [capture.name for capture in captures])


def _capture_logs(path: Path) -> Iterator[FileLog]:
    found = parts(path)
    several = len({part.topic for part in found}) > 1
    for part in found:
        yield CaptureLog(f"{path.name}/{part.topic}" if several else path.name, path, part)


def _is_capture(path: Path) -> bool:
    return not is_parquet(path) and is_capture(path)
