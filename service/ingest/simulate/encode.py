"""A scrape as the records that real agents write to Kafka, one encoder per wire format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric, NumberDataPoint

from service.ingest.simulate.dcgm import Scrape, Series

_SCOPE: Final = "github.com/open-telemetry/opentelemetry-collector-contrib/receiver/prometheusreceiver"
_SCOPE_VERSION: Final = "0.155.0"
_AGENT_HOST: Final = "telegraf-0"
_ENDED: Final = 1  # NO_RECORDED_VALUE
_SECOND: Final = 1_000_000_000


class Message(NamedTuple):
    """A record before a topic gives it a place; `timestamp_ms` is what the agent sets."""

    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


Encoder = Callable[[Scrape], list[Message]]


class _Point(NamedTuple):
    labels: Mapping[str, str]
    value: float | None


class _Family(NamedTuple):
    name: str
    description: str
    unit: str
    counter: bool
    points: list[_Point]


def encode_native(scrape: Scrape) -> list[Message]:
    """Our own JSON, one record a GPU, keyed by node."""
    messages = []
    for row in scrape.rows:
        ms = row.event_time_ns // 1_000_000
        labels = {name: value for name, value in row.labels._asdict().items() if value}
        columns = {name: _plain(round(value, 4)) for name, value in row.columns.items()}
        document = {"ts": ms, **labels, **columns}
        messages.append(Message(ms, scrape.node.name.encode(), _json(document)))
    return messages


def encode_otlp_proto(scrape: Scrape) -> list[Message]:
    """One OTLP request a scrape, as the Collector's Kafka exporter writes it by default: no key, no headers."""
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    for name, value in _resource(scrape).items():
        resource.resource.attributes.add(key=name).value.string_value = value
    scope = resource.scope_metrics.add()
    scope.scope.name, scope.scope.version = _SCOPE, _SCOPE_VERSION
    for family in _families(scrape):
        _fill_metric(scope.metrics.add(), family, scrape.event_time_ns)
    return [Message(_ms(scrape), None, request.SerializeToString())]


def _fill_metric(metric: Metric, family: _Family, time_ns: int) -> None:
    metric.name, metric.description, metric.unit = family.name, family.description, family.unit
    metric.metadata.add(key="prometheus.type").value.string_value = "counter" if family.counter else "gauge"
    if family.counter:
        metric.sum.is_monotonic = True
        metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    points = metric.sum.data_points if family.counter else metric.gauge.data_points
    for point in family.points:
        _fill_point(points.add(), point, time_ns)


def _fill_point(target: NumberDataPoint, point: _Point, time_ns: int) -> None:
    target.time_unix_nano = time_ns
    for name, text in point.labels.items():
        target.attributes.add(key=name).value.string_value = text
    if point.value is None:
        target.flags = _ENDED
    else:
        target.as_double = point.value


def encode_otlp_json(scrape: Scrape) -> list[Message]:
    """The same request in OTLP's JSON: 64-bit integers as text, enums as numbers."""
    scope = {
        "scope": {"name": _SCOPE, "version": _SCOPE_VERSION},
        "metrics": [_json_metric(family, scrape.event_time_ns) for family in _families(scrape)],
    }
    resource = {"resource": {"attributes": _attributes(_resource(scrape))}, "scopeMetrics": [scope]}
    return [Message(_ms(scrape), None, _json({"resourceMetrics": [resource]}))]


def _json_metric(family: _Family, time_ns: int) -> dict[str, Any]:
    points = []
    for point in family.points:
        document: dict[str, Any] = {"timeUnixNano": str(time_ns)}
        if point.labels:
            document = {"attributes": _attributes(point.labels), **document}
        points.append(document | ({"flags": _ENDED} if point.value is None else {"asDouble": _plain(point.value)}))
    metric: dict[str, Any] = {"name": family.name, "description": family.description}
    if family.unit:
        metric["unit"] = family.unit
    kind = {"aggregationTemporality": 2, "isMonotonic": True} if family.counter else {}
    metric["sum" if family.counter else "gauge"] = {"dataPoints": points, **kind}
    metric["metadata"] = _attributes({"prometheus.type": "counter" if family.counter else "gauge"})
    return metric


