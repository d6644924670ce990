"""OTLP metrics in protobuf, read from the wire: one point after the other, names and labels by their bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.interned import bytes_equal, parts_number
from kernels.log import HEADERS, HEADERS_END, VALUE, VALUE_END
from kernels.words import TOPS, float_of, head_of, inline, routine, varint_at, word_at

# Tags, field number and wire type in one byte, of the messages in their order: opentelemetry/proto/metrics/v1/metrics.proto.
RESOURCE_METRICS = 0x0A
OWNER, OWNED, SCHEMA = 0x0A, 0x12, 0x1A  # resource and scope metrics, scope and metrics: numbered alike
NAME, DESCRIPTION, UNIT, GAUGE, SUM, METADATA = 0x0A, 0x12, 0x1A, 0x2A, 0x3A, 0x62
DATA_POINT, TEMPORALITY, MONOTONIC = 0x0A, 0x10, 0x18
START_TIME, TIME, AS_DOUBLE, AS_INT, ATTRIBUTES, FLAGS = 0x11, 0x19, 0x21, 0x31, 0x3A, 0x40
CUMULATIVE = 2
NO_RECORDED_VALUE = 1

# What a part of an entry is.
RESOURCE_PART, SCOPE_PART, SCHEMA_PART, METRIC_PART, ATTRIBUTES_PART, HEADERS_PART = 1, 2, 3, 4, 5, 6
PARTS = 8  # a part's key is its kind plus this times the number of the entry above it
PLAIN_DOUBLE, PLAIN_INT, ENDED = 0, 1, 2
SCRATCH, SCRATCH_LEFT = 4, 5  # rows of parts that hold what is being read


@inline
def _field_end(data, at, end):
    """Return first byte and end of the length-delimited field whose tag lies at `at`; -1 as its end if it does not fit."""
    size, first = varint_at(data, at + 1, end)
    if first < 0 or size > np.uint64(end - first):
        return first, np.int64(-1)
    return first, first + np.int64(size)


@inline
def _point_at(data, at, end, resource, parts):
    """Read one data point: its attributes into parts[0], time, value bits and kind into parts[SCRATCH]; tell whether it is plain."""
    time, bits, kind = np.int64(0), np.int64(0), np.int64(-1)
    begin = at
    flags = np.uint64(0)
    first_attribute = last_attribute = at
    while at < end:
        tag = data[at]
        if tag == ATTRIBUTES:
            _, close = _field_end(data, at, end)
            if close < 0 or (last_attribute != first_attribute and last_attribute != at):
                return False
            if last_attribute == first_attribute:
                first_attribute = at
            at = last_attribute = close
        elif tag == FLAGS:
            flags, at = varint_at(data, at + 1, end)
            if at < 0:
                return False
        elif tag == START_TIME or tag == TIME or tag == AS_DOUBLE or tag == AS_INT:
            if at + 9 > end:
                return False
            word = np.int64(word_at(data, at + 1))
            at += 9
            if tag == TIME:
                time = word
            elif tag != START_TIME:
                bits = word
                kind = np.int64(PLAIN_DOUBLE if tag == AS_DOUBLE else PLAIN_INT)
        else:
            return False
    parts[0, 0], parts[0, 1], parts[0, 2] = resource * PARTS + ATTRIBUTES_PART, first_attribute, last_attribute
    parts[SCRATCH_LEFT, 1] = (first_attribute - begin) // 9 * 9
    if flags & np.uint64(NO_RECORDED_VALUE):
        kind = np.int64(ENDED)
    parts[SCRATCH, 0], parts[SCRATCH, 1], parts[SCRATCH, 2] = time, bits, kind
    return kind == ENDED or (kind >= 0 and time > 0)


@inline
def _is_ascii(data, at, end):
    """Tell whether all bytes are ASCII: text that needs no check for UTF-8."""
    while at + 8 <= end:
        if word_at(data, at) & TOPS != np.uint64(0):
            return False
        at += 8
    return at >= end or head_of(word_at(data, at), end - at) & TOPS == np.uint64(0)


@inline
def _data_at(data, at, end):
    """Return where the field lies that holds a metric's points and where it ends; -1 if there is not just one, of a kind known.

    The other fields (name, description, unit, metadata) may stand on both sides of it: the Collector writes them backwards.
    """
    found = np.int64(-1)
    found_end = np.int64(-1)
    while at < end:
        tag = data[at]
        _, close = _field_end(data, at, end)
        if close < 0:
            return np.int64(-1), found_end
        if tag == GAUGE or tag == SUM:
            if found >= 0:
                return np.int64(-1), found_end
            found, found_end = at, close
        elif tag != NAME and tag != DESCRIPTION and tag != UNIT and tag != METADATA:
            return np.int64(-1), found_end
        at = close
    return found, found_end


@inline
def _owner_at(data, at, end, parts, part):
    """Find the resource (scope) among the fields of its group and note it in parts[part]; return whether all are known.

    The three messages are alike: 1 is the owner, 2 what it owns, several times, 3 the schema's address.
    """
    parts[part, 1] = 0
    parts[part, 2] = 0
    while at < end:
        tag = data[at]
        first, close = _field_end(data, at, end)
        if close < 0 or (tag == OWNER and parts[part, 2] > 0):
            return False
        if tag == OWNER:
            parts[part, 1] = first
            parts[part, 2] = close
        elif tag != OWNED and not (tag == SCHEMA and _is_ascii(data, first, close)):
            return False
        at = close
    return True


@inline
def _likely_point(data, at, end, resource, entry_at, entry_next, arena, used, parts):
    """Read a point that has the attributes that followed the last point's before, and nothing else than time and value.

    Return the entry of its attributes, -1 if it is another point: all of it is then still to be read. One comparison
    with what is known of them saves reading ten attributes.
    """
    guess = np.int64(entry_next[used[2]])
    if guess >= used[0]:
        return np.int64(-1)
    known = np.int64(entry_at[guess])
    size = np.int64(arena[known] & np.uint64(0xFFFFFFFF))
    before = parts[SCRATCH_LEFT, 1]
    rest = end - at - size
    if np.int64(arena[known] >> np.uint64(32)) != resource * PARTS + ATTRIBUTES_PART or rest < before:
        return np.int64(-1)
    if not bytes_equal(data, at + before, at + before + size, arena, known + 1):
        return np.int64(-1)
    time, bits, kind = np.int64(0), np.int64(0), np.int64(-1)
    place = np.int64(0)
    while place < rest:
        field = at + place if place < before else at + size + place
        tag = data[field]
        if place + 9 > rest or (tag != START_TIME and tag != TIME and tag != AS_DOUBLE and tag != AS_INT):
            return np.int64(-1)
        word = np.int64(word_at(data, field + 1))
        if tag == TIME:
            time = word
        elif tag != START_TIME:
            bits = word
            kind = np.int64(PLAIN_DOUBLE if tag == AS_DOUBLE else PLAIN_INT)
        place += 9
    if kind < 0 or time <= 0:
        return np.int64(-1)
    parts[SCRATCH, 0], parts[SCRATCH, 1], parts[SCRATCH, 2] = time, bits, kind
    used[2] = guess
    return guess


@routine
def _metric_points(
    data, at, end, record, resource, scope, points,
    head_slot, head_hash, head_at, head_words, head_next, head_meaning, head_arena, head_used,
    slot, entry_hash, entry_at, entry_words, entry_next, meaning, arena, used, parts,
    out_record, out_head, out_entry, out_time_ns, out_value, out_kind,
):  # fmt: skip
    """Read the points of one metric; return how many there are now, -1 if it is not plain or the record has too many.

    parts[SCRATCH] holds a point's time, value and kind while it is read; parts[SCRATCH_LEFT] how many points the record may
    still have, and how many bytes of fixed size stand before the attributes as a rule.
    """
    data_at, data_end = _data_at(data, at, end)
    if data_at < 0:
        return np.int64(-1)
    parts[0, 0], parts[0, 1], parts[0, 2] = scope * PARTS + METRIC_PART, at, data_at
    parts[1, 0], parts[1, 1], parts[1, 2] = METRIC_PART, data_end, end
    head = parts_number(
        data, parts, np.int64(2), head_slot, head_hash, head_at, head_words, head_next, head_meaning, head_arena,
        head_used,
    )  # fmt: skip
    is_sum = data[data_at] == SUM
    before = points
    at, _ = _field_end(data, data_at, data_end)
    while head >= 0 and at < data_end:
        tag = data[at]
        if tag == TEMPORALITY or tag == MONOTONIC:
            number, at = varint_at(data, at + 1, data_end)
            if at < 0 or not is_sum or (tag == TEMPORALITY and number != np.uint64(CUMULATIVE)):
                return np.int64(-1)
            continue
        first, close = _field_end(data, at, data_end)
        if tag != DATA_POINT or close < 0 or parts[SCRATCH_LEFT, 0] <= 0 or points >= out_record.size:
            return np.int64(-1)
        entry = _likely_point(data, first, close, resource, entry_at, entry_next, arena, used, parts)
        if entry < 0:
            if not _point_at(data, first, close, resource, parts):
                return np.int64(-1)
            entry = parts_number(
                data, parts, np.int64(1), slot, entry_hash, entry_at, entry_words, entry_next, meaning, arena, used
            )
            if entry < 0:
                return np.int64(-1)
        kind, bits = parts[SCRATCH, 2], parts[SCRATCH, 1]
        out_record[points], out_head[points], out_entry[points] = record, head, entry
        out_time_ns[points], out_kind[points] = parts[SCRATCH, 0], kind
        out_value[points] = float_of(bits) if kind == PLAIN_DOUBLE else np.float64(bits)
        points += 1
        parts[SCRATCH_LEFT, 0] -= 1
        at = close
    return points if points > before else np.int64(-1)


@kernel
def otlp_scan(
    data: NDArray[np.uint8],
    span: NDArray[np.int32],
    bytes_max: int,
    points_max: int,
    head_slot: NDArray[np.int32],
    head_hash: NDArray[np.uint64],
    head_at: NDArray[np.int32],
    head_words: NDArray[np.int32],
    head_next: NDArray[np.int32],
    head_meaning: NDArray[np.int32],
    head_arena: NDArray[np.uint64],
    head_used: NDArray[np.int64],
    slot: NDArray[np.int32],
    entry_hash: NDArray[np.uint64],
    entry_at: NDArray[np.int32],
    entry_words: NDArray[np.int32],
    entry_next: NDArray[np.int32],
    meaning: NDArray[np.int32],
    arena: NDArray[np.uint64],
    used: NDArray[np.int64],
    parts: NDArray[np.int64],
    out_plain: NDArray[np.bool_],
    out_record: NDArray[np.int32],
    out_head: NDArray[np.int32],
    out_entry: NDArray[np.int32],
    out_time_ns: NDArray[np.int64],
    out_value: NDArray[np.float64],
    out_kind: NDArray[np.int8],
    out_points: NDArray[np.int64],
) -> None:
    """Read every request that holds plain gauges and cumulative sums; leave the others, whole, to the reference parser.

    Plain: known fields, in any order, the attributes of a point side by side. A head is a metric's name, description, unit
    and metadata under its scope; labels are a point's attributes under its resource and the record's headers.

    Rows        data uint8[…] with PADDING; span int32[n, 6] as in Records
    Parameters  bytes_max, points_max of one record
    State       two tables of kernels.interned: of heads, and of labels (a point's attributes under its resource);
                parts int64[PARTS_MAX, 3], scratch
    Output      out_plain bool[n]; by point out_record, out_head, out_entry int32, out_time_ns int64, out_value float64,
                out_kind int8 (PLAIN_DOUBLE, PLAIN_INT or ENDED: a series-end marker, without value); out_points int64[1]
    Source      protobuf wire format; opentelemetry-proto 1.x, metrics.proto
    """
    points = np.int64(0)
    for i in range(span.shape[0]):
        out_plain[i] = False
        at, end = np.int64(span[i, VALUE]), np.int64(span[i, VALUE_END])
        if at < 0 or end - at > bytes_max:
            continue
        first_point = points
        parts[SCRATCH_LEFT, 0] = points_max
        while points >= 0 and at < end:
            tag = data[at]
            group, at = _field_end(data, at, end)
            if tag != RESOURCE_METRICS or at < 0 or not _owner_at(data, group, at, parts, 1):
                points = np.int64(-1)
                break
            parts[0, 0], parts[0, 1], parts[0, 2] = HEADERS_PART, span[i, HEADERS], span[i, HEADERS_END]
            parts[1, 0] = RESOURCE_PART
            resource = parts_number(
                data, parts, np.int64(2), head_slot, head_hash, head_at, head_words, head_next, head_meaning, head_arena,
                head_used,
            )  # fmt: skip
            of_resource = points
            while points >= 0 and group < at:
                tag = data[group]
                inner, group = _field_end(data, group, at)
                if tag != OWNED:
                    continue
                if resource < 0 or not _owner_at(data, inner, group, parts, 0):
                    points = np.int64(-1)
                    break
                parts[0, 0] = SCOPE_PART
                scope = parts_number(
                    data, parts, np.int64(1), head_slot, head_hash, head_at, head_words, head_next, head_meaning, head_arena,
                    head_used,
                )  # fmt: skip
                of_scope = points
                while points >= 0 and inner < group:
                    tag = data[inner]
                    metric, inner = _field_end(data, inner, group)
                    if tag != OWNED:
                        continue
                    points = np.int64(-1) if scope < 0 else _metric_points(
                        data, metric, inner, i, resource, scope, points,
                        head_slot, head_hash, head_at, head_words, head_next, head_meaning, head_arena, head_used,
                        slot, entry_hash, entry_at, entry_words, entry_next, meaning, arena, used, parts,
                        out_record, out_head, out_entry, out_time_ns, out_value, out_kind,
                    )  # fmt: skip
                # What gives no point was never seen by the reference either: its text may be anything.
                points = points if points > of_scope else np.int64(-1)
            points = points if points > of_resource else np.int64(-1)
        if points <= first_point:
            points = first_point
            continue
        out_plain[i] = True
    out_points[0] = points
