"""Telegraf's JSON: one metric with several fields, or {"metrics": […]}."""

from __future__ import annotations

import re
from typing import ClassVar

from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Reject, Sample
from service.ingest.instants import instant
from service.ingest.reading import MEASUREMENT, json_document, label_text, number

_OPENING = re.compile(rb'\s*\{(?:\s*"metrics"\s*:\s*\[)?')


class TelegrafJson:
    """{"fields": {…}, "name": "…", "tags": {…}, "timestamp": …}; the time in whatever unit or layout was configured."""

    name: ClassVar[str] = "telegraf_json"

    def recognises(self, record: Record) -> bool:
        value = record.value
        if value is None:
            return False
        opening = _OPENING.match(value)
        return opening is not None and b'"fields"' in value and b'"timestamp"' in value

    def parse(self, record: Record) -> Parsed:
        document = json_document(record.value or b"")
        metrics = document.get("metrics", [document]) if isinstance(document, dict) else None
        if not isinstance(metrics, list):
            raise PoisonRecord("wrong_type", "expected a metric or an array of metrics")
        parsed = Parsed()
        for item, metric in enumerate(metrics):
            try:
                parsed.samples.append(_sample(metric))
            except PoisonRecord as poison:
                parsed.rejects.append(Reject(item, poison.reason, poison.detail))
        return parsed


def _sample(metric: object) -> Sample:
    if not isinstance(metric, dict):
        raise PoisonRecord("wrong_type", f"expected an object, got {type(metric).__name__}")
    name, fields, tags = metric.get("name"), metric.get("fields"), metric.get("tags") or {}
    if not isinstance(name, str) or not name:
        raise PoisonRecord("missing_field", "name")
    if not isinstance(fields, dict) or not fields:
        raise PoisonRecord("missing_field", "fields")
    if not isinstance(tags, dict):
        raise PoisonRecord("wrong_type", f"tags: expected an object, got {type(tags).__name__}")
    if metric.get("timestamp") is None:
        raise PoisonRecord("missing_field", "timestamp")
    labels = {tag: label_text(tag, text) for tag, text in tags.items()}
    labels[MEASUREMENT] = name
    values = {field: number(value) for field, value in fields.items() if value is not None}
    return Sample(labels, instant(metric["timestamp"]), values)
