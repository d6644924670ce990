"""The bytes of each work's messages, always the same ones: (partition, key, value) in the order of production."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime

import orjson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData, NumberDataPoint

from tests.bench.works import GPUS_PER_NODE, METRICS, START_MS, Load

Message = tuple[int, bytes | None, bytes]

SEED = 7
_FIXED64 = struct.Struct("<Q")
_DOUBLE = struct.Struct("<d")
_TIME_MARK = 0x51C0_FFEE_51C0_FFEE
_VALUE_MARK = 0x7EAD_BEEF_0000_0000


def native(load: Load) -> Iterator[Message]:
    """W1: one GPU's reading a message, keyed by GPU."""
    random_ = random.Random(SEED)
    names = [load.gpu_name(gpu) for gpu in range(load.gpus)]
    for round_ in range(load.rounds):
        time_ms = START_MS + round_ * load.step_s * 1000
        for gpu, name in enumerate(names):
            value = {"ts": time_ms, **native_reading(random_, gpu, name, load.is_idle(gpu, round_))}
            yield gpu % load.partitions, name.encode(), orjson.dumps(value)


def native_reading(random_: random.Random, gpu: int, name: str, idle: bool) -> dict[str, str | float]:
    """Return one reading of one GPU, all but its time."""
    util = 0.0 if idle else round(random_.random() * 40 + 60, 1)
    return {
        "gpu": name,
        "node": f"node-{gpu // GPUS_PER_NODE:04d}",
        "util": util,
        "sm": round(util / 100 * 0.8, 4),
        "mem": 40000 + gpu % 1000,
        "power": 62.5 if idle else round(250 + random_.random() * 400, 1),
    }


def flood(load: Load) -> Iterator[Message]:
    """W1 in which every message is of a GPU that nobody has seen."""
    random_ = random.Random(SEED)
    for gpu in range(load.messages):
        name = load.gpu_name(gpu)
        time_ms = START_MS + gpu // load.gpus * load.step_s * 1000
        yield (
            gpu % load.partitions,
            name.encode(),
            orjson.dumps({"ts": time_ms, **native_reading(random_, gpu, name, False)}),
        )


def otlp(load: Load) -> Iterator[Message]:
    """W2: what the Collector's Prometheus receiver makes of one scrape of one node. Only times and values change."""
    random_ = random.Random(SEED)
    templates = [_template(load, node) for node in range(load.gpus // GPUS_PER_NODE)]
    for round_ in range(load.rounds):
        time_ns = (START_MS + round_ * load.step_s * 1000) * 10**6
        for node, (body, times, places) in enumerate(templates):
            for place in times:
                _FIXED64.pack_into(body, place, time_ns)
            for index in range(GPUS_PER_NODE):
                gpu = node * GPUS_PER_NODE + index
                for m, value in enumerate(load.readings(random_, gpu, round_)):
                    _DOUBLE.pack_into(body, places[m * GPUS_PER_NODE + index], value)
            yield node % load.partitions, None, bytes(body)


def _template(load: Load, node: int) -> tuple[bytearray, list[int], list[int]]:
    """Return a node's message, where its times stand, and where the value of each metric and GPU stands."""
    data = MetricsData()
    resource = data.resource_metrics.add()
    address = f"10.0.{node // 250}.{node % 250}"
    about = {"service.name": "dcgm", "service.instance.id": f"{address}:9400", "server.address": address}
    about |= {"server.port": "9400", "url.scheme": "http"}
    resource.resource.attributes.extend(_attributes(about))
    scope = resource.scope_metrics.add()
    scope.scope.name = "github.com/open-telemetry/opentelemetry-collector-contrib/receiver/prometheusreceiver"
    scope.scope.version = "0.155.0"
    for m, known in enumerate(METRICS):
        metric = scope.metrics.add(name=known.name, description=known.name.lower())
        metric.metadata.extend(_attributes({"prometheus.type": "counter" if known.counter else "gauge"}))
        if known.counter:
            metric.sum.aggregation_temporality, metric.sum.is_monotonic = 2, True
        points = metric.sum.data_points if known.counter else metric.gauge.data_points
        for index in range(GPUS_PER_NODE):
            labels = load.labels(node * GPUS_PER_NODE + index)
            points.append(_point(m * GPUS_PER_NODE + index, labels))
    for name in ("up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added"):
        metric = scope.metrics.add(name=name)
        metric.gauge.data_points.add(time_unix_nano=_TIME_MARK, as_double=1.0)
    body = data.SerializeToString()
    times = [found.start() for found in re.finditer(re.escape(_FIXED64.pack(_TIME_MARK)), body)]
    marks = len(METRICS) * GPUS_PER_NODE
    return bytearray(body), times, [body.index(_FIXED64.pack(_VALUE_MARK + i)) for i in range(marks)]


def _point(number: int, labels: dict[str, str]) -> NumberDataPoint:
    (mark,) = _DOUBLE.unpack(_FIXED64.pack(_VALUE_MARK + number))
    return NumberDataPoint(time_unix_nano=_TIME_MARK, as_double=mark, attributes=_attributes(labels))


def _attributes(values: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in values.items()]


def adapter(load: Load) -> Iterator[Message]:
    """W3: one sample of one series a message. The adapter marshals a Go map, so keys stand in the order of their bytes."""
    random_ = random.Random(SEED)
    nodes = [_series(load, node) for node in range(load.gpus // GPUS_PER_NODE)]
    for round_ in range(load.rounds):
        instant = datetime.fromtimestamp(START_MS // 1000 + round_ * load.step_s, UTC)
        time = instant.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        for node, series in enumerate(nodes):
            first = node * GPUS_PER_NODE
            values = [list(load.readings(random_, first + i, round_)) for i in range(GPUS_PER_NODE)]
            for number, head in enumerate(series):
                metric, index = divmod(number, GPUS_PER_NODE)
                value = b"%.15g" % values[index][metric]
                yield node % load.partitions, None, b'%s,"timestamp":"%s","value":"%s"}' % (head, time, value)


def _series(load: Load, node: int) -> list[bytes]:
    """Return the unchanging beginning of each series' messages, metric by metric."""
    heads = []
    for metric in METRICS:
        for index in range(GPUS_PER_NODE):
            labels = load.labels(node * GPUS_PER_NODE + index) | {"__name__": metric.name}
            labels |= {"instance": f"10.0.{node // 250}.{node % 250}:9400", "job": "dcgm-exporter"}
            head = orjson.dumps({"labels": dict(sorted(labels.items())), "name": metric.name})
            heads.append(head.removesuffix(b"}"))
    return heads


MESSAGES = {"W1": native, "W2": otlp, "W3": adapter, "flood": flood}
