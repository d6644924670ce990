"""Two hundred kills: state, alerts and dead letters equal those of an undisturbed run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from service.clock import SystemClock
from service.ingest.simulate.source import SimulateSource
from service.pipeline.saved_state import state_hash
from service.settings import SimulateSettings
from tests.faults.lives import latest

PARTITIONS = 4
KILLS = int(os.environ.get("SKINFLINT_TEST_KILLS", "200"))
START_NS = 1_790_000_000 * 10**9
POISON = (b"{", b"\xff\xfe", b'{"ts": 1, "uuid": "GPU-x"}', b'{"uuid": "GPU-x", "util": 5}', b"no format at all")


def load(address: str, topic: str) -> list[int]:
    """Produce an hour of a simulated fleet without keys, poison between; return the end offsets."""
    admin = KafkaAdminClient(bootstrap_servers=address)
    # The samples are older than the broker keeps records by default.
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs={"retention.ms": "-1"})])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=address, compression_type="lz4", linger_ms=20, acks="all")
    settings = SimulateSettings(nodes=8, seed=3, duration_s=3600, speed=0)
    source = SimulateSource(settings, SystemClock(), start_ns=START_NS)
    for partition in source.assigned():
        source.seek(partition, None)
    sent = [0] * PARTITIONS
    n = 0
    while batches := source.poll(0, frozenset()):
        records = sorted((r for batch in batches for r in batch.records), key=lambda r: (r.timestamp_ms, r.value))
        for record in records:
            values = [record.value, POISON[n // 97 % len(POISON)]] if n % 97 == 0 else [record.value]
            for value in values:
                producer.send(topic, value, partition=n % PARTITIONS, timestamp_ms=record.timestamp_ms)
                sent[n % PARTITIONS] += 1
            n += 1
    producer.flush(timeout=30)
    producer.close()
    return sent


def run(folder: Path, address: str, topic: str, kills: int, ends: list[int]) -> tuple[str, set, list[str], str]:
    """Run the service with so many kills; return state hash, notifications, dead letters, and what the runner said."""
    folder.mkdir()
    settings = {
        "source": {
            "kind": "kafka",
            "kafka": {
                "bootstrap_servers": [address],
                "topics": [topic],
                "group_id": f"{topic}-{kills}",
                "group_instance_id": "one",
                "poll_records_max": 100,
            },
        },
        "ingest": {"idle_partition_s": 2, "jump_rows": 64},
        "state": {"directory": str(folder / "state"), "checkpoint_interval_s": 0.05},
        "http": {"port": 0},
        "log": {"level": "error"},
        "detectors": {"idle_waste": {"for_s": {"idle_held": 600, "truly_idle": 600, "unallocated": 900}}},
        "alerting": {"group_wait_s": 30, "receivers": [{"type": "stdout", "name": "console"}]},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "tests.faults.lives", str(file), str(kills), "11", "1.0", ",".join(map(str, ends))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    arrays, extras = latest(folder / "state")
    connection = sqlite3.connect(folder / "state" / "skinflint.db")
    sent = set(connection.execute("SELECT notification_id, body FROM notifications"))
    connection.close()
    letters = sorted((folder / "state" / "dead_letters.ndjson").read_text().splitlines())
    assert extras["intake"]["letters_by_reason"]
    return state_hash(arrays), sent, letters, done.stdout.splitlines()[-1]


@pytest.mark.kafka
@pytest.mark.timeout(1200)
def test_two_hundred_kills_leave_state_alerts_and_dead_letters_as_they_would_have_been(broker, tmp_path):
    ends = load(broker.address, "kill-test")
    undisturbed = run(tmp_path / "calm", broker.address, "kill-test", 0, ends)
    killed = run(tmp_path / "killed", broker.address, "kill-test", KILLS, ends)
    assert killed[3] == f"killed {KILLS}"
    assert len(undisturbed[1]) > 5
    assert len(undisturbed[2]) > 100
    assert killed[2] == undisturbed[2]
    assert killed[1] == undisturbed[1]
    assert killed[0] == undisturbed[0]
