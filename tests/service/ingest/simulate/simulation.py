"""Simulations in tests: small fleets at a fixed time, and what became of them as dictionaries."""

from __future__ import annotations

import json
from typing import Any

from service.ingest.contract import Record
from service.ingest.simulate.source import SimulateSource
from service.settings import SimulateSettings
from tests.fakes.clock import NOON_NS, ManualClock

MINUTE_NS = 60 * 10**9
HOUR_S = 3600


def simulation(
    nodes: int = 8, scenario: str = "fleet", duration_s: float = 600, start_ns: int = NOON_NS, **settings: Any
) -> SimulateSource:
    chosen = SimulateSettings(nodes=nodes, speed=0, duration_s=duration_s, **settings)
    source = SimulateSource(chosen, ManualClock(), scenario, start_ns)
    for partition in source.assigned():
        source.seek(partition, None)
    return source


def read_all(source: SimulateSource) -> dict[int, list[Record]]:
    """Return the records of every partition, to the end."""
    found: dict[int, list[Record]] = {partition.partition: [] for partition in source.assigned()}
    while not all(source.ended(partition) for partition in source.assigned()):
        for batch in source.poll(0, frozenset()):
            found[batch.partition].extend(batch.records)
    return found


def documents(source: SimulateSource) -> list[dict[str, Any]]:
    """Return all records decoded, partition by partition in order of offsets."""
    return [json.loads(record.value or b"") for records in read_all(source).values() for record in records]


def key_of(document: dict[str, Any]) -> str:
    return f"{document['uuid']}#{document['mig_id']}" if "mig_id" in document else document["uuid"]
