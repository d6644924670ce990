"""What ingest promises: sources hand over records, formats read them, and what is bad has one of a few reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

from service.errors import PoisonRecord

# Reason codes of a rejected record or sample: a closed set, since they are a metric label.
REASONS: tuple[str, ...] = (
    "not_recognised",  # no format claims the bytes
    "malformed",  # the bytes break the grammar of their format or capture, encoding included
    "too_large",  # longer than ingest.record_bytes_max, nested deeper or holding more samples than allowed
    "missing_field",  # a sample without a time, a GPU or a value
    "wrong_type",  # text where a number belongs, and the like
    "out_of_range",  # a value outside its column's range, NaN or infinite
    "time_out_of_range",  # not a plausible instant at all
    "late",  # older than its partition's watermark less lateness_max_s
    "future",  # later than its own record's timestamp plus future_max_s
    "entities_max",  # a new GPU beyond the limit
    "corrupt_batch",  # a Kafka record batch that fails its checksum or its structure
)
MALFORMED, LATE, ENTITIES_MAX, CORRUPT_BATCH = map(
    REASONS.index, ("malformed", "late", "entities_max", "corrupt_batch")
)


class TopicPartition(NamedTuple):
    """One log. A file is a log too: its topic is the file's name."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One record as it lay in the log. `timestamp_ms` is -1 where the log has none; `value` None is a tombstone."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Corrupt(NamedTuple):
    """Offsets [first, next_offset) that could not be read from the log, for the dead letters and a data gap."""

    first_offset: int
    next_offset: int
    detail: str


class Unplaced(NamedTuple):
    """Bytes in the log that cannot be a record of it, such as a line of a capture without an offset.

    `offset` is the one that was due there, or that of the record which follows.
    """

    offset: int
    value: bytes
    detail: str


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one partition; `next_offset` is where reading goes on, even if the last records were gaps."""

    topic: str
    partition: int
    next_offset: int
    records: Sequence[Record]
    corrupt: Sequence[Corrupt] = ()
    unplaced: Sequence[Unplaced] = ()


class Gap(NamedTuple):
    """Offsets that cannot be read. After a truncation `next_offset` is the lower one: the log became shorter."""

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    reason: str  # "retention" or "truncation"


class Source(Protocol):
    """A set of logs that can be read from a position. One thread calls it; `close` may come from the same thread only.

    Order of calls: `assigned` and `poll` in turns. When `assigned()` shows a partition that it did not show before,
    the caller seeks it before the next poll; a partition is never read before it was sought.
    """

    @property
    def live(self) -> bool:
        """Tell whether more may come after the end (Kafka, a followed folder); False: a finite input."""
        ...

    def assigned(self) -> frozenset[TopicPartition]:
        """Return the partitions that are ours now. For files this grows as new files appear."""
        ...

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        """Start `partition` at `offset`; None is the configured beginning."""
        ...

    def poll(self, timeout_s: float, paused: frozenset[TopicPartition]) -> list[RecordBatch]:
        """Return batches of unpaused partitions, at most one each, waiting at most `timeout_s` for the first.

        Raises Unavailable when the other side is down; everything may be polled again.
        """
        ...

    def ended(self, partition: TopicPartition) -> bool:
        """Tell whether everything that the log held when last asked was handed over."""
        ...

    def behind(self, partition: TopicPartition) -> int | None:
        """Return how many offsets the log holds beyond what was handed over; None where nobody can tell."""
        ...

    def gaps(self) -> Sequence[Gap]:
        """Return the stretches found missing from the logs since the last call; files have none."""
        ...

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Tell lag tools where we are. A courtesy: the checkpoint is the truth; failures are logged, not raised."""
        ...

    def close(self) -> None:
        """Leave. Nothing is committed here."""
        ...


class Sample(NamedTuple):
    """What a format reads: raw labels, one instant, raw metric names and raw values. One GPU, or no GPU at all.

    Names, units and aliases are resolved later, from the field table.
    """

    labels: Mapping[str, str]
    event_time_ns: int
    values: Mapping[str, float]


class Reject(NamedTuple):
    """A sample that could not be read, inside a record whose other samples could."""

    item: int
    reason: str
    detail: str


@dataclass(slots=True)
class Parsed:
    """The samples of one record; `ended` counts series-end markers, which carry no value."""

    samples: list[Sample] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    ended: int = 0


class Format(Protocol):
    """One wire format. Knows bytes and nothing of GPUs; stateless, so that a record means the same wherever it lies."""

    name: ClassVar[str]

    def recognises(self, record: Record) -> bool:
        """Tell from the first bytes (and headers) whether the record is worth parsing as this format. Never raises."""
        ...

    def parse(self, record: Record) -> Parsed:
        """Read the record, or raise PoisonRecord. No other exception may leave, whatever the bytes."""
        ...


__all__ = [
    "CORRUPT_BATCH",
    "ENTITIES_MAX",
    "LATE",
    "MALFORMED",
    "REASONS",
    "Corrupt",
    "Format",
    "Gap",
    "Parsed",
    "PoisonRecord",
    "Record",
    "RecordBatch",
    "Reject",
    "Sample",
    "Source",
    "TopicPartition",
    "Unplaced",
]
