"""Points, one measurement each, judged and put together into rows: what long formats have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel

# Columns of a metric's row: the raw value is multiplied and divided, must then lie in [lowest, highest], and from
# `suspect_from` on, or at a size of at least `blank_from`, it may be a code for "no value".
MULTIPLY, DIVIDE, LOWEST, HIGHEST, SUSPECT_FROM, BLANK_FROM = range(6)
UNKNOWN_COLUMN, IGNORED_COLUMN = -2, -1  # in the place of a column: not in the field table; known and of no use
REFERENCE = -3  # in the place of a label set or metric: only the reference parser can tell
ENDED = 2

# What is counted by record.
UNKNOWN, BLANK, SERIES_ENDED, OF_GPU = range(4)


@kernel
def points_judge(
    record: NDArray[np.int32],
    metric: NDArray[np.int32],
    label_set: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    raw: NDArray[np.float64],
    kind: NDArray[np.int8],
    metric_column: NDArray[np.int32],
    metric_factor: NDArray[np.float64],
    codes: NDArray[np.float64],
    timestamp_ms: NDArray[np.int64],
    earliest_ns: int,
    latest_ns: int,
    future_ns: int,
    plain: NDArray[np.bool_],
    out_counts: NDArray[np.int32],
    out_column: NDArray[np.int32],
    out_value: NDArray[np.float64],
) -> None:
    """Judge every point as the reference decoder judges a sample; a record with one that is to be rejected is not plain.

    Rows        by point: record int32[p]; metric int32[p], row of the metrics; label_set int32[p], -1 = no GPU; time_ns
                int64[p]; raw float64[p]; kind int8[p], ENDED = a series-end marker
    Parameters  metric_column int32[m]; metric_factor float64[m, 6]; codes float64[c], raw values that mean "no value";
                timestamp_ms int64[n] of the records; earliest_ns, latest_ns, future_ns bound the time
    State       plain bool[n], by record
    Output      out_counts int32[n, 4], added to; out_column int32[p], negative = gives no value; out_value float64[p]
    """
    for p in range(record.size):
        out_column[p] = IGNORED_COLUMN
        r = record[p]
        if not plain[r]:
            continue
        if metric[p] < 0 or label_set[p] < -1:
            plain[r] = False
            continue
        if kind[p] == ENDED:
            out_counts[r, SERIES_ENDED] += 1
            continue
        column = metric_column[metric[p]]
        if label_set[p] < 0:
            if column >= 0:
                plain[r] = False
            elif column == UNKNOWN_COLUMN:
                out_counts[r, UNKNOWN] += 1
            continue
        out_counts[r, OF_GPU] += 1
        too_late_ns = latest_ns
        if timestamp_ms[r] >= 0:
            too_late_ns = min(latest_ns, timestamp_ms[r] * 1_000_000 + future_ns + 1)
        if time_ns[p] < earliest_ns or time_ns[p] >= too_late_ns:
            plain[r] = False
            continue
        if column < 0:
            if column == UNKNOWN_COLUMN:
                out_counts[r, UNKNOWN] += 1
            continue
        m = metric[p]
        value = raw[p] * metric_factor[m, MULTIPLY] / metric_factor[m, DIVIDE] + 0.0
        if not (
            raw[p] < metric_factor[m, SUSPECT_FROM] and metric_factor[m, LOWEST] <= value <= metric_factor[m, HIGHEST]
        ):
            blank = False
            if metric_factor[m, BLANK_FROM] < np.inf:
                blank = metric_factor[m, BLANK_FROM] <= abs(raw[p]) < np.inf
                for code in codes:
                    blank = blank or raw[p] == code
            if blank:
                out_counts[r, BLANK] += 1
                continue
            if not metric_factor[m, LOWEST] <= value <= metric_factor[m, HIGHEST]:
                plain[r] = False
                continue
        out_column[p] = column
        out_value[p] = value


@kernel
def points_number(
    record: NDArray[np.int32],
    column: NDArray[np.int32],
    label_set: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    plain: NDArray[np.bool_],
    last_row: NDArray[np.int32],
    out_row: NDArray[np.int32],
    out_point: NDArray[np.int32],
    out_before: NDArray[np.int32],
    out_rows: NDArray[np.int64],
) -> None:
    """Number the rows: points of one record, label set and instant share one.

    Rows    by point, in order of records: record, column, label_set int32[p], time_ns int64[p]; plain bool[n] by record
    State   last_row int32[label sets], -1 everywhere before: the last row of each label set
    Output  out_row int32[p], -1 for a point that gives no value; by row out_point int32, its first point, and out_before
            int32, the row that its label set had before; out_rows int64[1]
    """
    rows = 0
    for p in range(record.size):
        out_row[p] = -1
        if column[p] < 0 or not plain[record[p]]:
            continue
        row = last_row[label_set[p]]
        while row >= 0 and record[out_point[row]] == record[p] and time_ns[out_point[row]] != time_ns[p]:
            row = out_before[row]
        if row < 0 or record[out_point[row]] != record[p]:
            row = rows
            out_point[row] = p
            out_before[row] = last_row[label_set[p]]
            last_row[label_set[p]] = row
            rows += 1
        out_row[p] = row
    out_rows[0] = rows


@kernel
def points_put(
    row: NDArray[np.int32],
    column: NDArray[np.int32],
    value: NDArray[np.float64],
    place: NDArray[np.int32],
    out_values: NDArray[np.float64],
) -> None:
    """Put the points' values into their rows; of several in one cell the last counts.

    Rows        by point: row, column int32[p], negative = none; value float64[p]
    Parameters  place int32[columns], which row of out_values a column has
    Output      out_values float64[c, rows]
    """
    for p in range(row.size):
        if row[p] >= 0:
            out_values[place[column[p]], row[p]] = value[p]


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
