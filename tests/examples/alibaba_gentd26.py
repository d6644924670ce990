"""Real input, end to end: Alibaba's GenTD26 trace through a real Kafka into the service, and out as states and dollars.

usage: python -m tests.examples.alibaba_gentd26 FOLDER [--price USD_PER_GPU_HOUR]

FOLDER holds pod_gpu_duty_cycle_anon.csv.gz and pod_gpu_memory_used_bytes_anon.csv.gz of github.com/alibaba/clusterdata,
cluster-trace-v2026-GenAI (for research and study; it is not part of this project). Each container is one GPU of 48 GiB;
the trace has no prices, so the price of a GPU-hour is an assumption that the command prints.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from rich.table import Table

from service import reports
from tests.kafka.broker import Broker

TOPIC, PARTITIONS = "gentd26", 4
FB_TOTAL_BYTES = 48 * 2**30
TIMEOUT_S = 180


def read(path: Path) -> dict[tuple[int, str], float]:
    """Return value by (time in seconds, container)."""
    with gzip.open(path, "rt") as file:
        return {(int(float(r["timestamp_anon"])), r["container_ip"]): float(r["value"]) for r in csv.DictReader(file)}


def events(folder: Path) -> list[dict[str, Any]]:
    """Return one native sample per container and tick, in order of time."""
    duty = read(folder / "pod_gpu_duty_cycle_anon.csv.gz")
    memory = read(folder / "pod_gpu_memory_used_bytes_anon.csv.gz")
    rows = []
    for ts, container in sorted(duty.keys() | memory.keys()):
        row: dict[str, Any] = {"ts": ts, "uuid": container, "namespace": "diffusion-serving", "pod": container}
        if (ts, container) in duty:
            row["util"] = duty[ts, container]
        if (ts, container) in memory:
            row |= {"fb_used_bytes": memory[ts, container], "fb_total_bytes": FB_TOTAL_BYTES}
        rows.append(row)
    return rows


def produce(rows: list[dict[str, Any]], address: str) -> None:
    """Write the samples to the topic, keyed by container."""
    admin = KafkaAdminClient(bootstrap_servers=address)
    # The trace is older than the broker keeps records by default.
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1, topic_configs={"retention.ms": "-1"})])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=address, linger_ms=50, compression_type="lz4")
    for row in rows:
        producer.send(TOPIC, json.dumps(row).encode(), key=row["uuid"].encode(), timestamp_ms=row["ts"] * 1000)
    producer.flush(timeout=60)
    producer.close()


def fetch(address: str, path: str) -> Any:
    """Return the API's answer."""
    with urllib.request.urlopen(f"{address}{path}", timeout=10) as answer:
        return json.load(answer)


def serve(folder: Path, broker: Broker, price: float) -> tuple[subprocess.Popen[str], str]:
    """Start the service on the topic; return it and its address."""
    settings = {
        "source": {"kind": "kafka", "kafka": {"bootstrap_servers": [broker.address], "topics": [TOPIC]}},
        "ingest": {"idle_partition_s": 3},
        "prices": {"rules": [{"usd_per_gpu_hour": price}]},
        "state": {"directory": str(folder / "state")},
        "http": {"port": 0},
        "log": {"format": "json"},
        "alerting": {"receivers": [{"type": "stdout", "name": "console"}]},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "service", "run", "--config", str(file)]
    messages = (folder / "messages.txt").open("w")
    log = folder / "log.ndjson"
    service = subprocess.Popen(command, stdout=messages, stderr=log.open("w"), text=True)
    while service.poll() is None:
        for line in log.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "started":
                return service, event["address"]
        time.sleep(0.1)
    raise RuntimeError(f"the service did not start: {log.read_text()[-2000:]}")


def wait_until_read(address: str, records: int) -> None:
    """Return once every record was read and the last complete tick is shown."""
    deadline = time.monotonic() + TIMEOUT_S
    shown = ""
    while time.monotonic() < deadline:
        summary = fetch(address, "/api/v1/summary")
        read_so_far = sum(summary["service"]["records"].values())
        if read_so_far >= records and summary["as_of"] == shown:
            return
        shown = summary["as_of"]
        time.sleep(5)  # longer than idle_partition_s: two equal answers mean that nothing more will close
    raise RuntimeError(f"not read within {TIMEOUT_S} s")


def report(rows: list[dict[str, Any]], address: str, folder: Path, price: float) -> None:
    """Print what came out beside what went in."""
    console = reports.console()
    duty = [row["util"] for row in rows if "util" in row]
    idle_bytes = [row["fb_used_bytes"] for row in rows if row.get("util") == 0 and "fb_used_bytes" in row]
    by_pod = defaultdict(list)
    for row in rows:
        if "util" in row:
            by_pod[row["uuid"]].append(row["util"])
    summary = fetch(address, "/api/v1/summary")
    console.print(f"samples {len(rows)}, pods {len(by_pod)}; price assumed: ${price:g} per GPU-hour")
    console.print(f"share of samples at zero duty: {sum(d == 0 for d in duty) / len(duty):.1%}")
    console.print(f"memory held while idle: {sum(idle_bytes) / len(idle_bytes) / 1e9:.1f} GB on average")
    states = Table("state", "GPUs now", "waste so far, $", "GPU-hours")
    for state in summary["states"]:
        states.add_row(
            state["state"], str(state["gpus"]), f"{state['waste_usd_total']:.2f}", f"{state['gpu_hours_total']:.1f}"
        )
    console.print(states)
    worst = Table("pod", "state", "waste so far, $", "samples at zero", title="the ten worst pods")
    gpus = fetch(address, "/api/v1/gpus?limit=1000")["gpus"]
    for gpu in sorted(gpus, key=lambda g: -g["waste_usd_total"])[:10]:
        values = by_pod[gpu["key"]]
        zero = sum(v == 0 for v in values) / len(values) if values else 0.0
        worst.add_row(gpu["key"], gpu["state"], f"{gpu['waste_usd_total']:.2f}", f"{zero:.0%}")
    console.print(worst)
    headlines = [line for line in (folder / "messages.txt").read_text().splitlines() if "wasted" in line]
    console.print(f"alert messages: {len(headlines)}; the first: {headlines[0] if headlines else '-'}")


def main() -> None:
    """Run it all and clean up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--price", type=float, default=1.861, help="USD per GPU-hour (default: an L40S, 48 GB, on demand)"
    )
    arguments = parser.parse_args()
    rows = events(arguments.folder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(folder / "kafka").start()
        try:
            produce(rows, broker.address)
            service, address = serve(folder, broker, arguments.price)
            try:
                wait_until_read(address, len(rows))
                report(rows, address, folder, arguments.price)
            finally:
                service.terminate()
                service.wait(20)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
