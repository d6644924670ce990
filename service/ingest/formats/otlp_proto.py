"""OTLP protobuf (ExportMetricsServiceRequest, MetricsData) as the OpenTelemetry Collector puts it on Kafka."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Metric,
    MetricsData,
    NumberDataPoint,
)

from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Reject, Sample

_NO_RECORDED_VALUE = 1  # flags bit 0: the series ended; a value read anyway would be a false zero


class OtlpProto:
    """Gauges and sums; histograms and summaries are passed over."""

    name: ClassVar[str] = "otlp_proto"

    def recognises(self, record: Record) -> bool:
        return record.value is not None and _opens_with_resource_metrics(record.value[:16], len(record.value))

    def parse(self, record: Record) -> Parsed:
        try:
            request = MetricsData.FromString(record.value or b"")
        except (DecodeError, RecursionError, MemoryError) as error:
            raise PoisonRecord("malformed", str(error)) from None
        if record.value and not request.resource_metrics:
            raise PoisonRecord("malformed", "no resource metrics")
        parsed = Parsed()
        for resource in request.resource_metrics:
            shared = _labels(resource.resource.attributes)
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    _read_metric(metric, shared, parsed)
        return parsed


def _read_metric(metric: Metric, shared: dict[str, str], parsed: Parsed) -> None:
    points: Iterable[NumberDataPoint] = ()
    name = metric.name
    if metric.HasField("gauge"):
        points = metric.gauge.data_points
    elif metric.HasField("sum"):
        points = metric.sum.data_points
        if metric.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA:
            name += " (delta)"  # a difference is not the counter that the name stands for
    for point in points:
        if point.flags & _NO_RECORDED_VALUE:
            parsed.ended += 1
            continue
        kind = point.WhichOneof("value")
        if kind is None or not point.time_unix_nano:
            item = len(parsed.samples) + len(parsed.rejects)
            parsed.rejects.append(Reject(item, "missing_field", f"{name}: {'value' if kind is None else 'time'}"))
            continue
        value = point.as_double if kind == "as_double" else float(point.as_int)
        labels = {**shared, **_labels(point.attributes)}
        parsed.samples.append(Sample(labels, point.time_unix_nano, {name: value}))


def _labels(attributes: Iterable[KeyValue]) -> dict[str, str]:
    labels = {}
    for attribute in attributes:
        value = attribute.value
        kind = value.WhichOneof("value")
        if kind == "string_value":
            labels[attribute.key] = value.string_value
        elif kind == "int_value":
            labels[attribute.key] = str(value.int_value)
        elif kind == "bool_value":
            labels[attribute.key] = "true" if value.bool_value else "false"
        elif kind == "double_value":
            labels[attribute.key] = repr(value.double_value)
    return labels


def _opens_with_resource_metrics(head: bytes, size: int) -> bool:
    """Field 1, length-delimited, of a length that fits, opening with a field that ResourceMetrics has."""
    if size < 2 or head[0] != 0x0A:
        return False
    length = shift = 0
    for at, byte in enumerate(head[1:11], 1):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    else:
        return False
    inner = at + 1
    return inner + length <= size and (length == 0 or (inner < len(head) and head[inner] in (0x0A, 0x12, 0x1A)))
