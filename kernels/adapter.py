"""JSON of prometheus-kafka-adapter, one sample of one series a record: its labels by their bytes, its number, its instant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.interned import parts_number
from kernels.log import HEADERS, HEADERS_END, VALUE, VALUE_END
from kernels.text import (
    CLOSE_BRACE,
    COLON,
    COMMA,
    DIGITS_EXACT_MAX,
    FRACTION,
    NOT_PLAIN,
    OPEN_BRACE,
    POWERS,
    QUOTE,
    after_spaces,
    is_blank,
    number_at,
    string_end,
    time_at,
)
from kernels.words import ONES, first_marked, inline, routine, word_at, zero_bytes

LABELS_KEY = np.uint64(int.from_bytes(b'"labels"', "little"))
VALUE_KEY = np.uint64(int.from_bytes(b'"value":', "little"))
TIMESTAMP_KEY = np.uint64(int.from_bytes(b'"timesta', "little"))
TIMESTAMP_REST = np.uint64(int.from_bytes(b'mp":', "little"))
NAME_KEY = np.uint64(int.from_bytes(b'"name":', "little"))
SERIES_NAME = np.uint64(int.from_bytes(b'"__name_', "little"))
NAN_TEXT = np.uint64(int.from_bytes(b'"NaN"', "little"))
BRACES = ONES * np.uint64(CLOSE_BRACE)
FOUR_BYTES, FIVE_BYTES, SEVEN_BYTES = np.uint64(0xFFFFFFFF), np.uint64(0xFFFFFFFFFF), np.uint64(0xFFFFFFFFFFFFFF)
NAME_PART, BEFORE_PART, AFTER_PART, HEADERS_PART = 1, 2, 3, 4
NUMBER, ENDED = 0, 2
WHOLE_MAX = 10**DIGITS_EXACT_MAX
ALL_SEEN = 15  # labels 1, name 2, timestamp 4, value 8


@inline
def _brace_end(data, at, end):
    """Return where the first closing brace ends, -1 if there is none.

    One inside a text is taken for the end too: what follows it is then no key of ours, and the record not plain.
    """
    while at < end:
        marks = zero_bytes(word_at(data, at) ^ BRACES)
        if marks != np.uint64(0):
            at += first_marked(marks) + 1
            return at if at <= end else np.int64(-1)
        at += 8
    return np.int64(-1)


@inline
def _series_name_at(data, at, end, hint):
    """Return where the label `__name__` begins, `hint` bytes after `at` as a rule; -1 if there is none.

    A quote inside a text has a backslash before it, so that these bytes are always a key.
    """
    if at + hint + 11 <= end and word_at(data, at + hint) == SERIES_NAME and data[at + hint + 8] == 95:
        return at + hint
    while at + 11 <= end:
        if data[at] == QUOTE and word_at(data, at) == SERIES_NAME and data[at + 8] == 95:
            return at
        at += 1
    return np.int64(-1)


@inline
def _same_text(data, first, end, other, other_end):
    """Tell whether two texts have the same bytes."""
    if end - first != other_end - other:
        return False
    while first < end:
        if data[first] != data[other]:
            return False
        first += 1
        other += 1
    return True


@routine
def _labels_at(data, at, end, hint, parts):
    """Note the labels, without `__name__`, in parts[0] and parts[1], and the text of `__name__` in parts[3]; return their end.

    -1 if they are not plain.
    """
    close = _brace_end(data, at, end)
    if close < 0:
        return close
    parts[0, 0], parts[0, 1], parts[0, 2] = BEFORE_PART, at, close
    parts[1, 0], parts[1, 1], parts[1, 2] = AFTER_PART, close, close
    parts[3, 1] = -1
    member = _series_name_at(data, at, close, hint[0])
    if member < 0:
        return close
    hint[0] = member - at
    if data[member + 9] != QUOTE or data[member + 10] != COLON or data[member + 11] != QUOTE:
        return np.int64(-1)
    text_end = string_end(data, member + 12, close)
    if text_end < 0:
        return np.int64(-1)
    parts[3, 1], parts[3, 2] = member + 12, text_end
    parts[0, 2] = member
    parts[1, 1] = text_end + 1
    return close


@routine
def _value_at(data, at, end, out_value, out_kind, i):
    """Read the value, text or number, of record i; return its end, -1 if it is not plain."""
    if word_at(data, at) & FIVE_BYTES == NAN_TEXT:
        out_kind[i] = ENDED
        return at + 5
    quoted = data[at] == QUOTE
    digits, scale, at, kind = number_at(data, at + 1 if quoted else at, end)
    if kind == NOT_PLAIN or digits >= WHOLE_MAX or digits <= -WHOLE_MAX or (quoted and data[at] != QUOTE):
        return np.int64(-1)
    out_kind[i] = NUMBER
    out_value[i] = np.float64(digits)
    if kind == FRACTION:
        out_value[i] /= POWERS[scale]
    return at + 1 if quoted else at


@inline
def _record_at(data, at, end, i, hint, parts, out_time_ns, out_value, out_kind):
    """Read record i, from its brace on; tell whether it is plain. Its name goes to parts[2], its labels to parts[0] and [1]."""
    if data[at] != OPEN_BRACE:
        return False
    seen = 0
    at = after_spaces(data, at + 1, end)
    while True:
        word = word_at(data, at)
        bit = 0
        if word == LABELS_KEY and data[at + 8] == COLON:
            bit = 1
            at = after_spaces(data, at + 9, end)
            at = _labels_at(data, at, end, hint, parts) if data[at] == OPEN_BRACE else np.int64(-1)
        elif word & SEVEN_BYTES == NAME_KEY:
            bit = 2
            at = after_spaces(data, at + 7, end)
            close = string_end(data, at + 1, end) if data[at] == QUOTE else np.int64(-1)
            parts[2, 0], parts[2, 1], parts[2, 2] = NAME_PART, at + 1, close
            at = close + 1 if close > at + 1 else np.int64(-1)
        elif word == TIMESTAMP_KEY and word_at(data, at + 8) & FOUR_BYTES == TIMESTAMP_REST:
            bit = 4
            out_time_ns[i], at = time_at(data, after_spaces(data, at + 12, end), end)
            if out_time_ns[i] < 0:
                return False
        elif word == VALUE_KEY:
            bit = 8
            at = _value_at(data, after_spaces(data, at + 8, end), end, out_value, out_kind, i)
        if bit == 0 or seen & bit or at < 0:
            return False
        seen |= bit
        at = after_spaces(data, at, end)
        if at >= end:
            return False
        if data[at] == CLOSE_BRACE:
            break
        if data[at] != COMMA:
            return False
        at = after_spaces(data, at + 1, end)
    if at + 1 != end or seen != ALL_SEEN:
        return False
    return parts[3, 1] < 0 or _same_text(data, parts[2, 1], parts[2, 2], parts[3, 1], parts[3, 2])


@kernel
def adapter_scan(
    data: NDArray[np.uint8],
    span: NDArray[np.int32],
    bytes_max: int,
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
    hint: NDArray[np.int64],
    out_plain: NDArray[np.bool_],
    out_head: NDArray[np.int32],
    out_entry: NDArray[np.int32],
    out_time_ns: NDArray[np.int64],
    out_value: NDArray[np.float64],
    out_kind: NDArray[np.int8],
) -> None:
    """Read every record that is plain; leave the others, whole, to the reference parser.

    Plain: just the four members that the adapter writes, in any order; texts without escapes; a number of at most 15 digits
    without exponent, or "NaN", which ends the series; `__name__` among the labels, if it is there, the same as the name.

    Rows        data uint8[…] with PADDING; span int32[n, 6] as in Records
    Parameters  bytes_max of one record
    State       two tables of kernels.interned: of names, and of labels without `__name__` under the record's headers;
                parts int64[PARTS_MAX, 3], scratch; hint int64[1], where `__name__` stood last
    Output      by record out_plain bool[n], and where it is True out_head, out_entry int32, out_time_ns int64,
                out_value float64, out_kind int8 (NUMBER, or ENDED: a series-end marker, without value)
    Source      prometheus-kafka-adapter, serializers.go
    """
    for i in range(span.shape[0]):
        out_plain[i] = False
        at, end = np.int64(span[i, VALUE]), np.int64(span[i, VALUE_END])
        if at < 0 or end - at < 2 or end - at > bytes_max:
            continue
        while end > at and is_blank(data[end - 1]):
            end -= 1
        if not _record_at(data, at, end, i, hint, parts, out_time_ns, out_value, out_kind):
            continue
        first, close = parts[2, 1], parts[2, 2]
        parts[2, 0], parts[2, 1], parts[2, 2] = HEADERS_PART, span[i, HEADERS], span[i, HEADERS_END]
        entry = parts_number(
            data, parts, np.int64(3), slot, entry_hash, entry_at, entry_words, entry_next, meaning, arena, used
        )
        parts[0, 0], parts[0, 1], parts[0, 2] = NAME_PART, first, close
        head = parts_number(
            data, parts, np.int64(1), head_slot, head_hash, head_at, head_words, head_next, head_meaning, head_arena,
            head_used,
        )  # fmt: skip
        if entry < 0 or head < 0:
            continue
        out_entry[i], out_head[i] = entry, head
        out_plain[i] = True
