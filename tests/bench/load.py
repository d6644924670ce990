"""Write one load to its topic: python -m tests.bench.load BOOTSTRAP WORK MESSAGES GPUS PARTITIONS. Runs in the peers' venv."""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.bench.messages import MESSAGES
from tests.bench.works import Load, named

POLL_EVERY = 4096
BUSY = {
    "batch.num.messages": 5000,
    "compression.type": "lz4",
    "enable.idempotence": True,  # a batch that is sent again must not pass those after it
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 512 << 10,
}


def create(bootstrap: str, topic: str, partitions: int) -> None:
    """Create the topic anew, and return when its partitions have leaders."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        made.result()
    while not _led(admin, topic, partitions):
        time.sleep(0.1)


def _led(admin: AdminClient, topic: str, partitions: int) -> bool:
    found = admin.list_topics(topic, timeout=10).topics[topic].partitions
    return len(found) == partitions and all(partition.leader >= 0 for partition in found.values())


def write(bootstrap: str, load: Load) -> None:
    """Produce every message, lz4, in batches as a busy producer makes them."""
    producer = Producer(BUSY | {"bootstrap.servers": bootstrap, "linger.ms": 50})
    for number, (partition, key, value) in enumerate(MESSAGES[load.work.name](load)):
        while True:
            try:
                producer.produce(load.topic, value, key=key, partition=partition)
                break
            except BufferError:
                producer.poll(0.1)
        if number % POLL_EVERY == 0:
            producer.poll(0)
    if left := producer.flush(60):
        raise KafkaException(f"{left} messages were not written")


def main() -> None:
    """Create, write, and print how many messages lie there."""
    bootstrap, work, *numbers = sys.argv[1:]
    load = named(work, *map(int, numbers))
    create(bootstrap, load.topic, load.partitions)
    write(bootstrap, load)
    print(json.dumps({"messages": load.messages, "topic": load.topic}))


if __name__ == "__main__":
    main()
