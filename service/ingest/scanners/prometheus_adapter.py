"""The scanner of prometheus-kafka-adapter's JSON: one point a record."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kernels.adapter import adapter_scan
from service.ingest.contract import Record
from service.ingest.fields import FieldTable
from service.ingest.records import Records
from service.ingest.scanners.contract import Ask, Bounds, Scanned
from service.ingest.scanners.points import PointReader, Points


class PrometheusAdapterScanner:
    """Reads records as prometheus-kafka-adapter writes them."""

    format: ClassVar[str] = "prometheus_adapter"
    learns: ClassVar[bool] = False

    def __init__(self, fields: FieldTable, bounds: Bounds) -> None:
        self._bounds = bounds
        self._reader = PointReader(fields, bounds)
        self._hint = np.zeros(1, np.int64)

    def scan(self, records: Records, ask: Ask) -> Scanned:
        n = len(records)
        plain = np.zeros(n, np.bool_)
        head, entry = np.empty(n, np.int32), np.empty(n, np.int32)
        time_ns, raw, kind = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int8)
        reading = True
        while reading:
            adapter_scan(
                records.data, records.span, self._bounds.record_bytes_max,
                *self._reader.tables(), self._hint,
                plain, head, entry, time_ns, raw, kind,
            )  # fmt: skip
            reading = self._reader.made_room()
        read = np.flatnonzero(plain).astype(np.int32)
        points = Points(read, head[read], entry[read], time_ns[read], raw[read], kind[read])
        return self._reader.rows(records, plain, points, ask)

    def learn(self, record: Record) -> bool:
        """There is nothing to learn beyond what `scan` asks."""
        return False

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget labels that mean others than these label sets."""
        self._reader.forget_label_sets(used)
