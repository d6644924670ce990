"""W2 as one would write it by hand: confluent-kafka, tuned, opentelemetry-proto (upb) and a loop over the data points."""

from __future__ import annotations

import sys
import time

from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData

from tests.bench.peers.common import LongFold, report, tuned_consumer


def fold_message(fold: LongFold, value: bytes) -> None:
    """Take in every data point that names a GPU."""
    for resource in MetricsData.FromString(value).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                name = metric.name
                points = metric.gauge.data_points if metric.HasField("gauge") else metric.sum.data_points
                for point in points:
                    labels = {attribute.key: attribute.value.string_value for attribute in point.attributes}
                    if gpu := labels.get("UUID"):
                        fold.add(gpu, name, point.time_unix_nano // 1_000_000, point.as_double)


def main() -> None:
    bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    consumer = tuned_consumer(bootstrap, topic)
    fold = LongFold()
    seen = 0
    started_s = 0.0
    while seen < count:
        messages = consumer.consume(500, 1.0)
        if messages and not started_s:
            started_s = time.perf_counter()
        for message in messages:
            fold_message(fold, message.value())
        seen += len(messages)
        if messages:
            consumer.commit(asynchronous=True)
    report(seen, started_s, fold.alerts)


if __name__ == "__main__":
    main()
