"""Numbers, strings and instants in JSON text: the plain ones. What is not plain is said to be so, never guessed."""

from __future__ import annotations

import numpy as np

from kernels.words import BACKSLASHES, QUOTES, first_marked, inline, routine, word_at, zero_bytes

QUOTE, COMMA, MINUS, POINT, ZERO, NINE, COLON = 34, 44, 45, 46, 48, 57, 58
OPEN_BRACKET, BACKSLASH, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE = 91, 92, 93, 123, 125
SPACE, UPPER_T, UPPER_Z = 32, 84, 90
NULL = np.uint64(0x6C6C756E)  # "null"

NOT_PLAIN, WHOLE, FRACTION = 0, 1, 2
DIGITS_EXACT_MAX = 15  # a float64 holds any 15 digits, and their quotient by a power of ten is then rounded once
DIGITS_WHOLE_MAX = 18  # what an int64 holds whatever the digits
SECOND_NS = 1_000_000_000
DAY_S = 86_400
# 10^0 … 10^15: exact, so that dividing by them rounds once.
POWERS = np.array([float(10**k) for k in range(DIGITS_EXACT_MAX + 1)])


@inline
def number_at(data, at, end):
    """Read a number as JSON spells it, without exponent: its digits as int64, how many of them are behind the point, where it
    ends, and WHOLE, FRACTION or NOT_PLAIN. -0 gives 0: callers add 0.0 anyway.
    """
    negative = data[at] == MINUS
    if negative:
        at += 1
    first = at
    digits = np.int64(0)
    while at < end:
        digit = np.int64(data[at]) - ZERO
        if digit < 0 or digit > 9:
            break
        digits = digits * 10 + digit
        at += 1
    size = at - first
    kind = WHOLE
    if size == 0 or size > DIGITS_WHOLE_MAX or (size > 1 and data[first] == ZERO):
        kind = NOT_PLAIN
    scale = np.int64(0)
    if at < end and data[at] == POINT:
        at += 1
        point = at
        while at < end:
            digit = np.int64(data[at]) - ZERO
            if digit < 0 or digit > 9:
                break
            digits = digits * 10 + digit
            at += 1
        scale = at - point
        if scale == 0 or size + scale > DIGITS_EXACT_MAX:
            kind = NOT_PLAIN
        elif kind == WHOLE:
            kind = FRACTION
    if at < end and (data[at] | 0x20) == 101:  # e
        kind = NOT_PLAIN
    return -digits if negative else digits, scale, at, kind


@inline
def string_end(data, at, end):
    """Return where the closing quote of the string that begins at `at` lies; -1 if a backslash or the end comes first."""
    while at < end:
        word = word_at(data, at)
        marks = zero_bytes(word ^ QUOTES) | zero_bytes(word ^ BACKSLASHES)
        if marks != np.uint64(0):
            at += first_marked(marks)
            return at if at < end and data[at] == QUOTE else np.int64(-1)
        at += 8
    return np.int64(-1)


@inline
def _two_digits(data, at):
    """Return the number that two digits spell, a large one if they are no digits."""
    high, low = np.int64(data[at]) - ZERO, np.int64(data[at + 1]) - ZERO
    return high * 10 + low if 0 <= high <= 9 and 0 <= low <= 9 else np.int64(10_000)


@inline
def days_since_1970(year, month, day):
    """Return the day's number in the Gregorian calendar. Source: Hinnant, chrono-compatible low-level date algorithms."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@inline
def instant_at(data, at, end):
    """Return ns since 1970 of `2026-11-24T20:05:20.123Z` in [at, end), -1 if it is spelled otherwise. Any fraction up to ns."""
    size = end - at
    if size < 20 or size == 21 or size > 30 or data[end - 1] != UPPER_Z:
        return np.int64(-1)
    if data[at + 4] != MINUS or data[at + 7] != MINUS or data[at + 10] != UPPER_T:
        return np.int64(-1)
    if data[at + 13] != COLON or data[at + 16] != COLON or (size > 20 and data[at + 19] != POINT):
        return np.int64(-1)
    year = _two_digits(data, at) * 100 + _two_digits(data, at + 2)
    month, day = _two_digits(data, at + 5), _two_digits(data, at + 8)
    hour, minute, second = _two_digits(data, at + 11), _two_digits(data, at + 14), _two_digits(data, at + 17)
    if year < 1970 or year > 9999 or month < 1 or month > 12 or day < 1 or hour > 23 or minute > 59 or second > 59:
        return np.int64(-1)
    first = days_since_1970(year, month, np.int64(1))
    following = days_since_1970(year + month // 12, month % 12 + 1, np.int64(1))
    if day > following - first:
        return np.int64(-1)
    fraction = np.int64(0)
    for k in range(9):
        fraction *= 10
        place = at + 20 + k
        if place < end - 1:
            digit = np.int64(data[place]) - ZERO
            if digit < 0 or digit > 9:
                return np.int64(-1)
            fraction += digit
    seconds = (first + day - 1) * DAY_S + hour * 3600 + minute * 60 + second
    return seconds * SECOND_NS + fraction


@inline
def instant_of_number(digits, scale, kind):
    """Return ns since 1970 of an epoch number in s, ms, us or ns, told apart by its size; -1 before 1970 and after 2262.

    What `instants.from_epoch` does: fractions are kept to the microsecond, since a float of today's seconds ends there.
    """
    if digits < 0:
        return np.int64(-1)
    number = np.float64(digits) / POWERS[scale]
    unit_ns = np.int64(1)
    if (kind == WHOLE and digits < 10**11) or (kind == FRACTION and number < 1e11):
        unit_ns = np.int64(1_000_000_000)
    elif (kind == WHOLE and digits < 10**14) or (kind == FRACTION and number < 1e14):
        unit_ns = np.int64(1_000_000)
    elif (kind == WHOLE and digits < 10**17) or (kind == FRACTION and number < 1e17):
        unit_ns = np.int64(1_000)
    if number > 9.2e18 / np.float64(unit_ns):
        return np.int64(-1)
    if kind == WHOLE:
        return digits * unit_ns
    if unit_ns == 1:
        return np.int64(number)
    return np.int64(np.rint(number * np.float64(unit_ns // 1_000))) * 1_000


@routine
def time_at(data, at, end):
    """Return the instant at `at`, text or number, in ns since 1970, and where it ends; -1 for one that is not plain."""
    if data[at] == QUOTE:
        close = string_end(data, at + 1, end)
        return (instant_at(data, at + 1, close), close + 1) if close >= 0 else (np.int64(-1), at)
    digits, scale, at, kind = number_at(data, at, end)
    return (instant_of_number(digits, scale, kind) if kind != NOT_PLAIN else np.int64(-1)), at


@inline
def after_spaces(data, at, end):
    """Return the first place that holds no space."""
    while at < end and data[at] == SPACE:
        at += 1
    return at


@inline
def is_blank(byte):
    """Tell whether JSON allows the byte between its parts: space, tab, line feed, carriage return."""
    return byte == SPACE or byte == 9 or byte == 10 or byte == 13


@inline
def is_null(data, at):
    """Tell whether `null` stands at `at`."""
    return word_at(data, at) & np.uint64(0xFFFFFFFF) == NULL
