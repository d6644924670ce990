"""Every wire format says the same as the measurements it was made from, in the names of both DCGM generations."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from detectors.labels import LabelSet
from service.ingest.contract import Record
from service.ingest.simulate.dcgm import Scrape
from service.ingest.simulate.encode import ENCODERS, VARIANTS, Message
from service.ingest.simulate.produce import PRODUCE_FORMATS
from service.ingest.simulate.shard import SimulatedRow
from service.ingest.simulate.source import SimulateSource
from service.settings import FORMAT_NAMES
from tests.service.ingest.decoding import Bench
from tests.service.ingest.simulate.simulation import simulation

MIB = 1 << 20
# What a unit of the older generation can say at all: percent, MiB, MHz, MB/s; ratios have six decimals.
COARSE = {"fb_used_bytes": MIB, "fb_free_bytes": MIB, "fb_reserved_bytes": MIB, "fb_total_bytes": MIB,
          "sm_clock_hz": 1e6, "memory_clock_hz": 1e6, "nvlink_bytes_per_s": 1e6}  # fmt: skip


def scrapes(source: SimulateSource | None = None) -> list[Scrape]:
    """Return one scrape of each node of a fleet with both generations and MIG boards."""
    source = source or simulation(scenario="clean", duration_s=30)
    step = source.start_ns // (15 * 10**9)
    found = [Scrape(node, time_ns, rows) for shard in source.shards for node, time_ns, rows, _ in shard.node_rows(step)]
    assert {scrape.node.generation for scrape in found} == {1, 2}
    return found


def records(messages: Sequence[Message]) -> list[Record]:
    return [Record(i, m.timestamp_ms, m.key, m.value, m.headers) for i, m in enumerate(messages)]


def encoder_of(name: str):
    return ENCODERS.get(name) or VARIANTS[name]


@pytest.mark.parametrize("name", PRODUCE_FORMATS)
def test_a_format_decodes_to_the_rows_that_it_was_encoded_from(name: str) -> None:
    for scrape in scrapes():
        bench = Bench()
        decoded = bench.decode_records(records(encoder_of(name)(scrape)))
        assert decoded.rejected == []
        assert not decoded.outcomes["unknown_metric"]
        merged = {
            labels.entity_key(): (labels, time_ns, cells) for (labels, time_ns), cells in bench.merged(decoded).items()
        }
        assert set(merged) == {row.labels.entity_key() for row in scrape.rows}
        for row in scrape.rows:
            _same(row, *merged[row.labels.entity_key()], native=name == "native")


def _same(row: SimulatedRow, labels: LabelSet, time_ns: int, cells: dict[str, float], *, native: bool) -> None:
    kept = (
        labels._fields
        if native
        else ("node", "gpu", "uuid", "mig_id", "mig_profile", "model", "namespace", "pod", "container")
    )
    assert {name: getattr(labels, name) for name in kept} == {name: getattr(row.labels, name) for name in kept}
    assert 0 <= row.event_time_ns - time_ns < 10**9
    cells = {("util_ratio" if name == "util_unscaled" else name): cell for name, cell in cells.items()}
    assert set(cells) == set(row.columns)
    for name, cell in cells.items():
        assert cell == pytest.approx(row.columns[name], abs=COARSE.get(name, 1e-3), rel=1e-6)


def test_there_is_an_encoder_for_every_format_that_the_service_reads_but_for_two_that_are_only_read() -> None:
    assert set(ENCODERS) == set(FORMAT_NAMES.__args__) - {"auto", "collectd_json", "prometheus_remote_write"}


@pytest.mark.parametrize("name", ["otlp_proto", "otlp_json"])
def test_a_series_that_ended_is_marked_and_the_live_value_of_the_gpu_wins(name: str) -> None:
    scrape = scrapes()[0]
    gone = scrape.rows[0]._replace(
        labels=scrape.rows[0].labels._replace(pod="llm-before-0", namespace="ml", container="main")
    )
    bench = Bench()
    decoded = bench.decode_records(records(ENCODERS[name](scrape._replace(ended=[gone]))))
    assert decoded.outcomes["series_ended"] == len(gone.columns)
    assert {labels.pod for labels, _, _ in bench.rows(decoded)} == {row.labels.pod for row in scrape.rows}


def test_otlp_has_the_shape_that_the_collector_gives_it() -> None:
    scrape = next(scrape for scrape in scrapes() if scrape.node.generation == 1)
    (message,) = ENCODERS["otlp_proto"](scrape)
    assert message.key is None and list(message.headers) == []
    (resource,) = ExportMetricsServiceRequest.FromString(message.value).resource_metrics
    assert {a.key for a in resource.resource.attributes} == {
        "service.name", "service.instance.id", "server.port", "url.scheme",
    }  # fmt: skip
    metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    assert {"up", "scrape_duration_seconds", "scrape_samples_scraped"} <= set(metrics)
    energy = metrics["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"]
    assert energy.sum.is_monotonic and energy.sum.aggregation_temporality == 2
    (first, *_) = energy.sum.data_points
    assert {"gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname"} <= {a.key for a in first.attributes}
    assert metrics["DCGM_FI_DEV_GPU_UTIL"].WhichOneof("data") == "gauge"


def test_the_adapter_writes_values_as_text_and_whole_seconds() -> None:
    document = json.loads(ENCODERS["prometheus_adapter"](scrapes()[0])[0].value)
    assert isinstance(document["value"], str)
    assert document["timestamp"].endswith("Z") and "." not in document["timestamp"]
    assert document["labels"]["__name__"] == document["name"]


def test_only_the_first_version_of_telegraf_names_its_measurement_after_the_metric() -> None:
    scrape = scrapes()[0]
    first = json.loads(VARIANTS["telegraf_json_v1"](scrape)[0].value)
    second = json.loads(ENCODERS["telegraf_json"](scrape)[0].value)
    assert list(first["fields"]) == ["gauge"] and first["name"].startswith("DCGM_")
    assert second["name"] == "prometheus" and list(second["fields"]) == [first["name"]]
    assert ENCODERS["influx"](scrape)[0].value.endswith(b"\n")
