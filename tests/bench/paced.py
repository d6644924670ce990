"""A steady producer, in the peers' venv: python -m tests.bench.paced BOOTSTRAP WORK MESSAGES GPUS PARTITIONS [RATE READY].

Without a rate it creates the topic, and finds out how fast it can produce, on another one. With a rate it waits until the
file READY is there, writes the load at that rate, and prints the wall time of each round's first record in each partition.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer

from tests.bench.load import BUSY, create
from tests.bench.messages import steady
from tests.bench.works import START_MS, Steady, named

CHUNK = 512  # messages between two looks at the clock
LINGER_MS = 5  # librdkafka's default
FLAT_OUT_S = 2.0
READY_TIMEOUT_S = 90.0


class Paced:
    """Writes rounds of a load to a topic."""

    def __init__(self, bootstrap: str, topic: str, load: Steady) -> None:
        self._producer = Producer(BUSY | {"bootstrap.servers": bootstrap, "linger.ms": LINGER_MS})
        self._topic = topic
        self._load = load
        self.written = 0
        self.queued = 0  # the most that was not yet acknowledged at the end of a round

    def round(self, messages: list[dict[str, bytes]], began_s: float, rate: float) -> list[int]:
        """Write one round, no message before its time; return when the first of each partition was produced."""
        count = self._load.partitions
        first: list[int] = []
        for at in range(0, len(messages), CHUNK):
            time.sleep(max(0.0, began_s + self.written / rate - time.monotonic()))
            for partition in range(count):
                if len(first) < count:
                    first.append(time.time_ns())
                self._put(messages[at + partition : at + CHUNK : count], partition)
            self._producer.poll(0)
            self.written += len(messages[at : at + CHUNK])
        self.queued = max(self.queued, len(self._producer))
        return first

    def _put(self, messages: list[dict[str, bytes]], partition: int) -> None:
        while messages:
            self._producer.produce_batch(self._topic, messages, partition=partition)
            # What found no room in the queue says so, and goes again.
            messages = [{k: m[k] for k in ("key", "value")} for m in messages if "_error" in m]
            if messages:
                self._producer.poll(0.01)

    def finish(self) -> None:
        """Return when everything is on the topic."""
        if left := self._producer.flush(60):
            raise KafkaException(f"{left} messages were not written")


def flat_out(bootstrap: str, load: Steady) -> dict[str, Any]:
    """Create the topic, and produce to another as fast as it goes for a moment."""
    other = f"{load.topic}-flat-out"
    for topic in (load.topic, other):
        create(bootstrap, topic, load.partitions)
    producer = Paced(bootstrap, other, load)
    rounds = steady(load)
    first = next(rounds)
    began_s = time.monotonic()
    producer.round(first, began_s, math.inf)
    while time.monotonic() - began_s < FLAT_OUT_S:
        producer.round(next(rounds), began_s, math.inf)
    producer.finish()
    return {"messages_per_s": producer.written / (time.monotonic() - began_s)}


def write(bootstrap: str, load: Steady, rate: float, ready: Path) -> dict[str, Any]:
    """Write the whole load, and say what was produced when: event time in ms, wall times in ns by partition."""
    producer = Paced(bootstrap, load.topic, load)
    rounds = steady(load)
    upcoming = next(rounds)
    until_s = time.monotonic() + READY_TIMEOUT_S
    while not ready.exists():
        if time.monotonic() > until_s:
            raise TimeoutError(f"{ready} is not there: ours did not start")
        time.sleep(0.05)
    produced = []
    began_s = time.monotonic()
    for number in range(load.rounds):
        produced.append([START_MS + number * load.step_s * 1000, producer.round(upcoming, began_s, rate)])
        upcoming = next(rounds)
    seconds = time.monotonic() - began_s
    producer.finish()
    found = {"messages_per_s": producer.written / seconds, "messages": producer.written, "rounds": produced}
    return found | {"queue_max_s": producer.queued / rate}


def main() -> None:
    """Do one of the two, and print what came of it."""
    bootstrap, work, *rest = sys.argv[1:]
    load = named(work, *map(int, rest[:3]))
    assert isinstance(load, Steady)
    said = write(bootstrap, load, float(rest[3]), Path(rest[4])) if rest[3:] else flat_out(bootstrap, load)
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
