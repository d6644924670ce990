"""Metric events of Vector: one, an array of them, each perhaps wrapped as {"metric": {…}}."""

from __future__ import annotations

import re
from typing import ClassVar

from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Reject, Sample
from service.ingest.instants import instant
from service.ingest.reading import json_document, number

_OPENING = re.compile(rb"\s*[{\[]")
_KINDS = re.compile(rb'"kind"\s*:\s*"(?:absolute|incremental)"')
_OTHER_SHAPES = frozenset({"set", "distribution", "aggregated_histogram", "aggregated_summary", "sketch"})


class Vector:
    """{"name": "…", "tags": {…}, "timestamp": "…", "kind": "absolute", "gauge": {"value": 0.012}}."""

    name: ClassVar[str] = "vector"

    def recognises(self, record: Record) -> bool:
        value = record.value
        return value is not None and _OPENING.match(value) is not None and _KINDS.search(value) is not None

    def parse(self, record: Record) -> Parsed:
        document = json_document(record.value or b"")
        parsed = Parsed()
        for item, event in enumerate(document if isinstance(document, list) else (document,)):
            try:
                sample = _sample(event)
            except PoisonRecord as poison:
                parsed.rejects.append(Reject(item, poison.reason, poison.detail))
                continue
            if sample is not None:
                parsed.samples.append(sample)
        return parsed


def _sample(event: object) -> Sample | None:
    """Return a gauge or counter as a sample, None for the other shapes of metric."""
    if isinstance(event, dict) and isinstance(event.get("metric"), dict):
        event = event["metric"]
    if not isinstance(event, dict):
        raise PoisonRecord("wrong_type", f"expected an object, got {type(event).__name__}")
    name, space, tags = event.get("name"), event.get("namespace"), event.get("tags") or {}
    if not isinstance(name, str) or not name:
        raise PoisonRecord("missing_field", "name")
    if not isinstance(tags, dict):
        raise PoisonRecord("wrong_type", f"tags: expected an object, got {type(tags).__name__}")
    reading = event.get("gauge") or event.get("counter")
    if not isinstance(reading, dict) or reading.get("value") is None:
        if event.keys() & _OTHER_SHAPES:
            return None
        raise PoisonRecord("missing_field", "value of gauge or counter")
    if event.get("timestamp") is None:
        raise PoisonRecord("missing_field", "timestamp")
    if isinstance(space, str) and space:
        name = f"{space}_{name}"
    if event.get("kind") == "incremental":
        name += " (delta)"  # a difference is not the counter that the name stands for
    return Sample(_labels(tags), instant(event["timestamp"]), {name: number(reading["value"])})


def _labels(tags: dict[str, object]) -> dict[str, str]:
    """Return the tags that have text; of several values of a tag Vector itself shows the last."""
    labels = {}
    for tag, given in tags.items():
        text = given[-1] if isinstance(given, list) and given else given
        if isinstance(text, str):
            labels[tag] = text
    return labels
