"""The worker: the one owner of state, from accepted rows to alerts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.batch import EventBatch
from detectors.columns import INDEX
from detectors.contract import Detector, Fleet
from detectors.entities import Entities, Sighting
from detectors.features import ACTIVITY, Features
from detectors.labels import LabelSet, LabelSets
from detectors.params import Params
from detectors.state import Array, Snapshot, under
from service.alerting.contract import Alert, Notification
from service.alerting.grouping import Grouping
from service.alerting.lifecycle import Lifecycle, Subject, from_json
from service.errors import CorruptState
from service.ingest.contract import TopicPartition
from service.logs import get_logger
from service.pipeline.directory import Directory, Entry
from service.pipeline.merge import TickRows, merge_rows, scale_utilisation
from service.pipeline.pending import Pending
from service.pipeline.watermarks import Watermarks
from service.settings import Settings

log = get_logger(__name__)

STATE_VERSION = 1
# An exporter that sent more than 1 within the hour sends percent; after an upgrade to ratios the mark must go.
_PERCENT_REMEMBERED_NS = 3600 * 10**9
_EMPTY_FB_BYTES = 64 * 2**20  # what a driver alone may hold: below it a GPU without labels is visibly free


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was decoded but cannot be used: index in its batch, reason code, detail."""

    row: int
    reason: str
    detail: str


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
        meta = _meta(resume)
        self._fleet = settings.fleet
        self._tick_ns = int(settings.fleet.tick_s * 1e9)
        self._stale_ns = int(settings.fleet.stale_after_s * 1e9)
        self._directory = directory
        self._label_sets = label_sets
        self.watermarks = Watermarks(settings.ingest, meta.get("watermarks"))
        self.pending = Pending(self._tick_ns, label_sets, under("pending.", resume))
        self.entities = Entities(settings.fleet.entities_max, self._stale_ns, under("entities.", resume))
        self._next_tick: int | None = None
        if meta.get("next_tick") is not None:
            first = self.pending.first_tick()
            same_instant = -(-meta["next_tick"] * meta["tick_ns"] // self._tick_ns)
            self._next_tick = same_instant if first is None else min(same_instant, first)
        self._percent_seen_ns: dict[str, int] = dict(meta.get("percent_seen_ns", {}))
        required = [f for cls, params in detectors.values() for f in cls.requires(params)]
        self.features = Features(required, self._stale_ns, under("features.", resume))
        self.detectors = {
            name: cls(params, under(f"detectors.{name}.", _known(name, cls, meta, resume)))
            for name, (cls, params) in detectors.items()
        }
        self.lifecycles = {name: self._lifecycle(name, meta, resume) for name in detectors}
        self.grouping = Grouping(settings.alerting, meta.get("groups"))
        self._judged = False
        self.entries: list[Entry] = []
        self._facts = np.empty((0, 3))  # usd_per_hour, idle_watts, limit_watts of each entity
        # The one label set under which an entity reported in its last tick, -1 for none or several: seeing it again
        # says nothing new, which spares the steady state all per-entity Python.
        self._settled = np.empty(0, np.int64)
        self._claimed: set[str] = set()
        self._admitted: dict[int, bool] = {}
        self._reopen()

    def _lifecycle(self, name: str, meta: dict[str, Any], resume: Snapshot | None) -> Lifecycle:
        detector = self.detectors[name]
        saved = under(f"alerts.{name}.", _known(name, type(detector), meta, resume))
        firing = meta.get("firing", {}).get(name, []) if saved is not None else []
        return Lifecycle(detector, saved, [from_json(alert) for alert in firing])

    def _reopen(self) -> None:
        """Work out what follows from labels and configuration, for every entity."""
        self.entries = []
        self._settled = np.empty(0, np.int64)
        self._grow()
        for entity in range(len(self.entities)):
            self._introduce(entity)
        self._bind()
        self._admitted.clear()
        waiting = {self._label_sets[i].entity_key() for i in self.pending.label_sets()}
        self._claimed = {key for key in waiting if self.entities.find(key) is None}

    def _grow(self) -> None:
        count = len(self.entities)
        self.features.grow(count)
        for name, detector in self.detectors.items():
            detector.grow(count)
            self.lifecycles[name].grow(count)
        missing = count - len(self._settled)
        self._settled = np.concatenate([self._settled, np.full(missing, -1)])
        self._facts = np.concatenate([self._facts[: count - missing], np.full((missing, 3), np.nan)])

    def _bind(self) -> None:
        ids = {labels.entity_key(): i for i, labels in enumerate(self.entities.labels)}
        for lifecycle in self.lifecycles.values():
            lifecycle.bind(ids)

    def _introduce(self, entity: int) -> None:
        labels = self.entities.labels[entity]
        entry = self._directory.look_up(labels)
        if entity == len(self.entries):
            self.entries.append(entry)
        self.entries[entity] = entry
        self._facts[entity] = entry.usd_per_hour, entry.idle_watts, entry.limit_watts
        for detector in self.detectors.values():
            detector.describe(entity, labels, entry.owner)

    def ingest(self, batch: EventBatch) -> list[Refusal]:
        """Take in a batch; return the rows that are late or whose GPU there is no room for."""
        partition = TopicPartition(batch.topic, batch.partition)
        late = self.watermarks.advance(partition, batch.event_time_ns, batch.next_offset)
        if self._next_tick is not None:
            late |= batch.event_time_ns < self._next_tick * self._tick_ns
        room = self._room(batch.label_set, ~late)
        refusals = [
            Refusal(row, "late", f"event time {int(batch.event_time_ns[row])} ns is behind the watermark")
            for row in np.flatnonzero(late).tolist()
        ]
        refusals += [
            Refusal(row, "entities_max", f"fleet.entities_max {self._fleet.entities_max} reached")
            for row in np.flatnonzero(~room & ~late).tolist()
        ]
        accepted = room & ~late
        if accepted.any():
            self.pending.add_batch(batch, accepted)
        return refusals

    def _room(self, label_set: NDArray[np.int32], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell for each wanted row whether its GPU is known, or may still become so; the others claim no place."""
        admitted = self._admitted
        for i in np.unique(label_set[wanted]).tolist():
            if admitted.get(i):
                continue
            key = self._label_sets[i].entity_key()
            known = self.entities.find(key) is not None or key in self._claimed
            if not known and len(self.entities) + len(self._claimed) < self._fleet.entities_max:
                self._claimed.add(key)
                known = True
            admitted[i] = known
        if all(admitted.values()):
            return np.ones(len(label_set), np.bool_)
        return np.array([admitted.get(i, False) for i in label_set.tolist()], np.bool_)

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
        rows = self._fold(tick)
        self._attribute(rows, end_ns)
        self._forget(end_ns)
        fired: list[Alert] = []
        resolved: list[Alert] = []
        subjects = _Subjects(self.entities, self.entries)
        fleet = self.fleet(end_ns)
        for name, detector in self.detectors.items():
            findings = detector.evaluate(end_ns, self._fleet.tick_s, self.features, fleet)
            begun, ended = self.lifecycles[name].advance(findings, end_ns, subjects, fleet.holder_since_ns)
            fired += begun
            resolved += ended
        self.grouping.take(fired, resolved, end_ns)
        told: list[Notification] = []
        if not self.grouping.quiet():
            told = self.grouping.due(self.firing(end_ns), end_ns)
        self._judged = True
        seconds = time.perf_counter() - started_s
        return TickOutcome(end_ns, len(rows.entity), seconds, tuple(fired), tuple(resolved), tuple(told))

    def _fold(self, tick: int) -> TickRows:
        chunks = self.pending.take(tick)
        used = np.unique(np.concatenate([np.empty(0, np.int32), *(c.label_set for c in chunks)]))
        fresh = [self._label_sets[i] for i in used.tolist()]
        admitted, refused = self.entities.admit(fresh)
        assert not refused, "room was checked when the rows were taken in"
        self._claimed -= {labels.entity_key() for labels in fresh}
        self._grow()
        for entity in admitted:
            self._introduce(entity)
        entity_of = np.full(len(self._label_sets) + 1, -1, np.int32)
        entity_of[used] = np.array([self.entities.find(labels.entity_key()) for labels in fresh], np.int32)
        rows = merge_rows(chunks, entity_of)
        self._describe(rows.sightings)
        self._scale(rows)
        self.features.fold(rows.entity, rows.time_ns, rows.values)
        return rows

    def _describe(self, sightings: NDArray[np.int64]) -> None:
        """Hand each entity the label sets it reported under; most report what is known already."""
        entity, label_set = sightings[:, 0], sightings[:, 1]
        starts = np.flatnonzero(np.r_[len(entity) > 0, entity[1:] != entity[:-1]])
        if len(starts) == 0:
            return
        first_ns = np.minimum.reduceat(sightings[:, 2], starts)
        last_ns = np.maximum.reduceat(sightings[:, 3], starts)
        self.entities.seen(entity[starts], first_ns, last_ns)
        ends = np.r_[starts[1:], len(entity)]
        present = entity[starts]
        alone = ends - starts == 1
        only = np.where(alone, label_set[starts], -1)
        known = alone & (only == self._settled[present])
        named = np.array([self._label_sets[i].is_attributed() for i in only[known].tolist()], bool)
        self.entities.confirm(present[known][named], last_ns[known][named])
        self._settled[present] = only
        for start, end in zip(starts[~known].tolist(), ends[~known].tolist(), strict=True):
            seen = [
                Sighting(self._label_sets[int(label_set[i])], int(sightings[i, 2]), int(sightings[i, 3]))
                for i in range(start, end)
            ]
            if self.entities.describe(int(entity[start]), seen):
                self._introduce(int(entity[start]))

    def _scale(self, rows: TickRows) -> None:
        if np.isnan(rows.values[:, INDEX["util_unscaled"]]).all():
            return
        newest_ns = int(rows.time_ns.max())
        names = [_exporter(labels) for labels in self.entities.labels]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        node_of = np.array([numbers[name] for name in names], np.int64)
        forget_ns = newest_ns - _PERCENT_REMEMBERED_NS
        known = [self._percent_seen_ns.get(name, -1) >= forget_ns for name in numbers]
        percent = np.array(known, np.bool_)
        seen = scale_utilisation(rows, node_of, percent)
        self._percent_seen_ns = {name: ns for name, ns in self._percent_seen_ns.items() if ns >= forget_ns}
        self._percent_seen_ns |= {name: newest_ns for name, i in numbers.items() if seen[i]}

    def _attribute(self, rows: TickRows, end_ns: int) -> None:
        """Release holders whose labels are gone for too long, or at once where the GPU is visibly empty.

        Labels vanish for minutes while a kubelet is busy; memory in use or work being done shows that the holder stays.
        """
        state = self.entities.state
        silent_ns = end_ns - state["attributed_ns"]
        held = state["attributed_ns"] > 0
        expired = silent_ns > int(self._fleet.attribution_ttl_s * 1e9)
        unnamed = (silent_ns > 2 * self._tick_ns) & (state["last_seen_ns"] > state["attributed_ns"])
        fb = self.features.latest("fb_used_bytes", end_ns)
        activity = self.features.latest(ACTIVITY, end_ns)
        empty = (fb < _EMPTY_FB_BYTES) & (activity <= 0.0)
        gone = np.flatnonzero(held & (expired | (unnamed & empty)))
        self.entities.release(gone)
        self._settled[gone] = -1
        for entity in gone.tolist():
            self._introduce(entity)

    def _forget(self, end_ns: int) -> None:
        silent_ns = end_ns - self.entities.state["last_seen_ns"]
        kept = silent_ns <= int(self._fleet.forget_after_s * 1e9)
        if kept.all():
            return
        keep = np.flatnonzero(kept)
        self.entities.keep(keep)
        self.features.keep(keep)
        for name, detector in self.detectors.items():
            detector.keep(keep)
            self.lifecycles[name].keep(keep)
        self._reopen()

    def fleet(self, now_ns: int) -> Fleet:
        """Return what is known of every entity besides measurements."""
        state = self.entities.state
        return Fleet(
            held=self.entities.held(),
            fresh=now_ns - state["last_seen_ns"] <= self._stale_ns,
            present_since_ns=state["present_since_ns"],
            holder_since_ns=state["holder_since_ns"],
            usd_per_hour=self._facts[:, 0],
            idle_watts=self._facts[:, 1],
            limit_watts=self._facts[:, 2],
        )

    def firing(self, now_ns: int) -> dict[str, Alert]:
        """Return all alerts that fire, by id."""
        return {k: a for cycle in self.lifecycles.values() for k, a in cycle.firing(now_ns).items()}

    def label_set_count(self) -> int:
        """Return how many label sets are remembered."""
        return len(self._label_sets)

    def was_judged(self) -> bool:
        """Tell whether this worker has closed a tick itself: only then are there figures to show."""
        return self._judged

    def as_of_ns(self) -> int:
        """Return the end of the last closed tick, 0 before the first."""
        return self._next_tick * self._tick_ns if self._next_tick is not None else 0

    def snapshot(self) -> dict[str, Array]:
        """Return copies of everything: what a worker that resumes from it needs to go on with equal results."""
        meta: dict[str, Any] = {
            "version": STATE_VERSION,
            "watermarks": self.watermarks.snapshot(),
            "next_tick": self._next_tick,
            "tick_ns": self._tick_ns,
            "state_versions": {name: d.state_version for name, d in self.detectors.items()},
            "percent_seen_ns": dict(sorted(self._percent_seen_ns.items())),
            "firing": {n: cycle.firing_snapshot() for n, cycle in self.lifecycles.items()},
            "groups": self.grouping.snapshot(),
        }
        text = json.dumps(meta, sort_keys=True, separators=(",", ":"))
        saved: dict[str, Array] = {"meta": np.frombuffer(text.encode(), np.uint8)}
        parts: list[tuple[str, dict[str, Array]]] = [
            ("pending.", self.pending.snapshot()),
            ("entities.", self.entities.snapshot()),
            ("features.", self.features.snapshot()),
        ]
        parts += [(f"detectors.{n}.", d.snapshot()) for n, d in self.detectors.items()]
        parts += [(f"alerts.{n}.", cycle.snapshot()) for n, cycle in self.lifecycles.items()]
        for prefix, arrays in parts:
            saved |= {prefix + name: array for name, array in arrays.items()}
        return saved


def _exporter(labels: LabelSet) -> str:
    """Name what decides the scale of a GPU's values: its node's exporter, or itself where the node is not known."""
    return f"{labels.cluster}/{labels.node}" if labels.node else labels.entity_key()


def _meta(resume: Snapshot | None) -> dict[str, Any]:
    """Return what a snapshot says of itself; one of another layout is refused, since guessing would be worse."""
    if resume is None:
        return {}
    meta: dict[str, Any] = json.loads(resume["meta"].tobytes())
    if meta["version"] != STATE_VERSION:
        raise CorruptState(f"state of version {meta['version']}; this program reads version {STATE_VERSION}")
    return meta


def _known(name: str, cls: type[Detector], meta: dict[str, Any], resume: Snapshot | None) -> Snapshot | None:
    """Return the snapshot if it holds this detector's state in the meaning of today; else the detector starts cold."""
    if resume is None or meta["state_versions"].get(name) == cls.state_version:
        return resume
    log.warning("detector starts without its state", detector=name, saved=meta["state_versions"].get(name))
    return None


class _Subjects(dict[int, Subject]):
    """Subjects made on demand: only alerts that open need one."""

    def __init__(self, entities: Entities, entries: list[Entry]) -> None:
        super().__init__()
        self._entities = entities
        self._entries = entries

    def __missing__(self, entity: int) -> Subject:
        labels = self._entities.labels[entity]
        return Subject(labels.entity_key(), labels, self._entries[entity].owner)


def state_hash(snapshot: Snapshot) -> str:
    """Return a digest of a snapshot: equal states, equal digests."""
    digest = hashlib.sha256()
    for name in sorted(snapshot):
        array = np.ascontiguousarray(snapshot[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
