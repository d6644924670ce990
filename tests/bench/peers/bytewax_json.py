"""W1 with bytewax: KafkaSource and a stateful map."""

from __future__ import annotations

import sys
import time
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from tests.bench.peers.common import TUNED, new_state, report, step


class Nowhere(DynamicSink, StatelessSinkPartition):
    """A flow must end somewhere."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Nowhere:
        return self

    def write_batch(self, items: list[Any]) -> None:
        pass


class Fold:
    """Counts what its two operators see."""

    def __init__(self) -> None:
        self.started_s = 0.0
        self.seen = self.alerts = 0

    def parse(self, message: KafkaSourceMessage) -> tuple[str, dict[str, Any]]:
        if not self.started_s:
            self.started_s = time.perf_counter()
        event = orjson.loads(message.value)
        return event["gpu"], event

    def add(self, state: list[Any] | None, event: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        state = new_state() if state is None else state
        self.alerts += step(state, event["ts"], event["util"], event["power"])
        self.seen += 1
        return state, event


def main() -> None:
    bootstrap, topic = sys.argv[1], sys.argv[2]
    settings = {name: str(value) for name, value in TUNED.items()}
    fold = Fold()
    flow = Dataflow("peer")
    source = KafkaSource([bootstrap], [topic], tail=False, batch_size=5000, add_config=settings)
    keyed = op.map("parse", op.input("in", flow, source), fold.parse)
    op.output("out", op.stateful_map("fold", keyed, fold.add), Nowhere())
    run_main(flow)
    report(fold.seen, fold.started_s, fold.alerts)


if __name__ == "__main__":
    main()
