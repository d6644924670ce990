"""How well found states agree with the ground truth: precision and recall per state, in GPU-seconds."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from service.ingest.simulate.truth import TruthRow

STATES: Final = (
    "unallocated", "truly_idle", "idle_held", "low_efficiency", "hung_collective", "keep_alive", "active", "unknown",
)  # fmt: skip
WASTE: Final = frozenset(STATES[:6])
SETTLE_S: Final = 315.0  # the window of the rules (300 s) and one tick
# Frozen values look like what they were frozen in, and like no telemetry at all: both answers are right.
_EITHER: Final = "frozen_exporter"
_SECOND: Final = 1_000_000_000


class StateScore(NamedTuple):
    """One state. Precision and recall are None where nothing was claimed or nothing was there."""

    state: str
    support_s: float
    claimed_s: float
    correct_s: float
    precision: float | None
    recall: float | None


class TroubleScore(NamedTuple):
    """The time under one kind of trouble ("" is none), once settled. `false_waste_s`: waste was claimed, none was there."""

    trouble: str
    support_s: float
    correct_s: float
    recall: float | None
    false_waste_s: float


class Evaluation(NamedTuple):
    """`settled` leaves out `settle_s` after every change of the true state, `raw` leaves out nothing.

    `confusion` is settled GPU-seconds by (true state, found state).
    """

    settle_s: float
    settled: list[StateScore]
    raw: list[StateScore]
    troubles: list[TroubleScore]
    confusion: Mapping[tuple[str, str], float]

    def accuracy(self) -> float | None:
        """Return the share of settled time in which the found state was the true one."""
        return _ratio(sum(score.correct_s for score in self.settled), sum(score.support_s for score in self.settled))

    def false_waste_s(self) -> float:
        """Return the settled GPU-seconds in which waste was claimed where none was."""
        return sum(seconds for (true, found), seconds in self.confusion.items() if found in WASTE and true not in WASTE)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON would have it."""
        return {
            "settle_s": self.settle_s,
            "accuracy": self.accuracy(),
            "false_waste_s": self.false_waste_s(),
            "settled": [score._asdict() for score in self.settled],
            "raw": [score._asdict() for score in self.raw],
            "troubles": [score._asdict() for score in self.troubles],
            "confusion": [
                {"true": true, "found": found, "seconds": seconds}
                for (true, found), seconds in sorted(self.confusion.items())
            ],
        }

    def table(self) -> list[tuple[str, ...]]:
        """Return a heading and one line per state, as text: for a terminal."""
        heading = ("state", "GPU-hours", "precision", "recall", "raw precision", "raw recall")
        lines: list[tuple[str, ...]] = [heading]
        for settled, raw in zip(self.settled, self.raw, strict=True):
            shares = (settled.precision, settled.recall, raw.precision, raw.recall)
            lines.append(
                (settled.state, f"{settled.support_s / 3600:.1f}", *("-" if s is None else f"{s:.3f}" for s in shares))
            )
        return lines


class _Stretch(NamedTuple):
    """Time of one GPU in which neither truth nor finding changes."""

    true: str
    found: str
    trouble: str
    seconds: float
    settled: bool


def evaluate(
    truth: Iterable[TruthRow], found: Iterable[TruthRow], settle_s: float = SETTLE_S, until_ns: int | None = None
) -> Evaluation:
    """Compare intervals of both, in any order; `found` needs no trouble. Time that nothing was found for is unknown.

    Time after `until_ns`, by default the end of the newest found interval, is left out: the service did not see it.
    """
    found_by_key = _by_key(found)
    ends = [row.end_ns for rows in found_by_key.values() for row in rows]
    limit_ns = max(ends, default=0) if until_ns is None else until_ns
    stretches: list[_Stretch] = []
    for key, rows in _by_key(truth).items():
        stretches.extend(_stretches(rows, found_by_key.get(key, []), round(settle_s * _SECOND), limit_ns))
    settled = [stretch for stretch in stretches if stretch.settled]
    confusion: Counter[tuple[str, str]] = Counter()
    for stretch in settled:
        confusion[stretch.true, stretch.found] += stretch.seconds  # type: ignore[assignment]
    return Evaluation(
        settle_s, _state_scores(settled), _state_scores(stretches), _trouble_scores(settled), dict(confusion)
    )


def read_intervals(path: Path) -> Iterator[TruthRow]:
    """Read NDJSON rows of truth or of found states. Raises ValueError naming the line that is not one."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield TruthRow(
                    str(row["entity_key"]),
                    str(row["state"]),
                    int(row["start_ns"]),
                    int(row["end_ns"]),
                    str(row.get("trouble", "")),
                )
            except (ValueError, KeyError, TypeError) as error:
                expected = "expected entity_key, state, start_ns and end_ns"
                raise ValueError(f"{path}:{number}: {expected}: {error!r}") from error


def _by_key(rows: Iterable[TruthRow]) -> dict[str, list[TruthRow]]:
    by_key: dict[str, list[TruthRow]] = defaultdict(list)
    for row in rows:
        by_key[row.entity_key].append(row)
    for of_key in by_key.values():
        of_key.sort(key=lambda row: row.start_ns)
    return by_key


def _stretches(truth: list[TruthRow], found: list[TruthRow], settle_ns: int, limit_ns: int) -> Iterator[_Stretch]:
    changed_ns, state, place = 0, "", 0
    for row in truth:
        if row.state != state:
            changed_ns, state = row.start_ns, row.state
        edges = {row.start_ns, row.end_ns, changed_ns + settle_ns}
        while place < len(found) and found[place].end_ns <= row.start_ns:
            place += 1
        overlapping = []
        for other in found[place:]:
            if other.start_ns >= row.end_ns:
                break
            overlapping.append(other)
            edges |= {other.start_ns, other.end_ns}
        times = sorted(min(edge, limit_ns) for edge in edges if row.start_ns <= edge <= row.end_ns)
        for start_ns, end_ns in itertools.pairwise(times):
            claim = _claim(overlapping, start_ns)
            either = row.trouble == _EITHER and claim == "unknown"
            if end_ns > start_ns and not either:
                settled = start_ns >= changed_ns + settle_ns
                yield _Stretch(state, claim, row.trouble, (end_ns - start_ns) / _SECOND, settled)


def _claim(found: list[TruthRow], time_ns: int) -> str:
    for row in found:
        if row.start_ns <= time_ns < row.end_ns:
            return row.state if row.state in STATES else "unknown"
    return "unknown"


def _state_scores(stretches: list[_Stretch]) -> list[StateScore]:
    scores = []
    for state in STATES:
        support = sum(s.seconds for s in stretches if s.true == state)
        claimed = sum(s.seconds for s in stretches if s.found == state)
        correct = sum(s.seconds for s in stretches if s.true == s.found == state)
        scores.append(StateScore(state, support, claimed, correct, _ratio(correct, claimed), _ratio(correct, support)))
    return scores


def _trouble_scores(stretches: list[_Stretch]) -> list[TroubleScore]:
    scores = []
    for trouble in sorted({s.trouble for s in stretches}):
        under = [s for s in stretches if s.trouble == trouble]
        support = sum(s.seconds for s in under)
        correct = sum(s.seconds for s in under if s.true == s.found)
        false_waste = sum(s.seconds for s in under if s.found in WASTE and s.true not in WASTE)
        scores.append(TroubleScore(trouble, support, correct, _ratio(correct, support), false_waste))
    return scores


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
