"""The native format as a JSON Schema, made from the columns and the field table so that it cannot disagree with them."""

from __future__ import annotations

import json
from typing import Any

from detectors.columns import COLUMNS
from detectors.labels import LabelSet
from service.ingest.fields import FieldTable

SHORT_NAMES = ("util", "sm", "gr", "tensor", "dram", "mem", "mem_total", "power", "temp")


def native_schema(fields: FieldTable) -> dict[str, Any]:
    """Return the schema of one message: a sample, or an array of them."""
    lookup = fields.lookup("native")
    known = {column.name for column in COLUMNS}
    missing = [name for name in (*SHORT_NAMES, *known) if lookup[name] is None]
    assert not missing, f"the field table does not know {missing}"
    measurement = {"type": ["number", "null"]}
    sample = {
        "type": "object",
        "required": ["ts"],
        "anyOf": [{"required": ["uuid"]}, {"required": ["gpu"]}],
        "properties": {
            "ts": {"type": ["string", "number"]},
            **{name: {"type": ["string", "number", "null"]} for name in LabelSet._fields},
            **{
                column.name: measurement
                | {"minimum": column.lowest, "maximum": column.highest, "description": column.meaning}
                for column in COLUMNS
            },
            **dict.fromkeys(SHORT_NAMES, measurement),
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Skinflint native GPU sample",
        "oneOf": [{"$ref": "#/$defs/sample"}, {"type": "array", "items": {"$ref": "#/$defs/sample"}}],
        "$defs": {"sample": sample},
    }


def native_schema_text(fields: FieldTable) -> str:
    """Return the schema as it stands in docs/native.schema.json."""
    return json.dumps(native_schema(fields), indent=1) + "\n"
