"""From the waiting rows of one tick to its merged rows: one row per GPU and instant, in order of entity and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.columns import COLUMNS, INDEX
from kernels.rows import rows_merge, rows_number
from service.pipeline.pending import Chunk


@dataclass(frozen=True, slots=True)
class TickRows:
    """Rows of one tick, sorted by (entity, time), each pair once.

    entity int32[n], time_ns int64[n], values float64[n, COLUMNS], NaN = missing. `sightings` are the distinct
    (entity, label set) pairs behind them with first and last time: int64[k, 4].
    """

    entity: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    sightings: NDArray[np.int64]


def merge_rows(chunks: Sequence[Chunk], entity_of: NDArray[np.int32]) -> TickRows:
    """Merge chunks; `entity_of` int32[label sets] tells the entity of each label set, known for all that occur."""
    label_set = np.concatenate([np.empty(0, np.int32), *(c.label_set for c in chunks)])
    time_ns = np.concatenate([np.empty(0, np.int64), *(c.time_ns for c in chunks)])
    entity = entity_of[label_set]
    order = np.lexsort((time_ns, entity))
    sorted_row = np.empty(len(order), np.int64)
    count = np.zeros(1, np.int64)
    rows_number(entity[order], time_ns[order], sorted_row, count)
    row = np.empty(len(order), np.int64)
    row[order] = sorted_row
    values = np.full((int(count[0]), len(COLUMNS)), np.nan)
    start = 0
    for chunk in chunks:
        end = start + len(chunk.time_ns)
        for name, column in chunk.columns.items():
            rows_merge(row[start:end], column, INDEX[name], values)
        start = end
    merged_entity = np.empty(len(values), np.int32)
    merged_time_ns = np.empty(len(values), np.int64)
    merged_entity[row] = entity
    merged_time_ns[row] = time_ns
    return TickRows(merged_entity, merged_time_ns, values, _sightings(entity, label_set, time_ns))


def _sightings(
    entity: NDArray[np.int32], label_set: NDArray[np.int32], time_ns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the distinct (entity, label set, first time, last time), sorted by entity and label set id."""
    if len(entity) == 0:
        return np.empty((0, 4), np.int64)
    order = np.lexsort((time_ns, label_set, entity))
    e, ls, t = entity[order], label_set[order], time_ns[order]
    starts = np.flatnonzero(np.r_[True, (e[1:] != e[:-1]) | (ls[1:] != ls[:-1])])
    ends = np.r_[starts[1:], len(e)] - 1
    return np.stack([e[starts], ls[starts], t[starts], t[ends]], axis=1).astype(np.int64)


def scale_utilisation(
    rows: TickRows, node_of: NDArray[np.int64], percent_nodes: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Move `util_unscaled` into `util_ratio`, as percent on nodes that ever sent more than 1; notes new such nodes.

    DCGM 4.5 and 4.6 gave the name GPU_UTIL_RATIO to integer percent, 4.7 to 0..1: the name alone cannot tell. Until a
    node has shown a value above 1, its 1 is read as fully busy, which can hide idleness but never invent it.

    node_of int64[m] is the number of each entity's node; percent_nodes bool[nodes] is updated. Returns bool[nodes]: those
    that sent more than 1 in these rows.
    """
    column = rows.values[:, INDEX["util_unscaled"]]
    seen = ~np.isnan(column)
    node = node_of[rows.entity]
    convicted = np.zeros(len(percent_nodes), np.bool_)
    convicted[node[seen & (column > 1.0)]] = True
    percent_nodes |= convicted
    scaled = np.where(percent_nodes[node], column / 100.0, column)
    ratio = rows.values[:, INDEX["util_ratio"]]
    rows.values[:, INDEX["util_ratio"]] = np.fmax(ratio, np.where(seen, scaled, np.nan))
    return convicted
