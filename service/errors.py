"""The four families of trouble; whatever is none of these is a bug and ends the process with its stack."""

from __future__ import annotations

from dataclasses import dataclass


class PoisonRecord(Exception):
    """This record is bad and will stay bad: it goes to the dead letters, and the stream goes on.

    `reason` is a code of `service.ingest.contract.REASONS`; `detail` is free text for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Unavailable(Exception):
    """The other side is down or full: keep the work, wait, try again."""

    def __init__(self, what: str, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing the operator must mend: where it stands and what was expected there."""

    path: str
    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.path}: {self.message}"


class ConfigError(Exception):
    """The operator must act: every problem found, reported together; exit code 2."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class CorruptState(Exception):
    """Saved state failed its checks and must not be loaded (promise G8)."""


class FloodOfPoison(Exception):
    """Too many bad records: the breaker stops the partition rather than drain it into the dead letters."""
