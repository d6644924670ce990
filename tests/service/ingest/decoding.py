"""Decoding in tests: records from values, rows as dictionaries, captures from disk."""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectors.labels import LabelSet, LabelSets
from service.ingest.contract import Record, RecordBatch
from service.ingest.decode import Decoded, Decoder
from service.ingest.fields import FieldTable
from service.settings import IngestSettings

DATA = Path(__file__).parents[2] / "data"
FIELDS = FieldTable.load()
TOPIC = "gpu-telemetry"


class Bench:
    """A decoder with its label sets."""

    def __init__(self, formats: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.label_sets = LabelSets()
        self.decoder = Decoder(formats or {}, IngestSettings(**settings), FIELDS, self.label_sets)

    def decode(self, *values: bytes | None, timestamp_ms: int = -1) -> Decoded:
        return self.decode_records([Record(i, timestamp_ms, None, v) for i, v in enumerate(values)])

    def decode_records(self, records: Sequence[Record]) -> Decoded:
        return self.decoder.decode(RecordBatch(TOPIC, 3, len(records), records))

    def rows(self, decoded: Decoded) -> list[tuple[LabelSet, int, dict[str, float]]]:
        """Return (labels, time, measured values) of each row."""
        batch = decoded.batch
        columns = {name: array.tolist() for name, array in batch.columns.items()}
        rows = []
        for row, (label_set, time_ns) in enumerate(
            zip(batch.label_set.tolist(), batch.event_time_ns.tolist(), strict=True)
        ):
            cells = {name: cells[row] for name, cells in columns.items()}
            measured = {name: cell for name, cell in cells.items() if not math.isnan(cell)}
            rows.append((self.label_sets[label_set], time_ns, measured))
        return rows

    def merged(self, decoded: Decoded) -> dict[tuple[LabelSet, int], dict[str, float]]:
        """Return the rows with those of one label set and instant put together."""
        merged: dict[tuple[LabelSet, int], dict[str, float]] = {}
        for labels, time_ns, cells in self.rows(decoded):
            row = merged.setdefault((labels, time_ns), {})
            assert all(row.get(name, cell) == cell for name, cell in cells.items())
            row.update(cells)
        return merged


def capture_folders() -> list[Path]:
    """Return the folders with captures: those of the project, and more below $SKINFLINT_CAPTURES."""
    roots = [DATA]
    if more := os.environ.get("SKINFLINT_CAPTURES"):
        roots += [Path(root) for root in more.split(os.pathsep)]
    found = {path.parent for root in roots for path in root.glob("**/*.records.ndjson.gz")}
    return sorted(found)


def read_capture(path: Path) -> list[Record]:
    with gzip.open(path) as lines:
        return [_record(json.loads(line)) for line in lines]


def read_truth(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as lines:
        return [json.loads(line) for line in lines]


def _record(line: dict[str, Any]) -> Record:
    key = line["key_b64"]
    headers = [(name, base64.b64decode(value)) for name, value in line["headers"]]
    return Record(
        line["offset"],
        line["timestamp"],
        None if key is None else base64.b64decode(key),
        base64.b64decode(line["value_b64"]),
        headers,
    )


def golden(format_name: str) -> list[bytes]:
    """Return the golden records of a format: lines of a text file, or one binary record."""
    (path,) = (DATA / "golden").glob(f"{format_name}.*")
    content = path.read_bytes()
    return content.splitlines(keepends=True) if path.suffix == ".ndjson" else [content]