def _attributes(labels: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": name, "value": {"stringValue": value}} for name, value in labels.items()]


def _resource(scrape: Scrape) -> dict[str, str]:
    host_port = scrape.address
    port = host_port.rpartition(":")[2]
    return {
        "service.name": "dcgm-exporter",
        "service.instance.id": host_port,
        "server.port": port,
        "url.scheme": "http",
    }


def _families(scrape: Scrape) -> list[_Family]:
    families: dict[str, _Family] = {}
    for series in scrape.series():
        name = series.metric.name
        if name not in families:
            families[name] = _Family(name, series.metric.description, "", series.metric.counter, [])
        families[name].points.append(_Point(series.labels, series.value))
    served = float(sum(len(row.columns) for row in scrape.rows))
    for name, description, unit, value in (
        ("up", "The scraping was successful", "", 1.0),
        ("scrape_duration_seconds", "Duration of the scrape", "s", 0.004),
        ("scrape_samples_scraped", "The number of samples the target exposed", "", served),
        (
            "scrape_samples_post_metric_relabeling",
            "The number of samples remaining after metric relabeling was applied",
            "",
            served,
        ),
        ("scrape_series_added", "The approximate number of new series in this scrape", "", 0.0),
    ):
        families[name] = _Family(name, description, unit, False, [_Point({}, value)])
    return list(families.values())


def encode_prometheus_adapter(scrape: Scrape) -> list[Message]:
    """prometheus-kafka-adapter: one sample a record, the value as text, the time cut to whole seconds, no key."""
    time = datetime.fromtimestamp(scrape.event_time_ns // _SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    target = {"instance": scrape.address, "job": "dcgm-exporter"}
    messages = []
    for series in scrape.series():
        name = series.metric.name
        value = "NaN" if series.value is None else str(_plain(series.value))
        labels = {"__name__": name, **series.labels, **target}
        document = {"labels": dict(sorted(labels.items())), "name": name, "timestamp": time, "value": value}
        messages.append(Message(_ms(scrape), None, _json(document)))
    return messages


def encode_telegraf_json(scrape: Scrape, metric_version: int = 2) -> list[Message]:
    """Telegraf's JSON: one metric a record, the time in seconds, keyed by the agent's host."""
    seconds = scrape.event_time_ns // _SECOND
    messages = []
    for series, measurement, field in _telegraf(scrape, metric_version):
        document = {
            "fields": {field: _plain(series.value or 0.0)},
            "name": measurement,
            "tags": _tags(scrape, series),
            "timestamp": seconds,
        }
        messages.append(Message(seconds * 1000, _AGENT_HOST.encode(), _json(document) + b"\n"))
    return messages


def encode_influx(scrape: Scrape, metric_version: int = 2) -> list[Message]:
    """Telegraf's line protocol: one line a record, the time in nanoseconds, no key."""
    time_ns = scrape.event_time_ns // _SECOND * _SECOND
    messages = []
    for series, measurement, field in _telegraf(scrape, metric_version):
        tags = ",".join(f"{name}={_escaped(value)}" for name, value in _tags(scrape, series).items())
        line = f"{measurement},{tags} {field}={_plain(series.value or 0.0)} {time_ns}\n"
        messages.append(Message(time_ns // 1_000_000, None, line.encode()))
    return messages


def _telegraf(scrape: Scrape, metric_version: int) -> list[tuple[Series, str, str]]:
    # Telegraf knows no end of a series: what is gone is simply not written any more.
    alive = [series for series in scrape.series() if series.value is not None]
    if metric_version == 1:
        return [(s, s.metric.name, "counter" if s.metric.counter else "gauge") for s in alive]
    return [(s, "prometheus", s.metric.name) for s in alive]


def _tags(scrape: Scrape, series: Series) -> dict[str, str]:
    tags = {**series.labels, "host": _AGENT_HOST, "url": f"http://{scrape.address}/metrics"}
    return dict(sorted(tags.items()))


def _escaped(value: str) -> str:
    return value.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def encode_vector(scrape: Scrape) -> list[Message]:
    """Vector's metric events as JSON, one a record."""
    moment = datetime.fromtimestamp(scrape.event_time_ns // _SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    time = f"{moment}.{scrape.event_time_ns % _SECOND:09d}Z"
    messages = []
    for series in scrape.series():
        if series.value is None:
            continue
        kind = "counter" if series.metric.counter else "gauge"
        document = {
            "name": series.metric.name,
            "tags": {**series.labels, "instance": scrape.address},
            "timestamp": time,
            "kind": "absolute",
            kind: {"value": _plain(series.value)},
        }
        messages.append(Message(_ms(scrape), None, _json(document)))
    return messages


def _ms(scrape: Scrape) -> int:
    return scrape.event_time_ns // 1_000_000


def _plain(value: float) -> float | int:
    """Return a whole number as one, as Go's encoders write it."""
    return int(value) if value.is_integer() else value


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


ENCODERS: Final[Mapping[str, Encoder]] = {
    "native": encode_native,
    "otlp_proto": encode_otlp_proto,
    "otlp_json": encode_otlp_json,
    "prometheus_adapter": encode_prometheus_adapter,
    "telegraf_json": encode_telegraf_json,
    "influx": encode_influx,
    "vector": encode_vector,
}
# Telegraf with metric_version = 1; the records are of the same two formats.
VARIANTS: Final[Mapping[str, Encoder]] = {
    "telegraf_json_v1": lambda scrape: encode_telegraf_json(scrape, 1),
    "influx_v1": lambda scrape: encode_influx(scrape, 1),
}
