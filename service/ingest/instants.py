"""Event times as producers write them: epoch numbers of four magnitudes and RFC 3339 text, to nanoseconds since 1970."""

from __future__ import annotations

import re
from datetime import date

from service.errors import PoisonRecord

# An epoch number below each bound is in the unit beside it; seconds pass 1e11 in the year 5138.
_UNITS: tuple[tuple[float, int], ...] = ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000))
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,30}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)


def from_epoch(number: float) -> int:
    """Return ns since 1970 for seconds, ms, us or ns, told apart by magnitude. Fractions are kept to the microsecond.

    A float of today's seconds cannot hold more than a quarter of a microsecond, so finer digits would be noise.
    """
    size = abs(number)
    for bound, unit_ns in _UNITS:
        if size < bound:
            break
    else:
        unit_ns = 1
    if isinstance(number, int):
        return number * unit_ns
    if size > 1e19:
        raise PoisonRecord("time_out_of_range", f"time {number!r}")
    return round(number * (unit_ns // 1_000)) * 1_000 if unit_ns > 1 else int(number)


def from_rfc3339(text: str) -> int:
    """Return ns since 1970 for RFC 3339 text; digits beyond the nanosecond are cut, a leap second counts as the one before."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise PoisonRecord("wrong_type", f"time {text[:40]!r}: expected RFC 3339 with a zone")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, zone_hour, zone_minute = match.groups()[6:]
    if hour > 23 or minute > 59 or second > 60 or (sign and (int(zone_hour) > 23 or int(zone_minute) > 59)):
        raise PoisonRecord("time_out_of_range", f"time {text[:40]!r}")
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        raise PoisonRecord("time_out_of_range", f"time {text[:40]!r}: no such day") from None
    seconds = days * 86_400 + hour * 3_600 + minute * 60 + min(second, 59)
    if sign:
        offset_s = int(zone_hour) * 3_600 + int(zone_minute) * 60
        seconds += offset_s if sign == "-" else -offset_s
    return seconds * 1_000_000_000 + (int(fraction[:9].ljust(9, "0")) if fraction else 0)


def instant(value: object) -> int:
    """Return ns since 1970 for whatever JSON holds: a number or RFC 3339 text. Raises PoisonRecord for anything else."""
    if isinstance(value, str):
        return from_rfc3339(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PoisonRecord("wrong_type", f"time: expected a number or RFC 3339 text, got {type(value).__name__}")
    return from_epoch(value)
