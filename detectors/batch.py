"""The EventBatch: decoded rows of one partition, the one thing that flows from ingest to the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.columns import INDEX


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Decoded rows of one partition, in offset order; a record may give no row, one, or many.

    All arrays have n rows and are read-only. A missing measurement is NaN; a column that no row has is absent.
    `label_set` indexes the decoder's LabelSets. `next_offset` is what may be resumed from once the batch is applied.
    """

    topic: str
    partition: int
    next_offset: int
    offset: NDArray[np.int64]
    event_time_ns: NDArray[np.int64]
    label_set: NDArray[np.int32]
    columns: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        n = len(self.offset)
        arrays: list[tuple[str, NDArray[Any], Any]] = [
            ("offset", self.offset, np.int64),
            ("event_time_ns", self.event_time_ns, np.int64),
            ("label_set", self.label_set, np.int32),
            *((name, array, np.float64) for name, array in self.columns.items()),
        ]
        for name, array, dtype in arrays:
            if array.dtype != dtype or array.shape != (n,):
                raise ValueError(f"{name}: expected {np.dtype(dtype)}[{n}], got {array.dtype}{list(array.shape)}")
            array.flags.writeable = False
        unknown = [name for name in self.columns if name not in INDEX]
        if unknown:
            raise ValueError(f"columns not in COLUMNS: {unknown}")

    def __len__(self) -> int:
        return len(self.offset)
