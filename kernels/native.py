"""Native JSON read straight into columns: keys in the order in which they came last time, labels by their bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.interned import PARTS_MAX, parts_number
from kernels.log import HEADERS, HEADERS_END, VALUE, VALUE_END
from kernels.text import (
    CLOSE_BRACE,
    CLOSE_BRACKET,
    COMMA,
    DIGITS_EXACT_MAX,
    FRACTION,
    NOT_PLAIN,
    OPEN_BRACE,
    OPEN_BRACKET,
    POWERS,
    QUOTE,
    SPACE,
    after_spaces,
    is_blank,
    is_null,
    number_at,
    string_end,
    time_at,
)
from kernels.words import head_of, inline, word_at

KEYS_MAX = 64  # a record's keys are ticked off in one 64-bit number
KEY_WORDS = 6
TIME, LABEL, MEASUREMENT, UNKNOWN_NAME, IGNORED_NAME = 0, 1, 2, 3, 4  # what a key is
HEADERS_PART = 1 << 20  # the key of the part that holds a record's headers
TIME_SIZE, TIME_VALUE, TIME_TEXT, TIME_WORDS = 4, 5, 6, 3
OUT = TIME_TEXT + TIME_WORDS
FIRST_OBJECT_BYTES_MAX = 4096  # beyond, the reference does not look for the keys by which it recognises the format
WHOLE_MAX = 10**DIGITS_EXACT_MAX


@inline
def _key_at(data, at, key, words, masks, key_size):
    """Tell whether key `key`, with its quotes and colon, stands at `at`."""
    for w in range((key_size[key] + 7) >> 3):
        if (word_at(data, at + 8 * w) ^ words[key, w]) & masks[key, w] != np.uint64(0):
            return False
    return True


@inline
def _find_key(data, at, likely, key_count, words, masks, key_size):
    """Return which key stands at `at`, the likely one tried first; -1 if it is none of them."""
    if likely >= 0 and _key_at(data, at, likely, words, masks, key_size):
        return likely
    for key in range(key_count):
        if _key_at(data, at, np.int64(key), words, masks, key_size):
            return np.int64(key)
    return np.int64(-1)


@inline
def _label_end(data, at, end):
    """Return the end of a label's token, -1 if it is none: text without escapes, a number, or a word such as null."""
    if data[at] == QUOTE:
        close = string_end(data, at + 1, end)
        return close + 1 if close >= 0 else close
    first = at
    while at < end and data[at] != COMMA and data[at] != CLOSE_BRACE and data[at] > 32:
        if data[at] == OPEN_BRACE or data[at] == OPEN_BRACKET or data[at] == QUOTE:
            return np.int64(-1)
        at += 1
    return at if at > first else np.int64(-1)


@inline
def _same_time_at(data, at, out):
    """Tell whether the text of the last instant stands at `at` again: agents report many GPUs at one instant."""
    size = out[TIME_SIZE]
    if size == 0:
        return False
    for w in range(TIME_WORDS):
        left = size - 8 * w
        if left > 0 and head_of(word_at(data, at + 8 * w), min(left, 8)) != np.uint64(out[TIME_TEXT + w]):
            return False
    following = data[at + size]
    return following == COMMA or following == CLOSE_BRACE or following == SPACE


@inline
def _remember_time(data, at, end, out):
    """Keep the text of an instant, unless it is too long."""
    size = end - at
    if size > 8 * TIME_WORDS:
        return
    out[TIME_VALUE] = out[0]
    out[TIME_SIZE] = size
    for w in range(TIME_WORDS):
        left = size - 8 * w
        if left > 0:
            out[TIME_TEXT + w] = np.int64(head_of(word_at(data, at + 8 * w), min(left, 8)))


@inline
def _object_at(
    data,
    at,
    end,
    key_count,
    words,
    masks,
    key_size,
    key_kind,
    key_row,
    key_factor,
    key_next,
    parts,
    row,
    out_values,
    out,
):
    """Read one object from behind its brace; return where it ends (-1: not plain). Labels go to `parts`, numbers to out_values.

    out int64[OUT]: instant, parts, values put, unknown names; then size, meaning and text of the last instant.
    """
    out[0] = 0
    out[2] = 0
    out[3] = 0
    labels = out[1]
    seen = np.uint64(0)
    before = key_count
    at = after_spaces(data, at, end)
    while True:
        key = _find_key(data, at, np.int64(key_next[before]), key_count, words, masks, key_size)
        if key < 0 or seen >> np.uint64(key) & np.uint64(1):
            return np.int64(-1)
        seen |= np.uint64(1) << np.uint64(key)
        key_next[before] = key
        before = key
        at = after_spaces(data, at + key_size[key], end)
        kind = key_kind[key]
        if kind == LABEL:
            close = _label_end(data, at, end)
            if close < 0 or labels >= PARTS_MAX:
                return np.int64(-1)
            parts[labels, 0] = key
            parts[labels, 1] = at
            parts[labels, 2] = close
            labels += 1
            at = close
        elif kind == TIME:
            if _same_time_at(data, at, out):
                out[0] = out[TIME_VALUE]
                at += out[TIME_SIZE]
            else:
                first = at
                out[0], at = time_at(data, at, end)
                if out[0] < 0:
                    return np.int64(-1)
                _remember_time(data, first, at, out)
        elif is_null(data, at):
            at += 4
        else:
            digits, scale, at, kind_of_number = number_at(data, at, end)
            if kind_of_number == NOT_PLAIN or digits >= WHOLE_MAX or digits <= -WHOLE_MAX:
                return np.int64(-1)
            if kind == MEASUREMENT:
                raw = np.float64(digits)
                if kind_of_number == FRACTION:
                    raw /= POWERS[scale]
                value = raw * key_factor[key, 0]
                if key_factor[key, 1] != 1.0:
                    value /= key_factor[key, 1]
                value += 0.0
                if not key_factor[key, 2] <= value <= key_factor[key, 3]:
                    return np.int64(-1)
                out_values[key_row[key], row] = value
                out[2] += 1
            elif kind == UNKNOWN_NAME:
                out[3] += 1
        at = after_spaces(data, at, end)
        if at >= end:
            return np.int64(-1)
        if data[at] == CLOSE_BRACE:
            out[1] = labels
            return at + 1
        if data[at] != COMMA:
            return np.int64(-1)
        at = after_spaces(data, at + 1, end)


