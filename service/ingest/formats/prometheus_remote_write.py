"""Prometheus remote write 1.0 as bridges put it on Kafka: a snappy block of a WriteRequest, no framing around it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import ClassVar

import cramjam

from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Reject, Sample

_UNPACKED_BYTES_MAX = 64 << 20
_STALE = 0x7FF0_0000_0000_0002  # the NaN by which Prometheus ends a series
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class PrometheusRemoteWrite:
    """WriteRequest{timeseries{labels{name, value}, samples{value, timestamp in ms}}}; metadata is passed over."""

    name: ClassVar[str] = "prometheus_remote_write"

    def recognises(self, record: Record) -> bool:
        return record.value is not None and _opens_with_series(record.value)

    def parse(self, record: Record) -> Parsed:
        parsed = Parsed()
        try:
            request = _unpacked(record.value or b"")
            for number, series in _fields(request):
                if number == 1 and isinstance(series, bytes):
                    _read_series(series, parsed)
        except UnicodeDecodeError as error:
            raise PoisonRecord("malformed", str(error)) from None
        return parsed


def _unpacked(value: bytes) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(value)
        if size > _UNPACKED_BYTES_MAX:
            raise PoisonRecord("too_large", f"{size} bytes unpacked")
        return bytes(cramjam.snappy.decompress_raw(value))
    except cramjam.DecompressionError as error:
        raise PoisonRecord("malformed", f"snappy: {error}") from None


def _read_series(series: bytes, parsed: Parsed) -> None:
    labels: dict[str, str] = {}
    points: list[bytes] = []
    for number, given in _fields(series):
        if number == 1 and isinstance(given, bytes):
            label = dict(_fields(given))
            labels[_text(label.get(1, b""))] = _text(label.get(2, b""))
        elif number == 2 and isinstance(given, bytes):
            points.append(given)
    name = labels.pop("__name__", "")
    for point in points:
        found = dict(_fields(point))
        bits, time_ms = found.get(1, 0), found.get(2, 0)
        if not isinstance(bits, int) or not isinstance(time_ms, int):
            raise PoisonRecord("malformed", f"{name}: a sample's value or time has another type")
        if bits == _STALE:
            parsed.ended += 1
        elif not name or not time_ms:
            item = len(parsed.samples) + len(parsed.rejects)
            parsed.rejects.append(Reject(item, "missing_field", f"{name}: name or time"))
        else:
            (value,) = struct.unpack("<d", struct.pack("<Q", bits))
            parsed.samples.append(Sample(labels, time_ms * 1_000_000, {name: value}))


def _text(value: int | bytes) -> str:
    if isinstance(value, int):
        raise PoisonRecord("malformed", "a label is no text")
    return value.decode("utf-8")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message: number, and an integer (the bits, for fixed ones) or bytes."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise PoisonRecord("malformed", f"protobuf: wire type {wire}")
        value = message[at : at + size]
        if len(value) != size:
            raise PoisonRecord("malformed", "protobuf: cut short")
        at += size
        yield number, value if wire == _BYTES else int.from_bytes(value, "little")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise PoisonRecord("malformed", "protobuf: a broken integer")


def _opens_with_series(value: bytes) -> bool:
    """A length that fits, then a literal that begins a time series (0x0a, its length) with a label (0x0a)."""
    try:
        size, at = _varint(value, 0)
        if not (0 < size <= _UNPACKED_BYTES_MAX and len(value) <= 32 + size + size // 6):
            return False
        tag = value[at]
        at += 1 + max(0, (tag >> 2) - 59)
        if tag & 3 or value[at] != 0x0A:
            return False
        _, at = _varint(value, at + 1)
        return value[at] == 0x0A
    except (PoisonRecord, IndexError):
        return False
