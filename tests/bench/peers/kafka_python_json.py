"""W1 with kafka-python, orjson and a dict."""

from __future__ import annotations

import sys
import time

import orjson
from kafka import KafkaConsumer

from tests.bench.peers.common import new_group, new_state, report, step


def main() -> None:
    bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=new_group(),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=10_000,
        fetch_max_bytes=50 << 20,
        max_partition_fetch_bytes=8 << 20,
    )
    states: dict[str, list] = {}
    seen = alerts = 0
    started_s = 0.0
    while seen < count:
        fetched = consumer.poll(1000)
        if fetched and not started_s:
            started_s = time.perf_counter()
        for messages in fetched.values():
            for message in messages:
                event = orjson.loads(message.value)
                gpu = event["gpu"]
                state = states.get(gpu)
                if state is None:
                    state = states[gpu] = new_state()
                alerts += step(state, event["ts"], event["util"], event["power"])
            seen += len(messages)
        if fetched:
            consumer.commit_async()
    report(seen, started_s, alerts)


if __name__ == "__main__":
    main()
