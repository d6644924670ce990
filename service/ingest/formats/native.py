"""Skinflint's own JSON: one object per GPU and instant, or an array of them. See docs/native-format.md."""

from __future__ import annotations

import re
from typing import ClassVar

from detectors.labels import LabelSet
from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Reject, Sample
from service.ingest.instants import instant
from service.ingest.reading import MEASUREMENT, json_document, label_text, number

LABELS = frozenset(LabelSet._fields)
_LOOKS_NATIVE = re.compile(rb'\s*[{\[](?:.{0,4096}?)"(?:ts|uuid|gpu)"\s*:', re.DOTALL)


class Native:
    """{"ts": …, "uuid": …, "util": 97, "power": 402.5}; null means not measured."""

    name: ClassVar[str] = "native"

    def recognises(self, record: Record) -> bool:
        return record.value is not None and _LOOKS_NATIVE.match(record.value) is not None

    def parse(self, record: Record) -> Parsed:
        document = json_document(record.value or b"")
        parsed = Parsed()
        for item, row in enumerate(document if isinstance(document, list) else (document,)):
            try:
                parsed.samples.append(_sample(row))
            except PoisonRecord as poison:
                parsed.rejects.append(Reject(item, poison.reason, poison.detail))
        return parsed


def _sample(row: object) -> Sample:
    if not isinstance(row, dict):
        raise PoisonRecord("wrong_type", f"expected an object, got {type(row).__name__}")
    if row.get("ts") is None:
        raise PoisonRecord("missing_field", "ts")
    if not row.get("uuid") and row.get("gpu") in (None, ""):
        raise PoisonRecord("missing_field", "uuid or gpu")
    labels = {MEASUREMENT: "native"}
    values: dict[str, float] = {}
    anything = False
    for key, value in row.items():
        if key in LABELS:
            if value is not None:
                labels[key] = label_text(key, value)
        elif key != "ts":
            anything = True
            if value is not None:
                values[key] = number(value)
    if not anything:
        raise PoisonRecord("missing_field", "no measurement")
    return Sample(labels, instant(row["ts"]), values)
