"""W1 as one would write it by hand: confluent-kafka, tuned, orjson and a dict."""

from __future__ import annotations

import sys
import time

import orjson

from tests.bench.peers.common import new_state, report, step, tuned_consumer


def main() -> None:
    bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    consumer = tuned_consumer(bootstrap, topic)
    states: dict[str, list] = {}
    seen = alerts = 0
    started_s = 0.0
    while seen < count:
        messages = consumer.consume(10_000, 1.0)
        if messages and not started_s:
            started_s = time.perf_counter()
        for message in messages:
            event = orjson.loads(message.value())
            gpu = event["gpu"]
            state = states.get(gpu)
            if state is None:
                state = states[gpu] = new_state()
            alerts += step(state, event["ts"], event["util"], event["power"])
        seen += len(messages)
        if messages:
            consumer.commit(asynchronous=True)
    report(seen, started_s, alerts)


if __name__ == "__main__":
    main()
