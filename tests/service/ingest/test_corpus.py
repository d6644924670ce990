"""Bad records written by hand, each with the reason that it must be given."""

from __future__ import annotations

import time

import pytest

from service.ingest.contract import REASONS
from tests.service.ingest.decoding import TOPIC, Bench, golden

NS = "1795550720000000000"
ADAPTER = b'{"timestamp":"2026-11-24T20:05:20Z","value":%s,"name":"DCGM_FI_DEV_GPU_UTIL","labels":{"UUID":"GPU-1"}}'
OTLP = b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"DCGM_FI_DEV_GPU_UTIL","gauge":{"dataPoints":[%s]}}]}]}]}'
GPU = b'"attributes":[{"key":"UUID","value":{"stringValue":"GPU-1"}}]'
TELEGRAF = b'{"fields":{"utilization_gpu":%s},"name":"nvidia_smi","tags":{"uuid":"GPU-1"},"timestamp":%s}'
VECTOR = b'{"name":"DCGM_FI_DEV_GPU_UTIL","kind":"absolute","tags":{"UUID":"GPU-1"},%s}'
COLLECTD = b'[{"values":%s,"dstypes":["gauge"],"dsnames":["value"],"time":1795550720,"host":"n","plugin":"gpu_nvidia","plugin_instance":"0-X","type":"power"}]'

