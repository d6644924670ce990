"""W1 with quixstreams: a stateful apply over its RocksDB store, with the changelog topic that it has by default."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from typing import Any

from quixstreams import Application, State

from tests.bench.peers.common import TUNED, new_group, new_state, report, step


def main() -> None:
    bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    application = Application(
        broker_address=bootstrap,
        consumer_group=new_group(),
        auto_offset_reset="earliest",
        state_dir=tempfile.mkdtemp(),
        loglevel="WARNING",
        consumer_extra_config=TUNED,
    )
    seen = alerts = 0
    started_s = 0.0

    def fold(event: dict[str, Any], state: State) -> dict[str, Any]:
        nonlocal seen, alerts, started_s
        if not started_s:
            started_s = time.perf_counter()
        held = state.get("s") or new_state()
        alerts += step(held, event["ts"], event["util"], event["power"])
        state.set("s", held)
        seen += 1
        if seen >= count:
            report(seen, started_s, alerts)
            os._exit(0)
        return event

    application.dataframe(application.topic(topic, value_deserializer="json")).apply(fold, stateful=True)
    application.run()


if __name__ == "__main__":
    main()
