"""The work that every peer does, and how each reads its topic and reports. The Java and Rust peers do the same in theirs."""

from __future__ import annotations

import json
import time
from typing import Any

from confluent_kafka import Consumer

IDLE_UTIL_MAX, IDLE_AFTER_MS, ALPHA, WINDOW_MS = 5.0, 600_000, 0.05, 300_000

# librdkafka's default fetch sizes read 2.7 times slower.
TUNED = {
    "fetch.max.bytes": 50 << 20,
    "max.partition.fetch.bytes": 8 << 20,
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 1_000_000,
}


def new_state() -> list[Any]:
    """Return mean and variance of util, the same of power, last busy instant, window number, sum and count, alerted."""
    return [0.0, 0.0, 0.0, 0.0, 0, 0, 0.0, 0, False]


def step(s: list[Any], time_ms: int, util: float, power: float) -> bool:
    """Fold one reading into the state; tell whether it raises the idle alert."""
    d = util - s[0]
    s[0] += ALPHA * d
    s[1] = (1 - ALPHA) * (s[1] + ALPHA * d * d)
    d = power - s[2]
    s[2] += ALPHA * d
    s[3] = (1 - ALPHA) * (s[3] + ALPHA * d * d)
    window = time_ms // WINDOW_MS
    if window != s[5]:
        s[5], s[6], s[7] = window, 0.0, 0
    s[6] += util
    s[7] += 1
    if util > IDLE_UTIL_MAX or s[4] == 0:
        s[4], s[8] = time_ms, False
        return False
    if not s[8] and time_ms - s[4] >= IDLE_AFTER_MS:
        s[8] = True
        return True
    return False


class LongFold:
    """Folds metrics that arrive one by one: the newest of each per GPU, and a step when utilisation comes."""

    def __init__(self) -> None:
        self.alerts = 0
        self._newest: dict[str, dict[str, float]] = {}
        self._states: dict[str, list[Any]] = {}

    def add(self, gpu: str, name: str, time_ms: int, value: float) -> None:
        """Take in one data point."""
        newest = self._newest.get(gpu)
        if newest is None:
            newest = self._newest[gpu] = {}
            self._states[gpu] = new_state()
        newest[name] = value
        if name == "DCGM_FI_DEV_GPU_UTIL":
            self.alerts += step(self._states[gpu], time_ms, value, newest.get("DCGM_FI_DEV_POWER_USAGE", 0.0))


def tuned_consumer(bootstrap: str, topic: str) -> Consumer:
    """Return a confluent-kafka consumer that fetches as much at once as it can."""
    settings = {"bootstrap.servers": bootstrap, "group.id": new_group(), "auto.offset.reset": "earliest"}
    consumer = Consumer(settings | {"enable.auto.commit": False} | TUNED)
    consumer.subscribe([topic])
    return consumer


def new_group() -> str:
    """Return a group that has committed nothing."""
    return f"peer-{time.time_ns()}"


def report(messages: int, started_s: float, alerts: int) -> None:
    """Print what the harness reads: the rate since the first messages were in hand, and the alerts."""
    rate = messages / (time.perf_counter() - started_s)
    print(json.dumps({"messages_per_s": rate, "messages": messages, "alerts": alerts}), flush=True)
