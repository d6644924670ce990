"""The scanner of OTLP protobuf: names and labels are known by their bytes, whatever is new is asked of the reference."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kernels.otlp import (
    AS_DOUBLE,
    DATA_POINT,
    GAUGE,
    OWNED,
    OWNER,
    PARTS,
    RESOURCE_METRICS,
    TIME,
    otlp_scan,
)
from service.ingest.contract import Record
from service.ingest.fields import FieldTable
from service.ingest.records import Records
from service.ingest.scanners.contract import Ask, Bounds, Scanned
from service.ingest.scanners.points import PointReader, Points
from service.ingest.scanners.raw_labels import RawLabels

POINT_BYTES_MIN = 20  # tag and length, time, value
POINTS_MAX = 1 << 22  # of one scan
# What a point needs beside its attributes: any time and value will do.
_MEASURED = bytes([TIME]) + (1).to_bytes(8, "little") + bytes([AS_DOUBLE]) + bytes(8)


class OtlpProtoScanner:
    """Reads requests as the OpenTelemetry Collector writes them."""

    format: ClassVar[str] = "otlp_proto"
    learns: ClassVar[bool] = False

    def __init__(self, fields: FieldTable, bounds: Bounds) -> None:
        self._bounds = bounds
        self._reader = PointReader(fields, bounds, request_of)

    def scan(self, records: Records, ask: Ask) -> Scanned:
        room = min(records.value_bytes() // POINT_BYTES_MIN + 1, POINTS_MAX)
        plain = np.zeros(len(records), np.bool_)
        record, head, entry = (np.empty(room, np.int32) for _ in range(3))
        time_ns, raw, kind = np.empty(room, np.int64), np.empty(room), np.empty(room, np.int8)
        count = np.zeros(1, np.int64)
        reading = True
        while reading:
            otlp_scan(
                records.data, records.span, self._bounds.record_bytes_max, self._bounds.record_samples_max,
                *self._reader.tables(),
                plain, record, head, entry, time_ns, raw, kind, count,
            )  # fmt: skip
            reading = self._reader.made_room()
        n = int(count[0])
        points = Points(record[:n], head[:n], entry[:n], time_ns[:n], raw[:n], kind[:n])
        return self._reader.rows(records, plain, points, ask)

    def learn(self, record: Record) -> bool:
        """There is nothing to learn beyond what `scan` asks."""
        return False

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget labels that mean others than these label sets."""
        self._reader.forget_label_sets(used)


def request_of(heads: RawLabels, labels: RawLabels, pairs: Iterable[tuple[int, int]]) -> bytes:
    """Return a request with one point for each pair of head and labels, in their order.

    A node's request holds every metric of every GPU: of these one point for each GPU tells the reference their labels.
    """
    points = [(*labels.parts_of(entry)[0], head) for head, entry in pairs]
    request = bytearray()
    for key, of_resource in groupby(points, key=lambda point: point[0]):
        (_, _), (_, resource) = heads.parts_of(key // PARTS)
        group = bytearray(_field(OWNER, resource))
        for head, of_metric in groupby(of_resource, key=lambda point: point[2]):
            group += _scope_metrics(heads, head, [attributes for _, attributes, _ in of_metric])
        request += _field(RESOURCE_METRICS, group)
    return bytes(request)


def _scope_metrics(heads: RawLabels, head: int, points: Iterable[bytes]) -> bytes:
    (key, before), (_, after) = heads.parts_of(head)
    ((_, scope),) = heads.parts_of(key // PARTS)
    data = b"".join([_field(DATA_POINT, _MEASURED + attributes) for attributes in points])
    return _field(OWNED, _field(OWNER, scope) + _field(OWNED, before + _field(GAUGE, data) + after))


def _field(tag: int, content: bytes | bytearray) -> bytes:
    return bytes([tag]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
