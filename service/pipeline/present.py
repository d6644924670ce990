"""From the worker's state to what readers may know."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import cast

import numpy as np
from numpy.typing import NDArray

from detectors.features import ACTIVITY
from detectors.idle_waste import IdleWaste
from detectors.state import Array
from service.alerting.contract import Alert, AlertStatus
from service.pipeline.worker import Worker
from service.view import FleetView

ALERTS_SHOWN_MAX = 2_000
RESOLVED_SHOWN_MAX = 200


class Presenter:
    """Builds views. Keeps the recently resolved alerts and the count of all resolved ones, for reading only."""

    def __init__(self) -> None:
        self._resolved: list[Alert] = []
        self.resolved_count = 0

    def note_resolved(self, alerts: tuple[Alert, ...]) -> None:
        """Remember alerts that ended."""
        self._resolved = [*self._resolved, *alerts][-RESOLVED_SHOWN_MAX:]
        self.resolved_count += len(alerts)

    def view(self, worker: Worker) -> FleetView:
        """Return the fleet as of the last tick that was closed, by this worker or by the one that it was resumed from."""
        now_ns = worker.as_of_ns()
        figures = _figures(worker, now_ns)
        latest = {name: worker.features.latest(name, now_ns) for name in (
            ACTIVITY, "tensor_ratio", "power_watts", "fb_used_bytes", "fb_free_bytes", "fb_total_bytes",
        )}  # fmt: skip
        total = latest["fb_total_bytes"]
        known = latest["fb_used_bytes"] + latest["fb_free_bytes"]
        usd_per_hour = worker.fleet(now_ns).usd_per_hour.copy()
        cycles = worker.lifecycles.values()
        firing = [alert for cycle in cycles for alert in cycle.costliest(now_ns, ALERTS_SHOWN_MAX)]
        firing.sort(key=lambda alert: (-(alert.usd_per_hour or 0.0), alert.alert_id))
        return FleetView(
            as_of_ns=now_ns,
            entity_key=worker.entities.keys.frozen(),
            labels=worker.entities.labels.frozen(),
            owner=worker.particulars.owners.frozen(),
            state=figures["state"],
            state_since_ns=figures["state_since_ns"],
            usd_per_hour=_given(usd_per_hour),
            waste_usd_per_hour=_given(usd_per_hour * figures["score"]),
            waste_usd_total=figures["usd_so_far"],
            confidence=figures["confidence"],
            signal=figures["signal"],
            activity_ratio=_given(latest[ACTIVITY]),
            tensor_ratio=_given(latest["tensor_ratio"]),
            power_watts=_given(latest["power_watts"]),
            fb_used_bytes=_given(latest["fb_used_bytes"]),
            fb_total_bytes=_given(np.where(np.isnan(total), known, total)),
            seconds_in_state=figures["seconds_total"],
            waste_usd_in_state=figures["usd_total"],
            alerts=(*firing[:ALERTS_SHOWN_MAX], *reversed(self._resolved)),
            alert_counts={
                AlertStatus.PENDING: sum(cycle.pending_count() for cycle in cycles),
                AlertStatus.FIRING: sum(cycle.firing_count() for cycle in cycles),
                AlertStatus.RESOLVED: self.resolved_count,
            },
        )


def _figures(worker: Worker, now_ns: int) -> Mapping[str, Array]:
    """Return the detector's figures of its last judgement, which a resumed worker has to find again.

    States, seconds and dollars are saved, what they rest on (confidence, signal, wasted share) is not: a copy judges
    once more from the same statistics, and charges no time for it.
    """
    detector = cast("IdleWaste", worker.detectors[IdleWaste.name])
    if worker.was_judged():
        return detector.figures()
    again = deepcopy(detector)
    again.evaluate(now_ns, 0.0, worker.features, worker.fleet(now_ns))
    saved = detector.snapshot()
    return again.figures() | {name: saved[name] for name in ("state", "state_since_ns")}


def _given(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an array that nobody else has for a view to keep, which copies what can still be written to."""
    array.flags.writeable = False
    return array
