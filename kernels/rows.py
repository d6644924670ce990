"""Partial rows of one GPU and instant become one row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def rows_number(
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    out_row: NDArray[np.int64],
    out_count: NDArray[np.int64],
) -> None:
    """Number the distinct (entity, time) pairs of sorted rows.

    Rows    entity int32[n], time_ns int64[n], sorted by (entity, time_ns)
    Output  out_row int64[n], the number of each row's pair from 0 on; out_count int64[1], how many pairs
    """
    row = -1
    for i in range(entity.size):
        if i == 0 or entity[i] != entity[i - 1] or time_ns[i] != time_ns[i - 1]:
            row += 1
        out_row[i] = row
    out_count[0] = row + 1


@kernel
def rows_merge(
    row: NDArray[np.int64],
    value: NDArray[np.float64],
    column: int,
    out_values: NDArray[np.float64],
) -> None:
    """Put one column of partial rows into the matrix of merged rows; of several values the largest wins.

    The largest is the one choice that needs no order: time-sliced GPUs are reported once per pod with the device's
    value, and duplicates are equal, so nothing else is expected here.

    Rows        row int64[n], the merged row of each; value float64[n], NaN = missing
    Parameters  column, index into the second axis of out_values
    Output      out_values float64[rows, columns], NaN = missing
    """
    for i in range(row.size):
        if np.isnan(value[i]):
            continue
        known = out_values[row[i], column]
        if np.isnan(known) or value[i] > known:
            out_values[row[i], column] = value[i]


@kernel
def rows_repeated(
    record: NDArray[np.int32],
    label_set: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    last_row: NDArray[np.int64],
    out_repeated: NDArray[np.bool_],
) -> None:
    """Mark rows that a record holds twice: the same label set again at an instant that is not later.

    Rows    record int32[n], ascending; label_set int32[n], negative = passed over; time_ns int64[n]
    State   last_row int64[label sets], -1 everywhere before: the row in which each label set came last
    Output  out_repeated bool[n], set where a row repeats, else left as it is
    """
    for i in range(record.size):
        if label_set[i] < 0:
            continue
        before = last_row[label_set[i]]
        if before >= 0 and record[before] == record[i] and time_ns[i] <= time_ns[before]:
            out_repeated[i] = True
        last_row[label_set[i]] = i
