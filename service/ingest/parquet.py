"""Rows of a Parquet file as records in the native JSON format: column names are its keys, `ts` the time."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from service.ingest.contract import Corrupt, Record
from service.ingest.file_lines import Chunk

ROWS_AT_ONCE: Final = 4096


class ParquetReader:
    """Row r has position r. A Parquet file is complete or unreadable: its index is written last."""

    def __init__(self, path: Path, base: int = 0, first: int = 0) -> None:
        self.position = first
        self.at_end = False
        self._path = path
        self._base = base
        self._first = first
        self._file: pq.ParquetFile | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._dead = False
        self._trouble = ""

    def read(self, records_max: int, bytes_max: int) -> Chunk:
        chunk = Chunk()
        size = 0
        self.at_end = not self._open()
        while not self.at_end and len(chunk.records) < records_max and size < bytes_max:
            try:
                row = next(self._rows, None)
            except (pa.ArrowException, OSError) as error:
                self._give_up(f"Parquet data damaged: {error}", chunk)
                row = None
            if row is None:
                self.at_end = self._dead = True
                break
            value = msgspec.json.encode(row, enc_hook=_plain)
            chunk.records.append(Record(self._base + self.position, -1, None, value))
            self.position += 1
            size += len(value)
        return chunk

    def finish(self) -> Chunk:
        chunk = Chunk()
        if self._file is None and not self._dead:
            self._give_up(f"not a readable Parquet file: {self._trouble}", chunk)
        return chunk

    def too_short(self) -> bool:
        return self._file is not None and self._file.metadata.num_rows < self._first

    def change(self) -> str:
        return ""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> bool:
        if self._dead:
            return False
        if self._file is None:
            try:
                self._file = pq.ParquetFile(self._path)
            except (pa.ArrowException, OSError) as error:
                self._trouble = " ".join(str(error).split())
                return False
            self._rows = _rows(self._file, self.position)
        return True

    def _give_up(self, detail: str, chunk: Chunk) -> None:
        self._dead = True
        offset = self._base + self.position
        chunk.corrupt.append(Corrupt(offset, offset + 1, detail))
        self.position += 1


def is_parquet(path: Path) -> bool:
    """Tell by the name, or by the first bytes, whether the file is Parquet."""
    if path.suffix == ".parquet":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _rows(file: pq.ParquetFile, first: int) -> Iterator[dict[str, Any]]:
    """Yield rows from `first` on; row groups before it are not even read."""
    groups: list[int] = []
    skip = first
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if groups or skip < count:
            groups.append(group)
        else:
            skip -= count
    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups):
        table = _nanoseconds(batch)
        for row in table.slice(min(skip, len(table))).to_pylist():
            yield {name: value for name, value in row.items() if value is not None}
        skip = max(0, skip - len(table))


def _nanoseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with timestamps as nanoseconds since 1970, which is how the native format counts."""
    columns = []
    for column in batch.columns:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _plain(value: Any) -> Any:
    """Return what msgspec cannot write as something it can."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, datetime.date) else str(value)