# format, value, reason. "auto" is what a topic without a named format gets.
CORPUS: list[tuple[str, bytes, str]] = [
    ("auto", b"", "not_recognised"),
    ("auto", b"\x00\x00\x00\x00\x2aabc", "not_recognised"),
    ("auto", b"\xff\xfe\x00{", "not_recognised"),
    ("auto", b"hello", "not_recognised"),
    ("auto", b'{"level":"info","msg":"started"}', "not_recognised"),
    ("auto", b'"just text"', "not_recognised"),
    ("auto", b"x" * 9_000_000, "too_large"),
    # native: grammar
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":5', "malformed"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":NaN}', "malformed"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":Infinity}', "malformed"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":-Infinity}', "malformed"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","pod":"\xff\xfe","util":5}', "malformed"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","pod":"\\ud800","util":5}', "malformed"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":05}', "malformed"),
    ("native", b"{'ts':1795550720,'uuid':'GPU-1','util':5}", "malformed"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":5}{"ts":1}', "malformed"),
    ("native", b'\xef\xbb\xbf{"ts":1795550720,"uuid":"GPU-1","util":5}', "malformed"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","x":' + b"[" * 100_000, "too_large"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","x":' + b'{"a":' * 100_000, "too_large"),
    ("native", b"[" * 1_000_000, "too_large"),
    # native: fields
    ("native", b"5", "wrong_type"),
    ("native", b"[5]", "wrong_type"),
    ("native", b"[[]]", "wrong_type"),
    ("native", b"null", "wrong_type"),
    ("native", b'{"uuid":"GPU-1","util":5}', "missing_field"),
    ("native", b'{"ts":null,"uuid":"GPU-1","util":5}', "missing_field"),
    ("native", b'{"ts":1795550720,"util":5}', "missing_field"),
    ("native", b'{"ts":1795550720,"uuid":"","util":5}', "missing_field"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","pod":"p"}', "missing_field"),
    ("native", b'{"ts":true,"uuid":"GPU-1","util":5}', "wrong_type"),
    ("native", b'{"ts":"yesterday","uuid":"GPU-1","util":5}', "wrong_type"),
    ("native", b'{"ts":"2026-11-24T20:05:20","uuid":"GPU-1","util":5}', "wrong_type"),
    ("native", b'{"ts":1795550720,"uuid":7.5,"util":5}', "wrong_type"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","pod":true,"util":5}', "wrong_type"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","pod":["p"],"util":5}', "wrong_type"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":"5"}', "wrong_type"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":true}', "wrong_type"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":[5]}', "wrong_type"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":{}}', "wrong_type"),
    # native: ranges and units
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":101}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util":-1}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","sm":97}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","util_ratio":97}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","power":1e308}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","mem":1e308}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","power":402500}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","temp":-60}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","power":1e999}', "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","power":' + b"9" * 5_000 + b"}", "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","power":' + b"9" * 4_000 + b"}", "out_of_range"),
    ("native", b'{"ts":1795550720,"uuid":"GPU-1","power":-' + b"9" * 400 + b"}", "out_of_range"),
    # native: times
    ("native", b'{"ts":0,"uuid":"GPU-1","util":5}', "time_out_of_range"),
    ("native", b'{"ts":-1795550720,"uuid":"GPU-1","util":5}', "time_out_of_range"),
    ("native", b'{"ts":1300000000,"uuid":"GPU-1","util":5}', "time_out_of_range"),
    ("native", b'{"ts":5000000000,"uuid":"GPU-1","util":5}', "time_out_of_range"),
    ("native", b'{"ts":1e300,"uuid":"GPU-1","util":5}', "time_out_of_range"),
    ("native", b'{"ts":' + b"9" * 4_000 + b',"uuid":"GPU-1","util":5}', "time_out_of_range"),
    ("native", b'{"ts":"2026-02-30T20:05:20Z","uuid":"GPU-1","util":5}', "time_out_of_range"),
    ("native", b'{"ts":"2026-11-24T25:05:20Z","uuid":"GPU-1","util":5}', "time_out_of_range"),
    ("native", b'{"ts":"1999-11-24T20:05:20Z","uuid":"GPU-1","util":5}', "time_out_of_range"),
    # OTLP protobuf
    ("otlp_proto", golden("otlp_proto")[0][:-1], "malformed"),
    ("otlp_proto", b"\xff" * 40, "malformed"),
    ("otlp_proto", b"\x12\x00", "malformed"),
    (
        "otlp_proto",
        golden("otlp_proto")[0].replace(b"gpu-node-1", b"gpu\xff\xfeode-1"),
        "malformed",
    ),
    # OTLP JSON
    ("otlp_json", b"[]", "wrong_type"),
    ("otlp_json", b'{"resourceMetrics":{}}', "wrong_type"),
    ("otlp_json", b'{"resourceMetrics":[7]}', "wrong_type"),
    ("otlp_json", b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{}]}]}]}', "missing_field"),
    ("otlp_json", OTLP % (GPU.join((b"{", b',"asDouble":5}'))), "missing_field"),
    (
        "otlp_json",
        OTLP % (GPU.join((b"{", b',"timeUnixNano":"%s"}' % NS.encode()))),
        "missing_field",
    ),
    ("otlp_json", OTLP % (GPU.join((b"{", b',"asDouble":5,"timeUnixNano":"soon"}'))), "wrong_type"),
    (
        "otlp_json",
        OTLP % (GPU.join((b"{", b',"asDouble":5,"timeUnixNano":[[[[]]]]}'))),
        "wrong_type",
    ),
    (
        "otlp_json",
        OTLP % (GPU.join((b"{", b',"asDouble":5,"timeUnixNano":"1795550720"}'))),
        "time_out_of_range",
    ),
    (
        "otlp_json",
        OTLP % (GPU.join((b"{", b',"asDouble":true,"timeUnixNano":"%s"}' % NS.encode()))),
        "wrong_type",
    ),
    (
        "otlp_json",
        OTLP % (GPU.join((b"{", b',"asDouble":"NaN","timeUnixNano":"%s"}' % NS.encode()))),
        "out_of_range",
    ),
    (
        "otlp_json",
        OTLP % (GPU.join((b"{", b',"asDouble":"-Infinity","timeUnixNano":"%s"}' % NS.encode()))),
        "out_of_range",
    ),
    (
        "otlp_json",
        OTLP % (GPU.join((b"{", b',"asInt":"abc","timeUnixNano":"%s"}' % NS.encode()))),
        "wrong_type",
    ),
    ("otlp_json", OTLP % (b'{"asDouble":5,"timeUnixNano":"%s"}' % NS.encode()), "missing_field"),
    # prometheus-kafka-adapter
    ("prometheus_adapter", b"[]", "wrong_type"),
    ("prometheus_adapter", b"{}", "missing_field"),
    ("prometheus_adapter", ADAPTER % b"null", "missing_field"),
    ("prometheus_adapter", ADAPTER % b'"+Inf"', "out_of_range"),
    ("prometheus_adapter", ADAPTER % b'"-Inf"', "out_of_range"),
    ("prometheus_adapter", ADAPTER % b'"1e999"', "out_of_range"),
    ("prometheus_adapter", ADAPTER % b'"101"', "out_of_range"),
    ("prometheus_adapter", ADAPTER % b'"1_0"', "wrong_type"),
    ("prometheus_adapter", ADAPTER % b'"five"', "wrong_type"),
    ("prometheus_adapter", ADAPTER % b'""', "wrong_type"),
    ("prometheus_adapter", ADAPTER % (b'"' + b"9" * 5000 + b'"'), "wrong_type"),
    ("prometheus_adapter", ADAPTER % '"１"'.encode(), "wrong_type"),
    ("prometheus_adapter", (ADAPTER % b'"5"').replace(b"20:05:20Z", b"20:05"), "wrong_type"),
    ("prometheus_adapter", (ADAPTER % b'"5"').replace(b'"GPU-1"', b"null"), "wrong_type"),
    ("prometheus_adapter", (ADAPTER % b'"5"').replace(b"UUID", b"serial"), "missing_field"),
    # Telegraf JSON
    ("telegraf_json", b"[]", "wrong_type"),
    ("telegraf_json", b'{"metrics":7}', "wrong_type"),
    ("telegraf_json", b'{"metrics":[7]}', "wrong_type"),
    ("telegraf_json", TELEGRAF % (b"5", b"null"), "missing_field"),
    ("telegraf_json", TELEGRAF % (b"5", b"0"), "time_out_of_range"),
    ("telegraf_json", TELEGRAF % (b"500", b"1795550720"), "out_of_range"),
    ("telegraf_json", TELEGRAF % (b'"N/A"', b"1795550720"), "wrong_type"),
    ("telegraf_json", TELEGRAF % (b"true", b"1795550720"), "wrong_type"),
    (
        "telegraf_json",
        b'{"fields":{},"name":"nvidia_smi","tags":{"uuid":"GPU-1"},"timestamp":1795550720}',
        "missing_field",
    ),
    (
        "telegraf_json",
        b'{"fields":{"power_draw":1},"tags":{"uuid":"GPU-1"},"timestamp":1795550720}',
        "missing_field",
    ),
    (
        "telegraf_json",
        b'{"fields":{"power_draw":1},"name":"nvidia_smi","tags":[],"timestamp":1795550720,"x":{"tags":7}}',
        "missing_field",
    ),
    (
        "telegraf_json",
        b'{"fields":{"power_draw":1},"name":"nvidia_smi","tags":"a","timestamp":1795550720}',
        "wrong_type",
    ),
    # influx
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=1", "missing_field"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw= 1795550720000000000", "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=NaN 1795550720000000000", "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=+Inf 1795550720000000000", "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=1f 1795550720000000000", "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=1_0 1795550720000000000", "malformed"),
    ("influx", b"nvidia_smi,uuid= power_draw=1 1795550720000000000", "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-1", "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=1 17955507200000000a0", "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=1, 1795550720000000000", "malformed"),
    ("influx", b'nvidia_smi,uuid=GPU-1 serial="open 1795550720000000000', "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-\xff power_draw=1 1795550720000000000", "malformed"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=true 1795550720000000000", "wrong_type"),
    ("influx", b'nvidia_smi,uuid=GPU-1 power_draw="1" 1795550720000000000', "wrong_type"),
    ("influx", b"nvidia_smi,uuid=GPU-1 utilization_gpu=101i 1795550720000000000", "out_of_range"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=1e999 1795550720000000000", "out_of_range"),
    ("influx", b"nvidia_smi,uuid=GPU-1 power_draw=1 17", "time_out_of_range"),
    # Vector
    ("vector", b"7", "wrong_type"),
    ("vector", VECTOR % b'"timestamp":"2026-11-24T20:05:20Z"', "missing_field"),
    ("vector", VECTOR % b'"gauge":{"value":5}', "missing_field"),
    ("vector", VECTOR % b'"gauge":{"value":"5"},"timestamp":"2026-11-24T20:05:20Z"', "wrong_type"),
    (
        "vector",
        VECTOR % b'"gauge":{"value":500},"timestamp":"2026-11-24T20:05:20Z"',
        "out_of_range",
    ),
    # collectd
    ("collectd_json", b"[7]", "wrong_type"),
    ("collectd_json", COLLECTD % b"[1,2]", "wrong_type"),
    ("collectd_json", COLLECTD % b'["a"]', "wrong_type"),
    ("collectd_json", COLLECTD % b"[1e6]", "out_of_range"),
    ("collectd_json", COLLECTD % b"[null]", "wrong_type"),
    ("collectd_json", (COLLECTD % b"[5]").replace(b'["gauge"]', b"[5]"), "wrong_type"),
    ("collectd_json", (COLLECTD % b"[5]").replace(b'["gauge"]', b"[[]]"), "wrong_type"),
    ("collectd_json", (COLLECTD % b"[5]").replace(b'["gauge"]', b'["x"]'), "wrong_type"),
    ("collectd_json", (COLLECTD % b"[5]").replace(b'["value"]', b"[7]"), "wrong_type"),
    # remote write
    ("prometheus_remote_write", golden("prometheus_remote_write")[0][:-1], "malformed"),
    ("prometheus_remote_write", b"\xff\xff\xff\xff\x0f\xf0", "too_large"),
    ("prometheus_remote_write", b"", "malformed"),
]


@pytest.mark.parametrize(("name", "value", "reason"), CORPUS, ids=[f"{i}-{c[0]}-{c[2]}" for i, c in enumerate(CORPUS)])
def test_a_bad_record_gets_its_reason_and_its_neighbours_survive(name: str, value: bytes, reason: str) -> None:
    bench = Bench({TOPIC: name})
    good = golden("native" if name == "auto" else name)[0]
    alone = bench.decode(good).outcomes
    started_s = time.perf_counter()
    decoded = bench.decode(good, value, good)
    assert time.perf_counter() - started_s < 0.5
    (rejected,) = decoded.rejected
    assert rejected.reason == reason
    assert rejected.record == 1
    assert decoded.outcomes["rejected"] == 1
    assert decoded.outcomes["accepted"] == 2 * alone["accepted"] == 2
    assert set(decoded.batch.offset.tolist()) == {0, 2}


def test_the_corpus_and_the_tests_of_time_and_size_cover_every_reason_of_a_format() -> None:
    elsewhere = {"late", "future", "entities_max", "corrupt_batch"}
    assert {reason for _, _, reason in CORPUS} == set(REASONS) - elsewhere


@pytest.mark.parametrize("size", [600, 1_000_000])
def test_a_name_that_is_too_long_is_rejected_and_costs_no_memory(size):
    bench = Bench()
    name = b"g" * size
    native = b'{"ts":1795550720,"uuid":"%s","util":5}' % name
    adapter = ADAPTER.replace(b'"GPU-1"', b'"GPU-1","pod":"%s"' % name) % b'"5"'
    for _ in range(2):
        decoded = bench.decode(native, adapter, b'{"ts":1795550720,"uuid":"GPU-1","util":5}')
        assert [each.reason for each in decoded.rejected] == ["too_large", "too_large"]
        assert len(decoded.batch) == 1
    assert len(bench.label_sets) == 1


@pytest.mark.parametrize(
    "value",
    [
        ADAPTER.replace(b'"UUID":"GPU-1"', b'"UUID":"GPU-1","fields":"x"') % b'"5"',
        VECTOR.replace(b'"UUID":"GPU-1"', b'"UUID":"GPU-1","fields":"x","timestamp":"y"')
        % b'"timestamp":"2026-11-24T20:05:20Z","gauge":{"value":5}',
        VECTOR.replace(b'"UUID":"GPU-1"', b'"UUID":"GPU-1","labels":"x","value":"y"')
        % b'"timestamp":"2026-11-24T20:05:20Z","gauge":{"value":5}',
    ],
)
def test_a_record_that_several_formats_claim_goes_to_the_one_that_reads_it(value):
    bench = Bench()
    decoded = bench.decode(value)
    assert decoded.rejected == []
    assert [cells for _, _, cells in bench.rows(decoded)] == [{"util_ratio": 0.05}]
