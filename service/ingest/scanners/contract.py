"""What a scanner promises: to read the plain records of one format without an object for each, as the reference would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from service.ingest.contract import Record, Sample
from service.ingest.records import Records


class Ask(Protocol):
    """Asks the reference about a record."""

    def samples(self, record: Record) -> Sequence[Sample] | None:
        """Return its samples, None where it is not of the scanner's format or has anything to reject."""
        ...

    def label_set(self, record: Record, sample: Sample) -> int:
        """Return the label set of a sample, negative where it names no GPU."""
        ...

    def label_sets(self, measurement: str, names: Sequence[str], columns: Sequence[Sequence[str]]) -> list[int]:
        """Return the label sets of many samples of records without headers; `columns` hold the labels `names`."""
        ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a sample or record may be, as in the reference decoder."""

    earliest_ns: int
    latest_ns: int
    future_ns: int
    record_bytes_max: int
    record_samples_max: int


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was read of some records: `plain` bool[n] tells of which; the others are untouched.

    Row by row, in order of records: record int32[r], the index of its record; label_set int32[r]; time_ns int64[r];
    columns float64[r] by name, NaN = missing, only those that have a value. counts adds to the decoder's outcomes.
    """

    plain: NDArray[np.bool_]
    record: NDArray[np.int32]
    label_set: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]]
    counts: Mapping[str, int]


class Scanner(Protocol):
    """Reads plain records of one format; learns what is plain from records that the reference has read without complaint."""

    format: ClassVar[str]  # key of FORMATS
    learns: ClassVar[bool]  # whether `learn` may have something to learn

    def scan(self, records: Records, ask: Ask) -> Scanned:
        """Read what is plain. Whatever the bytes, nothing is raised, and the rows are those of the reference."""
        ...

    def learn(self, record: Record) -> bool:
        """Learn from a record of this format that was not plain and had nothing to reject; return whether it was new."""
        ...

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget which labels mean others than these label sets, bool[label sets]: they will be asked about again."""
        ...
