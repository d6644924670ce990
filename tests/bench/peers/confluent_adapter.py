"""W3 as one would write it by hand: confluent-kafka, tuned, orjson and a dict."""

from __future__ import annotations

import sys
import time
from datetime import datetime

import orjson

from tests.bench.peers.common import LongFold, report, tuned_consumer


def main() -> None:
    bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    consumer = tuned_consumer(bootstrap, topic)
    fold = LongFold()
    seen = 0
    started_s = 0.0
    while seen < count:
        messages = consumer.consume(10_000, 1.0)
        if messages and not started_s:
            started_s = time.perf_counter()
        for message in messages:
            event = orjson.loads(message.value())
            time_ms = int(datetime.fromisoformat(event["timestamp"]).timestamp() * 1000)
            fold.add(event["labels"]["UUID"], event["name"], time_ms, float(event["value"]))
        seen += len(messages)
        if messages:
            consumer.commit(asynchronous=True)
    report(seen, started_s, fold.alerts)


if __name__ == "__main__":
    main()
