"""The scanner of OTLP protobuf: names and labels are known by their bytes, whatever is new is asked of the reference."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kernels.otlp import otlp_scan
from service.ingest.contract import Record
from service.ingest.fields import FieldTable
from service.ingest.records import Records
from service.ingest.scanners.contract import Ask, Bounds, Scanned
from service.ingest.scanners.points import PointReader, Points

POINT_BYTES_MIN = 20  # tag and length, time, value
POINTS_MAX = 1 << 22  # of one scan


class OtlpProtoScanner:
    """Reads requests as the OpenTelemetry Collector writes them."""

    format: ClassVar[str] = "otlp_proto"
    learns: ClassVar[bool] = False

    def __init__(self, fields: FieldTable, bounds: Bounds) -> None:
        self._bounds = bounds
        self._reader = PointReader(fields, bounds)

    def scan(self, records: Records, ask: Ask) -> Scanned:
        room = min(records.value_bytes() // POINT_BYTES_MIN + 1, POINTS_MAX)
        plain = np.zeros(len(records), np.bool_)
        record, head, entry = (np.empty(room, np.int32) for _ in range(3))
        time_ns, raw, kind = np.empty(room, np.int64), np.empty(room), np.empty(room, np.int8)
        count = np.zeros(1, np.int64)
        labels = self._reader.labels
        otlp_scan(
            records.data, records.span, self._bounds.record_bytes_max, self._bounds.record_samples_max,
            *self._reader.heads.arrays(), *labels.arrays(), labels.parts,
            plain, record, head, entry, time_ns, raw, kind, count,
        )  # fmt: skip
        n = int(count[0])
        points = Points(record[:n], head[:n], entry[:n], time_ns[:n], raw[:n], kind[:n])
        return self._reader.rows(records, plain, points, ask)

    def learn(self, record: Record) -> bool:
        """There is nothing to learn beyond what `scan` asks."""
        return False

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget labels that mean others than these label sets."""
        self._reader.labels.forget(used)
