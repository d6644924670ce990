"""JSON of prometheus-kafka-adapter: one sample of one series a record, its value as text."""

from __future__ import annotations

import math
import re
from typing import ClassVar

from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Sample
from service.ingest.instants import instant
from service.ingest.reading import NotANumber, json_document, label_text, number, numeral

_OPENING = re.compile(rb"\s*\{")


class PrometheusAdapter:
    """{"timestamp": "2026-11-24T20:05:20Z", "value": "0.012", "name": "…", "labels": {…}}; "NaN" ends the series."""

    name: ClassVar[str] = "prometheus_adapter"

    def recognises(self, record: Record) -> bool:
        value = record.value
        if value is None or _OPENING.match(value) is None:
            return False
        return b'"labels"' in value and b'"value"' in value and b'"timestamp"' in value

    def parse(self, record: Record) -> Parsed:
        event = json_document(record.value or b"")
        if not isinstance(event, dict):
            raise PoisonRecord("wrong_type", f"expected an object, got {type(event).__name__}")
        labels = event.get("labels")
        if not isinstance(labels, dict):
            raise PoisonRecord("missing_field", "labels")
        name = event.get("name") or labels.get("__name__")
        if not isinstance(name, str):
            raise PoisonRecord("missing_field", "name")
        value = event.get("value")
        if value is None:
            raise PoisonRecord("missing_field", "value")
        if event.get("timestamp") is None:
            raise PoisonRecord("missing_field", "timestamp")
        read = numeral(value) if isinstance(value, str) else number(value)
        time_ns = instant(event["timestamp"])
        if math.isnan(read) and not isinstance(read, NotANumber):
            return Parsed(ended=1)
        texts = {key: label_text(key, text) for key, text in labels.items() if key != "__name__"}
        return Parsed([Sample(texts, time_ns, {name: read})])
