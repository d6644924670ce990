"""The worker: the one owner of state, from accepted rows to alerts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.batch import EventBatch
from detectors.contract import Detector, Fleet
from detectors.entities import Entities, Presence
from detectors.features import Features
from detectors.label_texts import label_pieces
from detectors.labels import LabelSets
from detectors.params import Params
from detectors.state import Array, ArraySpec, Snapshot, StateArrays, text_pieces, texts_of, under
from service.alerting.contract import Alert, Notification
from service.alerting.grouping import Grouping
from service.alerting.lifecycle import Lifecycle, from_json, in_order_of_id, to_json
from service.ingest.contract import TopicPartition
from service.logs import get_logger
from service.pipeline.admission import Admission
from service.pipeline.attribution import holders_gone
from service.pipeline.cut import Cut
from service.pipeline.directory import Directory
from service.pipeline.merge import label_sets_of, merge_rows
from service.pipeline.particulars import Particulars, Subjects
from service.pipeline.pending import Pending
from service.pipeline.refusals import Refusals
from service.pipeline.saved_state import STATE_VERSION, meta_of, usable_by
from service.pipeline.scale import Scale
from service.pipeline.snapshot_file import Late
from service.pipeline.watermarks import Watermarks
from service.settings import Settings

log = get_logger(__name__)

# GPUs that report under more label sets than this, of many holders say, are described anew in each tick.
_SETTLED_MAX = 8


@dataclass(frozen=True, slots=True)
class TickOutcome:
    """What the end of one tick brought."""

    end_ns: int
    rows: int
    seconds: float  # wall time that it took, for the metrics alone
    fired: tuple[Alert, ...]
    resolved: tuple[Alert, ...]
    notifications: tuple[Notification, ...]


class Worker:
    """Order of calls: `ingest` batches, then `advance` as far as the watermarks allow; `snapshot` between the two.

    Every decision is taken from event time and the configuration, so that a worker resumed from a snapshot goes on as if
    nothing had happened.
    """

    def __init__(
        self,
        settings: Settings,
        detectors: Mapping[str, tuple[type[Detector], Params]],
        directory: Directory,
        label_sets: LabelSets,
        resume: Snapshot | None,
    ) -> None:
        meta = meta_of(resume)
        self._fleet = settings.fleet
        self._tick_ns = int(settings.fleet.tick_s * 1e9)
        self._stale_ns = int(settings.fleet.stale_after_s * 1e9)
        self._label_sets = label_sets
        self.watermarks = Watermarks(settings.ingest, meta.get("watermarks"))
        self.pending = Pending(self._tick_ns, label_sets, under("pending.", resume))
        self.entities = Entities(settings.fleet.entities_max, self._stale_ns, under("entities.", resume))
        self._next_tick = self._tick_to_resume(meta)
        self._scale = Scale(meta.get("percent_seen_ns", {}))
        required = [f for cls, params in detectors.values() for f in cls.requires(params)]
        self.features = Features(required, self._stale_ns, under("features.", resume))
        self.detectors = {
            name: cls(params, under(f"detectors.{name}.", usable_by(name, cls, meta, resume)))
            for name, (cls, params) in detectors.items()
        }
        self.lifecycles = {name: self._lifecycle(name, meta, resume) for name in detectors}
        self.grouping = Grouping(settings.alerting, meta.get("groups"))
        self._judged = False
        self.particulars = Particulars(directory)
        # The label sets under which an entity reported in its last tick, see holder_confirm: seeing them again says
        # nothing new, which spares the steady state all per-entity Python.
        self._settled = StateArrays({"label_set": ArraySpec(np.int32, -1, (_SETTLED_MAX,))}, None)
        self._admission = Admission(self.entities, label_sets, settings.fleet.entities_max)
        self._grow()
        self._introduce(range(len(self.entities)))
        self._recall()
        self._bind()

    def _tick_to_resume(self, meta: dict[str, Any]) -> int | None:
        if meta.get("next_tick") is None:
            return None
        first = self.pending.first_tick()
        same_instant: int = -(-meta["next_tick"] * meta["tick_ns"] // self._tick_ns)
        return same_instant if first is None else min(same_instant, first)

    def _lifecycle(self, name: str, meta: dict[str, Any], resume: Snapshot | None) -> Lifecycle:
        detector = self.detectors[name]
        saved = under(f"alerts.{name}.", usable_by(name, type(detector), meta, resume))
        firing = texts_of(saved["firing"]) if saved is not None else []
        return Lifecycle(detector, saved, [from_json(alert) for alert in firing])

    def _grow(self) -> None:
        count = len(self.entities)
        for part in (self.features, self._scale, self._settled, self.particulars):
            part.grow(count)
        for detector in self.detectors.values():
            detector.grow(count)

    def _bind(self) -> None:
        """Tell who depends on it that ids were given anew."""
        for lifecycle in self.lifecycles.values():
            lifecycle.bind(self.entities.ids())
        self._admission.claim_for(self.pending.label_sets())

    def _introduce(self, entities: Sequence[int]) -> None:
        """Tell everybody what the labels of these entities say; the newest may be new."""
        at = slice(entities.start, entities.stop) if isinstance(entities, range) else np.array(entities, np.int64)
        known = self.entities.labels
        labels = known[at] if isinstance(at, slice) else [known[entity] for entity in entities]
        self.particulars.grow(len(self.entities))
        owners = self.particulars.learn(entities, at, labels)
        self._scale.describe(at)
        for detector in self.detectors.values():
            detector.describe(entities, labels, owners)

    def _recall(self) -> None:
        """Take it that a resumed fleet reported as it was described last: what goes on so costs nothing to learn anew.

        Being described once more under the same labels changes nothing but the number of those who share a GPU.
        """
        ids = self._label_sets.intern_all(self.entities.labels.plain())
        self._admission.recall(ids)
        alone = np.flatnonzero(self.entities.state["sharers"] <= 1)
        self._settled["label_set"][alone, 0] = ids[alone]

    def ingest(self, batch: EventBatch) -> Refusals:
        """Take in a batch; return the rows that are late or whose GPU there is no room for."""
        partition = TopicPartition(batch.topic, batch.partition)
        late = self.watermarks.advance(partition, batch.event_time_ns, batch.next_offset)
        if self._next_tick is not None:
            late |= batch.event_time_ns < self._next_tick * self._tick_ns
        room = self._admission.room(batch.label_set, ~late)
        accepted = room & ~late
        if accepted.any():
            self.pending.add_batch(batch, accepted)
        return Refusals.of(late, room, self._fleet.entities_max)

    def advance(
        self,
        idle: Collection[TopicPartition],
        on_tick: Callable[[TickOutcome], None],
        ticks_max: int = 1 << 62,
    ) -> int:
        """Close every tick that is complete, at most ticks_max; return how many. `on_tick` sees each outcome."""
        return self._close_until(self.watermarks.complete_until_ns(idle), on_tick, ticks_max)

    def finish(self, on_tick: Callable[[TickOutcome], None]) -> int:
        """Close every tick that has rows: the input has ended and nothing more can come."""
        last = self.pending.last_tick()
        return self._close_until((last + 1) * self._tick_ns, on_tick) if last is not None else 0

    def _close_until(self, until_ns: int, on_tick: Callable[[TickOutcome], None], ticks_max: int = 1 << 62) -> int:
        if self._next_tick is None:
            first = self.pending.first_tick()
            if first is None or (first + 1) * self._tick_ns > until_ns:
                return 0
            self._next_tick = first
        closed = 0
        while (self._next_tick + 1) * self._tick_ns <= until_ns and closed < ticks_max:
            if self._nothing_changes():
                self._next_tick = min(self.pending.first_tick() or 1 << 62, until_ns // self._tick_ns)
                if (self._next_tick + 1) * self._tick_ns > until_ns:
                    break
            on_tick(self._close(self._next_tick))
            self._next_tick += 1
            closed += 1
        return closed

    def _nothing_changes(self) -> bool:
        """Tell whether empty ticks would leave everything as it is: a gap of a month needs no million of them."""
        assert self._next_tick is not None
        first = self.pending.first_tick()
        if first is not None and first <= self._next_tick:
            return False
        last_seen = self.entities.state["last_seen_ns"]
        now_ns = self._next_tick * self._tick_ns
        stale = not (now_ns - last_seen <= self._stale_ns + self._tick_ns).any()
        return (
            stale
            and self.grouping.quiet()
            and all(lifecycle.quiet() for lifecycle in self.lifecycles.values())
            and not (self.entities.state["attributed_ns"] > 0).any()
        )

    def _close(self, tick: int) -> TickOutcome:
        started_s = time.perf_counter()
        end_ns = (tick + 1) * self._tick_ns
        for detector in self.detectors.values():
            detector.forget()
        row_count = self._fold(tick)
        self._attribute(end_ns)
        self._forget(end_ns)
        fired: list[Alert] = []
        resolved: list[Alert] = []
        subjects = Subjects(self.entities, self.particulars.entries)
        fleet = self.fleet(end_ns)
        for name, detector in self.detectors.items():
            findings = detector.evaluate(end_ns, self._fleet.tick_s, self.features, fleet)
            begun, ended = self.lifecycles[name].advance(findings, end_ns, subjects, fleet.holder_since_ns)
            fired += begun
            resolved += ended
        self.grouping.take(fired, resolved, end_ns)
        told: list[Notification] = []
        if self.grouping.is_due(end_ns):
            told = self.grouping.due(self.firing(end_ns), end_ns)
        self._judged = True
        seconds = time.perf_counter() - started_s
        return TickOutcome(end_ns, row_count, seconds, tuple(fired), tuple(resolved), tuple(told))

    def _fold(self, tick: int) -> int:
        """Fold the rows of a tick; return how many. Of a large fleet they take more than its figures: none outlives this."""
        chunks = self.pending.take(tick)
        label_set = label_sets_of(chunks)
        known = len(self.entities)
        entity = self._admission.admit(label_set)
        self._grow()
        rows = merge_rows(chunks, label_set, entity, len(self.entities))
        del chunks, label_set, entity
        self._describe(rows.presence, known)
        self._scale.apply(rows, self.entities.labels)
        self.features.fold(rows.entity, rows.time_ns, rows.columns)
        return len(rows.entity)

    def _describe(self, presence: Presence, known: int) -> None:
        """Hand each entity the label sets it reported under; most report what is known already, or are new."""
        self.entities.seen(presence)
        names_holder = self._admission.names_holder()
        unsettled = self.entities.confirm(presence, names_holder, self._settled["label_set"])
        left = unsettled[presence.entity[unsettled] < known]
        changed: list[int] = []
        if len(self.entities) > known:
            rest = self.entities.describe_new(presence, known, self._label_sets, names_holder)
            left = np.concatenate([left, np.searchsorted(presence.entity, rest)])
            changed += range(known, len(self.entities))
        for i in left.tolist():
            entity = int(presence.entity[i])
            if self.entities.describe(entity, presence.sightings(i, self._label_sets)) and entity < known:
                changed.append(entity)
        if changed:
            self._introduce(changed)

    def _attribute(self, end_ns: int) -> None:
        """Release the holders that are gone."""
        ttl_ns = int(self._fleet.attribution_ttl_s * 1e9)
        gone = holders_gone(self.entities.state, self.features, end_ns, self._tick_ns, ttl_ns)
        if len(gone):
            self.entities.release(gone)
            self._settled["label_set"][gone] = -1
            self._introduce(gone.tolist())

    def _forget(self, end_ns: int) -> None:
        silent_ns = end_ns - self.entities.state["last_seen_ns"]
        kept = silent_ns <= int(self._fleet.forget_after_s * 1e9)
        if kept.all():
            return
        keep = np.flatnonzero(kept)
        self.entities.keep(keep)
        self._admission.keep(keep, len(kept))
        for part in (self.features, self._scale, self._settled, self.particulars):
            part.keep(keep)
        for name, detector in self.detectors.items():
            detector.keep(keep)
            self.lifecycles[name].keep(keep, len(kept))
        self._bind()

    def fleet(self, now_ns: int) -> Fleet:
        """Return what is known of every entity besides measurements."""
        state = self.entities.state
        return Fleet(
            held=self.entities.held(),
            fresh=now_ns - state["last_seen_ns"] <= self._stale_ns,
            present_since_ns=state["present_since_ns"],
            holder_since_ns=state["holder_since_ns"],
            usd_per_hour=self.particulars.column("usd_per_hour"),
            idle_watts=self.particulars.column("idle_watts"),
            limit_watts=self.particulars.column("limit_watts"),
        )

    def firing(self, now_ns: int) -> dict[str, Alert]:
        """Return all alerts that fire, by id."""
        return {k: a for cycle in self.lifecycles.values() for k, a in cycle.firing(now_ns).items()}

    def label_sets_known(self) -> int:
        """Return how many label sets are remembered."""
        return self._label_sets.known()

    def label_sets_used(self) -> NDArray[np.bool_]:
        """Return bool[label sets]: rows wait under it, or it spares an entity that reports as before being described."""
        used = self.pending.label_sets()
        settled = self._settled["label_set"]
        used[settled[settled >= 0]] = True
        return used

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget all but these label sets, bool[label sets]; one that is met again is learned again, to the same end."""
        self._admission.forget(used)
        self._label_sets.forget(used)

    def was_judged(self) -> bool:
        """Tell whether this worker has closed a tick itself: only then are there figures to show."""
        return self._judged

    def as_of_ns(self) -> int:
        """Return the end of the last closed tick, 0 before the first."""
        return self._next_tick * self._tick_ns if self._next_tick is not None else 0

    def is_due(self, idle: Collection[TopicPartition]) -> bool:
        """Tell whether `advance` would close a tick."""
        tick = self.pending.first_tick() if self._next_tick is None else self._next_tick
        return tick is not None and (tick + 1) * self._tick_ns <= self.watermarks.complete_until_ns(idle)

    def cut(self) -> Cut:
        """Return what a worker that resumes needs to go on with equal results, as of now.

        The arrays are the state's own: no tick may close before the cut has released them.
        """
        meta: dict[str, Any] = {
            "version": STATE_VERSION,
            "watermarks": self.watermarks.snapshot(),
            "next_tick": self._next_tick,
            "tick_ns": self._tick_ns,
            "state_versions": {name: d.state_version for name, d in self.detectors.items()},
            "percent_seen_ns": self._scale.snapshot(),
            "groups": self.grouping.snapshot(),
        }
        labels, waiting = self.entities.labels.frozen(), self.pending.frozen()
        firing = {f"alerts.{name}.firing": cycle.fired() for name, cycle in self.lifecycles.items()}

        def texts() -> Late:
            text = json.dumps(meta, sort_keys=True, separators=(",", ":"))
            return {
                "meta": np.frombuffer(text.encode(), np.uint8),
                "entities.labels": label_pieces(labels),
                **{name: text_pieces(map(to_json, in_order_of_id(alerts))) for name, alerts in firing.items()},
                **{f"pending.{name}": array for name, array in waiting.arrays().items()},
            }

        parts = [("entities.", self.entities.snapshot()), ("features.", self.features.snapshot())]
        parts += [(f"detectors.{n}.", d.snapshot()) for n, d in self.detectors.items()]
        parts += [(f"alerts.{n}.", cycle.snapshot()) for n, cycle in self.lifecycles.items()]
        return Cut({prefix + name: array for prefix, arrays in parts for name, array in arrays.items()}, texts)

    def snapshot(self) -> dict[str, Array]:
        """Return copies of everything that a cut holds."""
        return {name: array.copy() for name, array in self.cut().arrays().items()}
