"""The wire formats, in the order in which they are asked whether a record is theirs."""

from __future__ import annotations

from service.ingest.contract import Format
from service.ingest.formats.collectd_json import CollectdJson
from service.ingest.formats.influx import Influx
from service.ingest.formats.native import Native
from service.ingest.formats.otlp_json import OtlpJson
from service.ingest.formats.otlp_proto import OtlpProto
from service.ingest.formats.prometheus_adapter import PrometheusAdapter
from service.ingest.formats.prometheus_remote_write import PrometheusRemoteWrite
from service.ingest.formats.telegraf_json import TelegrafJson
from service.ingest.formats.vector import Vector

# What has an unmistakable opening comes first; the two that take much for theirs come last.
FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        OtlpProto(),
        OtlpJson(),
        TelegrafJson(),
        PrometheusAdapter(),
        Vector(),
        CollectdJson(),
        Native(),
        PrometheusRemoteWrite(),
        Influx(),
    )
}
