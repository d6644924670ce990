"""The breaker, which stops a partition before its records drain into the dead letters."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import CorruptState, FloodOfPoison
from service.ingest.contract import TopicPartition
from service.ingest.letters import NOT_POISON
from service.settings import DeadLetterSettings

ACCEPTED = ""


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
