"""Run one Kafka broker in the foreground: python -m tests.kafka."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

from tests.kafka.broker import Broker, BrokerError

PORT = 9092


def main() -> int:
    """Start, say what to try, wait for Ctrl-C, stop."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        broker = Broker(Path("build/kafka/play"), PORT)
    except BrokerError as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 1
    try:
        print("Starting Apache Kafka ...", flush=True)
        broker.start()
        print(_words(broker), flush=True)
        return broker.wait()
    except KeyboardInterrupt:
        print("Stopping ...", flush=True)
        return 0
    except BrokerError as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 1
    finally:
        broker.stop()


def _words(broker: Broker) -> str:
    return f"""Apache Kafka answers on {broker.address}; its log is {broker.log}, its data stays for the next time.
Try, in another terminal, with .venv/bin on PATH:
  python -m kafka.admin -b {broker.address} topics create -t gpu-telemetry --num-partitions 4
  SKINFLINT__SOURCE__KIND=kafka skinflint run
  skinflint capture gpu-telemetry --out gpu-telemetry.ndjson.gz
Ctrl-C stops it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
