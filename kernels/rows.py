"""Rows as they came become rows by entity and time; partial rows of one GPU and instant become one row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def rows_sort(
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    end: NDArray[np.int64],
    out_order: NDArray[np.int64],
    out_sorted: NDArray[np.bool_],
) -> None:
    """Order rows by entity, those of one entity as they came: a counting sort, since ids are dense.

    Rows of one GPU mostly come in order of time already, so that is only looked at, and not sorted by.

    Rows    entity int32[n], time_ns int64[n], in any order
    State   end int64[m + 1], scratch
    Output  out_order int64[n], the rows' indices by entity; out_sorted bool[1], whether each entity's are by time, too
    """
    end[:] = 0
    for i in range(entity.size):
        end[entity[i] + 1] += 1
    for e in range(1, end.size):
        end[e] += end[e - 1]
    for i in range(entity.size):
        out_order[end[entity[i]]] = i
        end[entity[i]] += 1
    out_sorted[0] = True
    for k in range(1, entity.size):
        i = out_order[k - 1]
        j = out_order[k]
        if entity[i] == entity[j] and time_ns[i] > time_ns[j]:
            out_sorted[0] = False
            break


@kernel
def rows_number(
    order: NDArray[np.int64],
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    out_row: NDArray[np.int64],
    out_entity: NDArray[np.int32],
    out_time_ns: NDArray[np.int64],
    out_count: NDArray[np.int64],
) -> None:
    """Number the distinct (entity, time) pairs.

    Rows    order int64[n], the rows by (entity, time_ns); entity int32[n], time_ns int64[n], as they came
    Output  out_row int64[n], the number of each row's pair from 0 on; out_entity int32[n], out_time_ns int64[n], of each
            pair, the first out_count[0] are filled; out_count int64[1], how many pairs
    """
    row = -1
    for k in range(order.size):
        i = order[k]
        if row < 0 or entity[i] != out_entity[row] or time_ns[i] != out_time_ns[row]:
            row += 1
            out_entity[row] = entity[i]
            out_time_ns[row] = time_ns[i]
        out_row[i] = row
    out_count[0] = row + 1


@kernel
def rows_merge(
    row: NDArray[np.int64],
    value: NDArray[np.float64],
    out_value: NDArray[np.float64],
) -> None:
    """Put one column of partial rows into the merged rows; of several values the largest wins.

    The largest is the one choice that needs no order: time-sliced GPUs are reported once per pod with the device's
    value, and duplicates are equal, so nothing else is expected here.

    Rows    row int64[n], the merged row of each; value float64[n], NaN = missing
    Output  out_value float64[rows], NaN = missing
    """
    for i in range(row.size):
        if np.isnan(value[i]):
            continue
        known = out_value[row[i]]
        if np.isnan(known) or value[i] > known:
            out_value[row[i]] = value[i]
