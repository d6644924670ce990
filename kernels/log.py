"""Records inside a Kafka record batch (format v2): where each one's key, value and headers lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.words import inline

# Columns of `span`: first byte and end of each part; a null part begins at -1. Headers are their bytes without the count.
KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADERS_END = range(6)

# What ended the walk.
WHOLE, ENDS_EARLY, OVERLONG, WRONG_SIZE, BAD_FIELD, BAD_HEADERS, LEFT_OVER = range(7)
VARINT_BITS_MAX = 70


@inline
def _number_at(data, at, end):
    """Return the zigzag varint at `at`, where it ends, and whether it is one."""
    number = np.uint64(0)
    shift = np.uint64(0)
    while at < end:
        byte = np.uint64(data[at])
        at += 1
        number |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(number >> np.uint64(1)) ^ -np.int64(number & np.uint64(1)), at, WHOLE
        shift += np.uint64(7)
        if shift >= np.uint64(VARINT_BITS_MAX):
            return np.int64(0), at, OVERLONG
    return np.int64(0), at, ENDS_EARLY


@inline
def _field_at(data, at, end):
    """Return first byte (-1: null) and end of a field with its length before it, and whether it is one."""
    length, at, trouble = _number_at(data, at, end)
    if trouble != WHOLE:
        return at, at, trouble
    if length < 0:
        return np.int64(-1), at, WHOLE
    if length > end - at:
        return at, at, BAD_FIELD
    return at, at + length, WHOLE


@kernel
def records_walk(
    data: NDArray[np.uint8],
    begin: int,
    end: int,
    base_offset: int,
    last_offset: int,
    from_offset: int,
    base_timestamp_ms: int,
    append_time_ms: int,
    out_offset: NDArray[np.int64],
    out_timestamp_ms: NDArray[np.int64],
    out_span: NDArray[np.int32],
    out_end: NDArray[np.int64],
) -> None:
    """Find the records of one batch; those below from_offset are passed over, and the walk ends at the first that lies.

    Rows        data uint8[…], of which [begin, end) are the expanded records
    Parameters  base_offset, last_offset of the batch; from_offset; base_timestamp_ms; append_time_ms, the timestamp of
                all records where the broker set it, else -1
    Output      out_offset, out_timestamp_ms int64[count], count being the number of records that the batch claims;
                out_span int32[count, 6]; out_end int64[2]: how many records were found, and what ended the walk
    Source      Kafka protocol guide, "Record Batch"
    """
    at = np.int64(begin)
    found = 0
    previous = base_offset - 1
    trouble = WHOLE
    for _ in range(out_offset.size):
        length, start, trouble = _number_at(data, at, end)
        if trouble != WHOLE:
            break
        timestamp_delta, at, trouble = _number_at(data, start + 1, end)
        if trouble != WHOLE:
            break
        offset_delta, at, trouble = _number_at(data, at, end)
        if trouble != WHOLE:
            break
        key, key_end, trouble = _field_at(data, at, end)
        if trouble != WHOLE:
            break
        value, value_end, trouble = _field_at(data, key_end, end)
        if trouble != WHOLE:
            break
        count, headers, trouble = _number_at(data, value_end, end)
        at = headers
        if trouble != WHOLE:
            break
        if count < 0 or count > end - begin:
            trouble = BAD_HEADERS
            break
        for _ in range(2 * count):
            _, at, trouble = _field_at(data, at, end)
            if trouble != WHOLE:
                break
        if trouble != WHOLE:
            break
        offset = base_offset + offset_delta
        if at != start + length or offset <= previous or offset > last_offset:
            trouble = WRONG_SIZE
            break
        previous = offset
        if offset < from_offset:
            continue
        out_offset[found] = offset
        out_timestamp_ms[found] = append_time_ms if append_time_ms >= 0 else base_timestamp_ms + timestamp_delta
        out_span[found, KEY] = key
        out_span[found, KEY_END] = key_end
        out_span[found, VALUE] = value
        out_span[found, VALUE_END] = value_end
        out_span[found, HEADERS] = headers
        out_span[found, HEADERS_END] = at
        found += 1
    if trouble == WHOLE and at != end:
        trouble = LEFT_OVER
    out_end[0] = found
    out_end[1] = trouble
