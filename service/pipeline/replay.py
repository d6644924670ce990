"""Replay: the same pipeline over recorded input at full speed, with its results in files. Same input, same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from detectors.idle_waste import STATES, IdleWaste
from detectors.labels import LabelSet
from service.alerting.contract import Alert, Notification
from service.alerting.lifecycle import to_json
from service.pipeline.loop import Loop
from service.pipeline.saved_state import state_hash
from service.pipeline.worker import TickOutcome, Worker

Progress = Callable[[int, int], None]  # records read, event time reached in ns


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), sort_keys=True, allow_nan=False) + "\n"


class Intervals:
    """Writes an interval whenever a GPU's state or labels change: who, which state, from when to when, what it cost.

    The cost is null where the GPU has no price: 0 would be a lie.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._labels: list[LabelSet] = []
        self._state: NDArray[np.int8] = np.empty(0, np.int8)
        self._start_ns: NDArray[np.int64] = np.empty(0, np.int64)
        self._usd: NDArray[np.float64] = np.empty(0)
        self._priced: NDArray[np.bool_] = np.empty(0, np.bool_)

    def on_tick(self, worker: Worker, end_ns: int, tick_ns: int) -> None:
        """Compare with the tick before; an interval begins with the tick that first shows it."""
        saved = worker.detectors[IdleWaste.name].snapshot()
        state, usd = saved["state"].copy(), saved["usd_in_state"].sum(axis=1)
        known = len(self._labels)
        labels = worker.entities.labels
        begin_ns = end_ns - tick_ns
        if len(labels) < known:
            self.close(begin_ns, self._usd)
            known = 0
        fresh = len(labels) - known
        ended = state[:known] != self._state
        if labels[:known] != self._labels:  # seldom, and told at once
            ended |= np.array([a is not b and a != b for a, b in zip(labels, self._labels, strict=False)], bool)
        spent = np.concatenate([self._spent[:known], np.zeros(fresh)]) if known else np.zeros(fresh)
        for entity in np.flatnonzero(ended).tolist():
            self._write(entity, begin_ns, float(spent[entity]))
        starts = np.concatenate([ended, np.ones(fresh, bool)])
        self._start_ns = np.concatenate([self._start_ns[:known], np.zeros(fresh, np.int64)])
        self._start_ns[starts] = begin_ns
        previous = np.concatenate([self._usd[:known], np.zeros(fresh)])
        at_start = np.concatenate([self._at_start[:known], np.zeros(fresh)]) if known else previous.copy()
        at_start[starts] = previous[starts]
        self._at_start, self._usd = at_start, usd
        self._labels, self._state = list(labels), state
        self._priced = ~np.isnan(worker.fleet(end_ns).usd_per_hour)

    _at_start: NDArray[np.float64] = np.empty(0)

    @property
    def _spent(self) -> NDArray[np.float64]:
        return self._usd - self._at_start

    def close(self, end_ns: int, usd: NDArray[np.float64] | None = None) -> None:
        """Write what is still going on."""
        spent = self._spent
        for entity in range(len(self._labels)):
            self._write(entity, end_ns, float(spent[entity]))
        self._labels, self._state = [], np.empty(0, np.int8)

    def _write(self, entity: int, end_ns: int, usd: float) -> None:
        labels = self._labels[entity]
        self._out.write(
            _line(
                {
                    "entity_key": labels.entity_key(),
                    "labels": {k: v for k, v in labels._asdict().items() if v},
                    "state": STATES[int(self._state[entity])],
                    "start_ns": int(self._start_ns[entity]),
                    "end_ns": end_ns,
                    "waste_usd": usd if self._priced[entity] else None,
                }
            )
        )


class Recorder:
    """The replay's outlet and observer: writes alerts.ndjson, notifications.ndjson, intervals.ndjson and summary.json."""

    def __init__(self, folder: Path, tick_s: float, progress: Progress | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._tick_ns = int(tick_s * 1e9)
        self._alerts = (folder / "alerts.ndjson").open("w", encoding="utf-8")
        self._notifications = (folder / "notifications.ndjson").open("w", encoding="utf-8")
        self._file = (folder / "intervals.ndjson").open("w", encoding="utf-8")
        self._intervals = Intervals(self._file)
        self._progress = progress
        self._started_s = time.perf_counter()
        self.alerts = 0
        self.ticks = 0

    def put(self, notifications: Sequence[Notification]) -> None:
        """Write what would be sent."""
        for notification in notifications:
            fields = asdict(notification) | {"alerts": [alert.alert_id for alert in notification.alerts]}
            self._notifications.write(_line(fields))

    def full(self) -> bool:
        """A file is never full."""
        return False

    def on_tick(self, worker: Worker, outcome: TickOutcome) -> None:
        """Write what the tick changed."""
        self.ticks += 1
        self.alerts += len(outcome.fired)
        for alert in (*outcome.fired, *outcome.resolved):
            self._alerts.write(_line(_plain(alert)))
        self._intervals.on_tick(worker, outcome.end_ns, self._tick_ns)

    def on_checkpoint(self, seconds: float) -> None:
        """Nothing is saved in a replay."""

    def on_round(self, loop: Loop) -> None:
        """Show progress where somebody looks."""
        if self._progress is not None:
            self._progress(loop.intake.outcomes["accepted"], loop.worker.as_of_ns())

    def on_trouble(self, what: str) -> None:
        """The loop has logged it."""

    def finish(self, loop: Loop) -> dict[str, Any]:
        """Write the summary and close the files. Only rows_per_s depends on the machine: it stays out of the file."""
        self._intervals.close(loop.worker.as_of_ns())
        for file in (self._alerts, self._notifications, self._file):
            file.close()
        outcomes = loop.intake.outcomes
        records = sum(outcomes[name] for name in ("accepted", "rejected", "tombstone", "no_gpu"))
        summary: dict[str, Any] = {
            "records": records,
            "rows": outcomes["rows"],
            "outcomes": {k: v for k, v in sorted(outcomes.items()) if v},
            "rejects_by_reason": dict(sorted(loop.intake.letters_by_reason.items())),
            "entities": len(loop.worker.entities),
            "entities_without_price": int(np.isnan(loop.worker.fleet(loop.worker.as_of_ns()).usd_per_hour).sum()),
            "ticks": self.ticks,
            "alerts": self.alerts,
            "as_of_ns": loop.worker.as_of_ns(),
            **_totals(loop.worker),
            "state_hash": state_hash(loop.worker.snapshot()),
        }
        text = json.dumps(summary, indent=2, sort_keys=True, allow_nan=False)
        (self._folder / "summary.json").write_text(text + "\n", encoding="utf-8")
        elapsed_s = max(time.perf_counter() - self._started_s, 1e-9)
        return summary | {"rows_per_s": round(outcomes["rows"] / elapsed_s)}


def _plain(alert: Alert) -> dict[str, Any]:
    return {name: value for name, value in to_json(alert).items() if value is not None}


def _totals(worker: Worker) -> dict[str, Any]:
    if not worker.was_judged():
        return {"hours_in_state": {}, "waste_usd": 0.0}
    saved = worker.detectors[IdleWaste.name].snapshot()
    hours = saved["seconds_in_state"] / 3600
    usd = float(saved["usd_in_state"].sum())
    return {"hours_in_state": dict(_rounded(hours)), "waste_usd": round(usd, 6)}


def _rounded(hours: NDArray[np.float64]) -> Iterator[tuple[str, float]]:
    for name, value in zip(STATES, hours.tolist(), strict=True):
        yield name, round(value, 6)