@kernel
def native_scan(
    data: NDArray[np.uint8],
    span: NDArray[np.int32],
    timestamp_ms: NDArray[np.int64],
    key_count: int,
    words: NDArray[np.uint64],
    masks: NDArray[np.uint64],
    key_size: NDArray[np.int64],
    key_kind: NDArray[np.int8],
    key_row: NDArray[np.int64],
    key_factor: NDArray[np.float64],
    earliest_ns: int,
    latest_ns: int,
    future_ns: int,
    bytes_max: int,
    samples_max: int,
    key_next: NDArray[np.int64],
    slot: NDArray[np.int32],
    entry_hash: NDArray[np.uint64],
    entry_at: NDArray[np.int32],
    entry_words: NDArray[np.int32],
    entry_next: NDArray[np.int32],
    meaning: NDArray[np.int32],
    arena: NDArray[np.uint64],
    used: NDArray[np.int64],
    parts: NDArray[np.int64],
    found: NDArray[np.int64],
    out_plain: NDArray[np.bool_],
    out_record: NDArray[np.int32],
    out_entry: NDArray[np.int32],
    out_time_ns: NDArray[np.int64],
    out_values: NDArray[np.float64],
    out_unknown: NDArray[np.int32],
    out_rows: NDArray[np.int64],
) -> None:
    """Read every record that is plain native JSON; leave the others, whole, to the reference parser.

    Plain: an object or an array of objects with known keys, each once; text without escapes; numbers of at most 15 digits
    without exponent; a time and a value within their bounds; labels that come with at least one value.

    Rows        data uint8[…] with PADDING; span int32[n, 6], timestamp_ms int64[n] as in Records
    Parameters  words, masks uint64[k, KEY_WORDS]: each key with quotes and colon; key_size, its bytes; key_kind;
                key_row, the row of out_values; key_factor float64[k, 4]: multiply, divide, lowest, highest; earliest_ns, latest_ns, and future_ns beyond the record's own timestamp bound the time; bytes_max,
                samples_max of one record
    State       key_next int64[k + 1], the key that followed each one last time, at k the first; the table of
                kernels.interned; parts int64[PARTS_MAX, 3] and found int64[OUT], scratch
    Output      out_plain bool[n]; out_record (index of the record), out_entry int32[rows], out_time_ns int64[rows],
                out_values float64[c, rows], NaN = missing; out_unknown int32[rows], values under unknown names;
                out_rows int64[1], how many rows there are
    """
    rows = 0
    for i in range(span.shape[0]):
        out_plain[i] = False
        at, end = np.int64(span[i, VALUE]), np.int64(span[i, VALUE_END])
        if at < 0 or end - at < 2 or end - at > bytes_max:
            continue
        while end > at and is_blank(data[end - 1]):
            end -= 1
        too_late_ns = latest_ns
        if timestamp_ms[i] >= 0:
            too_late_ns = min(latest_ns, timestamp_ms[i] * 1_000_000 + future_ns + 1)
        many = data[at] == OPEN_BRACKET
        if many:
            at = after_spaces(data, at + 1, end)
        begin, first_row = at, rows
        while at >= 0:
            if rows >= out_record.size or rows - first_row >= samples_max or at >= end or data[at] != OPEN_BRACE:
                at = np.int64(-1)
                break
            found[1] = 0
            if span[i, HEADERS] < span[i, HEADERS_END]:
                parts[0, 0], parts[0, 1], parts[0, 2] = HEADERS_PART, span[i, HEADERS], span[i, HEADERS_END]
                found[1] = 1
            for c in range(out_values.shape[0]):
                out_values[c, rows] = np.nan
            at = _object_at(
                data, at + 1, end, key_count, words, masks, key_size, key_kind, key_row, key_factor, key_next, parts,
                rows, out_values, found,
            )  # fmt: skip
            if at < 0 or found[2] == 0 or found[0] < earliest_ns or found[0] >= too_late_ns:
                at = np.int64(-1)
                break
            if rows == first_row and at - begin > FIRST_OBJECT_BYTES_MAX:
                at = np.int64(-1)
                break
            entry = parts_number(
                data, parts, found[1], slot, entry_hash, entry_at, entry_words, entry_next, meaning, arena, used
            )  # fmt: skip
            if entry < 0:
                at = np.int64(-1)
                break
            out_record[rows], out_entry[rows], out_time_ns[rows] = i, entry, found[0]
            out_unknown[rows] = found[3]
            rows += 1
            if not many:
                break
            at = after_spaces(data, at, end)
            if at < end and data[at] == CLOSE_BRACKET:
                at += 1
                break
            at = after_spaces(data, at + 1, end) if at < end and data[at] == COMMA else np.int64(-1)
        if at != end:
            rows = first_row
            continue
        out_plain[i] = True
    out_rows[0] = rows
