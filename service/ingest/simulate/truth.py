"""The ground truth: which state each GPU ought to be found in, when, and what was wrong with its telemetry."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from service.ingest.simulate.drive import straggler_rank
from service.ingest.simulate.faults import Faults, Span
from service.ingest.simulate.fleet import Entity, Fleet
from service.ingest.simulate.plan import Plan, Segment


class TruthRow(NamedTuple):
    """One entity during [start_ns, end_ns). `state` is what can be known: unknown where telemetry hides it.

    `trouble` is empty or one of the kinds of faults, `straggler`, or `missing_sm_column`.
    """

    entity_key: str
    state: str
    start_ns: int
    end_ns: int
    trouble: str

    def line(self) -> str:
        """Return the row as one line of NDJSON."""
        return json.dumps(self._asdict(), separators=(",", ":")) + "\n"


class Truth:
    """Truth rows of a fleet, for any time."""

    def __init__(self, fleet: Fleet, plan: Plan, faults: Faults) -> None:
        self._fleet, self._plan, self._faults = fleet, plan, faults

    def row_at(self, entity: Entity, time_ns: int) -> TruthRow:
        """Return a row of `entity` that holds `time_ns`; the rows before and after it may say the same."""
        segment = self._plan.at(self._fleet.slots[entity.slot], time_ns)
        span = self._faults.at(entity.node, time_ns)
        state, trouble = self._judge(entity, segment, span)
        return TruthRow(
            entity.key, state, max(segment.start_ns, span.start_ns), min(segment.end_ns, span.end_ns), trouble
        )

    def rows(self, entities: Iterable[Entity], start_ns: int, end_ns: int) -> Iterator[TruthRow]:
        """Yield the rows that overlap [start_ns, end_ns), cut to it, entity by entity; neighbours differ."""
        for entity in entities:
            row = self.row_at(entity, start_ns)._replace(start_ns=start_ns)
            while row.end_ns < end_ns:
                following = self.row_at(entity, row.end_ns)
                if continues(row, following):
                    row = row._replace(end_ns=following.end_ns)
                    continue
                yield row
                row = following
            yield row._replace(end_ns=end_ns)

    def _judge(self, entity: Entity, segment: Segment, span: Span) -> tuple[str, str]:
        window = span.window
        if window is not None and window.hits(entity.gpu):
            blinded = window.kind == "silence" or (window.kind == "false_zeros" and shows_false_zeros(segment.state))
            if blinded or window.kind != "false_zeros":
                return ("unknown" if blinded else segment.state), window.kind
        slot = self._fleet.slots[entity.slot]
        if self._fleet.scenario == "fleet" and straggler_rank(self._fleet.seed, segment, slot.size) == entity.rank:
            return segment.state, "straggler"
        return segment.state, "" if entity.node.exports_sm else "missing_sm_column"


def shows_false_zeros(state: str) -> bool:
    """Tell whether zeros in the profiling columns contradict what else is measured in this state."""
    return state in ("active", "low_efficiency")


def continues(row: TruthRow, following: TruthRow) -> bool:
    """Tell whether the truth goes on unchanged from one row to the next."""
    return (row.state, row.trouble) == (following.state, following.trouble)


class TruthFile:
    """Writes rows once they are over. After a restart what was written before the new beginning is kept."""

    def __init__(self, path: Path, truth: Truth, entities: list[Entity], start_ns: int) -> None:
        self._truth, self._entities = truth, entities
        kept = [line for line in _lines(path) if json.loads(line)["end_ns"] <= start_ns]
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._open = [truth.row_at(entity, start_ns)._replace(start_ns=start_ns) for entity in entities]

    def advance(self, time_ns: int) -> None:
        """Write every row that ended by `time_ns`."""
        for i, row in enumerate(self._open):
            while row.end_ns <= time_ns:
                following = self._truth.row_at(self._entities[i], row.end_ns)
                if continues(row, following):
                    row = row._replace(end_ns=following.end_ns)
                    continue
                self._file.write(row.line())
                row = following
            self._open[i] = row
        self._file.flush()

    def close(self, time_ns: int) -> None:
        """Write what is still going on, cut at `time_ns`, and close the file."""
        self.advance(time_ns)
        self._file.writelines(row._replace(end_ns=time_ns).line() for row in self._open if row.start_ns < time_ns)
        self._file.close()


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")]
