"""The published schema is the one that the code follows."""

from __future__ import annotations

import json
from pathlib import Path

from service.ingest.fields import FieldTable
from service.ingest.native_schema import native_schema_text

DOCS = Path(__file__).parents[3] / "docs"


def test_the_published_schema_is_made_from_the_table():
    assert (DOCS / "native.schema.json").read_text() == native_schema_text(FieldTable.load())


def test_the_document_names_every_short_name():
    page = (DOCS / "native-format.md").read_text()
    short = json.loads((DOCS / "native.schema.json").read_text())["$defs"]["sample"]["properties"]
    assert [name for name in list(short)[-9:] if f"`{name}`" not in page] == []
