"""OTLP JSON as the OpenTelemetry Collector puts it on Kafka; protobuf's camelCase names and snake_case are both read."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Reject, Sample
from service.ingest.reading import json_document, number, numeral

_OPENING = re.compile(rb'\s*\{\s*"resource(?:Metrics|_metrics)"\s*:')
_DELTA = (1, "AGGREGATION_TEMPORALITY_DELTA")
_NO_RECORDED_VALUE = 1  # flags bit 0: the series ended; a value read anyway would be a false zero
_INT64_DIGITS_MAX = 20


class OtlpJson:
    """Gauges and sums; histograms and summaries are passed over. 64-bit integers are text or numbers."""

    name: ClassVar[str] = "otlp_json"

    def recognises(self, record: Record) -> bool:
        return record.value is not None and _OPENING.match(record.value) is not None

    def parse(self, record: Record) -> Parsed:
        request = _object(json_document(record.value or b""), "the request")
        parsed = Parsed()
        for resource in _objects(request, "resourceMetrics", "resource_metrics"):
            shared = _labels(_object(resource.get("resource") or {}, "resource"))
            for scope in _objects(resource, "scopeMetrics", "scope_metrics"):
                for metric in _objects(scope, "metrics", "metrics"):
                    _read_metric(metric, shared, parsed)
        return parsed


def _read_metric(metric: dict[str, Any], shared: dict[str, str], parsed: Parsed) -> None:
    name = metric.get("name")
    if not isinstance(name, str):
        raise PoisonRecord("missing_field", "the name of a metric")
    data = metric.get("gauge") or metric.get("sum")
    if data is None:
        return
    data = _object(data, name)
    if "sum" in metric and _field(data, "aggregationTemporality", "aggregation_temporality") in _DELTA:
        name += " (delta)"  # a difference is not the counter that the name stands for
    for point in _objects(data, "dataPoints", "data_points"):
        try:
            sample = _sample(name, point, shared)
        except PoisonRecord as poison:
            item = len(parsed.samples) + len(parsed.rejects)
            parsed.rejects.append(Reject(item, poison.reason, f"{name}: {poison.detail}"))
            continue
        if sample is None:
            parsed.ended += 1
        else:
            parsed.samples.append(sample)


def _sample(name: str, point: dict[str, Any], shared: dict[str, str]) -> Sample | None:
    """Return the point as a sample, None for a series-end marker."""
    flags = point.get("flags", 0)
    if isinstance(flags, int) and flags & _NO_RECORDED_VALUE:
        return None
    value = _field(point, "asDouble", "as_double")
    if value is None:
        value = _field(point, "asInt", "as_int")
    if value is None:
        raise PoisonRecord("missing_field", "value")
    time_ns = _whole(_field(point, "timeUnixNano", "time_unix_nano") or 0)
    if not time_ns:
        raise PoisonRecord("missing_field", "time")
    read = numeral(value) if isinstance(value, str) else number(value)
    return Sample({**shared, **_labels(point)}, time_ns, {name: read})


def _whole(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _INT64_DIGITS_MAX:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PoisonRecord("wrong_type", f"time: expected whole nanoseconds, got {_brief(value)}")


def _brief(value: object) -> str:
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def _labels(owner: dict[str, Any]) -> dict[str, str]:
    labels = {}
    for attribute in _objects(owner, "attributes", "attributes"):
        text = _attribute_text(_object(attribute.get("value") or {}, "an attribute's value"))
        key = attribute.get("key")
        if text is not None and isinstance(key, str):
            labels[key] = text
    return labels


def _attribute_text(value: dict[str, Any]) -> str | None:
    """Return text, integers, booleans and doubles as text, None for anything else."""
    for name, given in value.items():
        if name in ("stringValue", "string_value"):
            return given if isinstance(given, str) else None
        if name in ("intValue", "int_value"):
            return str(given) if isinstance(given, int | str) and not isinstance(given, bool) else None
        if name in ("boolValue", "bool_value"):
            return "true" if given is True else "false"
        if name in ("doubleValue", "double_value"):
            return repr(number(given))
    return None


def _field(owner: dict[str, Any], camel: str, snake: str) -> Any:
    value = owner.get(camel)
    return owner.get(snake) if value is None else value


def _objects(owner: dict[str, Any], camel: str, snake: str) -> list[dict[str, Any]]:
    found = _field(owner, camel, snake)
    if found is None:
        return []
    if not isinstance(found, list):
        raise PoisonRecord("wrong_type", f"{camel}: expected an array, got {type(found).__name__}")
    return [_object(item, camel) for item in found]


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PoisonRecord("wrong_type", f"{what}: expected an object, got {type(value).__name__}")
    return value
