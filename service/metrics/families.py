"""How a metric family is put together here: prefix, zeros for closed sets, and label values that cannot do harm."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from detectors.idle_waste import STATES

_LABEL_CHARS_MAX = 200
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")


def label_text(value: str) -> str:
    """Return `value` fit for a label: no control, bidi or surrogate characters, bounded length.

    Whatever was changed ends in a hash of the original, so that two different values never become one series.
    """
    if len(value) <= _LABEL_CHARS_MAX and value.isprintable():
        return value  # nearly all are, and nothing that is printable is unsafe
    clean = _UNSAFE.sub("\ufffd", value)[:_LABEL_CHARS_MAX]
    if clean == value:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean}~{digest}"


def zeros(names: Iterable[str]) -> dict[str, int]:
    """Return a counter at 0 for each of a closed set, so that rates work from the first event."""
    return dict.fromkeys(names, 0)


def per_state(values: Iterable[float]) -> dict[str, float]:
    """Name the values of an array in the order of STATES."""
    return dict(zip(STATES, map(float, values), strict=True))


def gauge(name: str, text: str, values: Mapping[str, float], label: str) -> Metric:
    """Return a gauge with one label."""
    family = GaugeMetricFamily(f"skinflint_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def one(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(f"skinflint_{name}", text, value=float(value))


def maybe(name: str, text: str, value: float | None) -> Metric:
    """Return a gauge, without any sample where the value is not known: 0 would be a lie."""
    return GaugeMetricFamily(f"skinflint_{name}", text, value=value)


def count(name: str, text: str, values: Mapping[str, float], label: str = "") -> Metric:
    """Return a counter with one label, or without any; `name` ends in _total."""
    family = CounterMetricFamily(f"skinflint_{name}", text, labels=(label,) if label else ())
    for key, value in values.items():
        family.add_metric((key,) if label else (), value)
    return family
