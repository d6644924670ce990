"""The scanners, by the format that they read: fast readers of what is plain, each proved against its reference parser."""

from __future__ import annotations

from collections.abc import Callable

from service.ingest.fields import FieldTable
from service.ingest.scanners.contract import Bounds, Scanner
from service.ingest.scanners.native import NativeScanner
from service.ingest.scanners.otlp_proto import OtlpProtoScanner
from service.ingest.scanners.prometheus_adapter import PrometheusAdapterScanner

SCANNERS: dict[str, Callable[[FieldTable, Bounds], Scanner]] = {
    NativeScanner.format: NativeScanner,
    OtlpProtoScanner.format: OtlpProtoScanner,
    PrometheusAdapterScanner.format: PrometheusAdapterScanner,
}
