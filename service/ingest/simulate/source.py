"""SimulateSource: a simulated fleet as a log that can be read, paced and sought like any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal, get_args

from service.clock import Clock
from service.ingest.contract import Gap, Record, RecordBatch, TopicPartition
from service.ingest.simulate.faults import Faults
from service.ingest.simulate.fleet import Entity, build_fleet
from service.ingest.simulate.plan import SECOND, Plan
from service.ingest.simulate.shard import Shard
from service.ingest.simulate.truth import Truth, TruthFile
from service.settings import SimulateSettings

TOPIC: Final = "simulated"
Scenario = Literal["fleet", "broken_telemetry", "clean"]
SCENARIOS: Final = get_args(Scenario)
WARM_UP_S: Final = 900
BATCH_RECORDS: Final = 4096


class SimulateSource:
    """Native JSON records of a simulated fleet.

    An offset is `event-time step * stride + place in the step`, counted from 1970, with gaps as in a compacted log:
    an offset alone says which records follow, whatever the wall clock says and whenever the simulation began.
    Without `start_ns` event time begins a quarter of an hour before now, and that first stretch is not paced.
    Raises ValueError on an unknown scenario.
    """

    live: ClassVar[bool] = True

    def __new__(cls, settings: SimulateSettings, *_: object, **__: object) -> SimulateSource:
        # Whether more may come after the end is a fact of the class by contract, and here it is up to duration_s.
        finite = settings.duration_s > 0 and cls is SimulateSource
        chosen: type[SimulateSource] = _FiniteSource if finite else cls
        return super().__new__(chosen)

    def __init__(
        self, settings: SimulateSettings, clock: Clock, scenario: str = "fleet", start_ns: int | None = None
    ) -> None:
        if scenario not in SCENARIOS:
            raise ValueError(f"scenario: expected one of {', '.join(SCENARIOS)}, got {scenario!r}")
        self._settings, self._clock = settings, clock
        self._interval_ns = round(settings.interval_s * SECOND)
        backlog_ns = 0 if start_ns is not None else WARM_UP_S * SECOND
        first_ns = clock.now_ns() - backlog_ns if start_ns is None else start_ns
        self._first_step = -(-first_ns // self._interval_ns)
        self._end_step = self._first_step + round(settings.duration_s * SECOND) // self._interval_ns
        self._paced_from_ns = first_ns + backlog_ns
        self._paced_from_s = clock.monotonic_s()
        self.fleet = build_fleet(settings.nodes, settings.seed, scenario)
        plan = Plan(settings.seed, scenario)
        faults = Faults(self.fleet, plan)
        self.truth = Truth(self.fleet, plan, faults)
        self.shards = [Shard(self.fleet, plan, faults, p, self._interval_ns) for p in range(self.fleet.partitions)]
        widest = max(len(shard.entities) for shard in self.shards)
        self._stride = 1 << (2 * widest * (self.shards[0].delay_steps + 1)).bit_length()
        self._steps_per_poll = max(1, BATCH_RECORDS // widest)
        self._position: dict[TopicPartition, int] = {}
        self._truth_file: TruthFile | None = None

    @property
    def entities(self) -> list[Entity]:
        """All GPUs and MIG instances, in the order of their nodes."""
        return self.fleet.entities

    @property
    def start_ns(self) -> int:
        """Event time of the first step."""
        return self._first_step * self._interval_ns

    def assigned(self) -> frozenset[TopicPartition]:
        """Return one partition per shard; they never change."""
        return frozenset(TopicPartition(TOPIC, p) for p in range(len(self.shards)))

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        """Go to `offset`; a position later than the planned start also moves the pace there."""
        if offset is None:
            offset = self._first_step * self._stride
        self._position[partition] = offset
        self._paced_from_ns = max(self._paced_from_ns, offset // self._stride * self._interval_ns)

    def poll(self, timeout_s: float, paused: frozenset[TopicPartition]) -> list[RecordBatch]:
        """Return up to some steps of each unpaused partition; waits on the clock for the next one to become due."""
        self._open_truth()
        batches = self._take(paused)
        if not batches and timeout_s > 0:
            self._clock.wait(min(timeout_s, self._next_due_s(paused)))
            batches = self._take(paused)
        if self._truth_file is not None:
            self._truth_file.advance(self._reached_ns())
        return batches

    def ended(self, partition: TopicPartition) -> bool:
        """Tell whether the partition's end is reached: of what is due now, or of all, with a duration."""
        limit = self._end_step if not self.live else self._due_step()
        return self._position.get(partition, 0) >= limit * self._stride

    def behind(self, partition: TopicPartition) -> int | None:
        """Return 0 at the end; what lies before it was not counted."""
        return 0 if self.ended(partition) else None

    def gaps(self) -> Sequence[Gap]:
        """Return nothing: what cannot be read here is reported as corrupt."""
        return ()

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Do nothing: no lag tool looks at a simulation."""

    def close(self) -> None:
        """Write the truth of what is still going on."""
        if self._truth_file is not None:
            self._truth_file.close(self._reached_ns())
            self._truth_file = None

    def steps(self) -> Iterator[int]:
        """Yield every step when it is due, from the beginning to the end, in place of seek and poll."""
        step = self._first_step
        while self.live or step < self._end_step:
            self._position = dict.fromkeys(self.assigned(), step * self._stride)
            self._open_truth()
            while step >= self._due_step():
                self._clock.wait(self._next_due_s(frozenset()))
            yield step
            step += 1
            if self._truth_file is not None:
                self._truth_file.advance(step * self._interval_ns)
        self._position = dict.fromkeys(self.assigned(), step * self._stride)

    def step_of(self, offset: int) -> int:
        """Return the event-time step that `offset` lies in: event time / interval."""
        return offset // self._stride

    def _due_step(self) -> int:
        """Return the first step that is not due yet."""
        last = self._end_step if not self.live else 1 << 62
        if self._settings.speed == 0:
            return last
        elapsed_s = self._clock.monotonic_s() - self._paced_from_s
        reached_ns = self._paced_from_ns + int(elapsed_s * self._settings.speed * SECOND)
        return min(last, reached_ns // self._interval_ns + 1)

    def _next_due_s(self, paused: frozenset[TopicPartition]) -> float:
        waiting = [offset for partition, offset in self._position.items() if partition not in paused]
        if not waiting or self._settings.speed == 0:
            return 3600.0
        due_ns = (min(waiting) // self._stride) * self._interval_ns - self._paced_from_ns
        elapsed_s = self._clock.monotonic_s() - self._paced_from_s
        return max(due_ns / SECOND / self._settings.speed - elapsed_s, 0.0) + 1e-3

    def _take(self, paused: frozenset[TopicPartition]) -> list[RecordBatch]:
        due = self._due_step()
        found = []
        for partition, offset in sorted(self._position.items()):
            if partition not in paused and offset // self._stride < due:
                found.append(self._batch(partition, offset, due))
        return found

    def _batch(self, partition: TopicPartition, offset: int, due: int) -> RecordBatch:
        shard = self.shards[partition.partition]
        first, skip = divmod(offset, self._stride)
        until = min(due, first + self._steps_per_poll)
        records: list[Record] = []
        for step in range(first, until):
            base = step * self._stride
            records.extend(
                Record(base + i, line.timestamp_ms, line.key, line.value) for i, line in enumerate(shard.lines(step))
            )
        if skip:
            records = [record for record in records if record.offset >= offset]
        next_offset = until * self._stride
        self._position[partition] = next_offset
        return RecordBatch(partition.topic, partition.partition, next_offset, records)

    def _reached_ns(self) -> int:
        return min(self._position.values(), default=0) // self._stride * self._interval_ns

    def _open_truth(self) -> None:
        if self._settings.truth_file and self._truth_file is None and len(self._position) == len(self.shards):
            path = Path(self._settings.truth_file)
            self._truth_file = TruthFile(path, self.truth, self.entities, self._reached_ns())


class _FiniteSource(SimulateSource):
    """A simulation with a duration: it ends."""

    live: ClassVar[bool] = False
