"""A scanner gives what the reference parser gives, bit for bit: rows, letters and counts, whatever the bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, MetricsData

from detectors.labels import LabelSets
from service.ingest.contract import Record, RecordBatch
from service.ingest.decode import Decoded, Decoder
from service.ingest.records import Records
from service.ingest.scanners import SCANNERS, raw_labels
from service.ingest.scanners import points as point_reading
from service.ingest.scanners.otlp_proto import OtlpProtoScanner
from service.settings import IngestSettings
from tests.service.ingest.decoding import FIELDS, TOPIC, capture_folders, golden, read_capture
from tests.service.ingest.test_corpus import CORPUS

MESSAGES = {name: golden(name) for name in SCANNERS}


class Twins:
    """Two decoders, one of which scans, fed with the same records."""

    def __init__(self, **changes: Any) -> None:
        self.label_sets = LabelSets(), LabelSets()
        self.decoders = [
            Decoder({}, IngestSettings(**changes), FIELDS, label_sets, scanning)
            for label_sets, scanning in zip(self.label_sets, (False, True), strict=True)
        ]
        self.plain = 0

    def same(self, records: Sequence[Record]) -> Decoded:
        """Decode with both, compare everything, return what came out."""
        batch = RecordBatch(TOPIC, 0, 1 + max((r.offset for r in records), default=0), records)
        reference, scanned = (decoder.decode(batch) for decoder in self.decoders)
        assert scanned.outcomes == reference.outcomes
        assert scanned.rejected == reference.rejected
        ours, theirs = scanned.batch, reference.batch
        assert ours.offset.tolist() == theirs.offset.tolist()
        assert ours.event_time_ns.tolist() == theirs.event_time_ns.tolist()
        mine, other = (
            [sets[i] for i in made.label_set.tolist()]
            for sets, made in zip(self.label_sets, (theirs, ours), strict=True)
        )
        assert mine == other
        assert list(ours.columns) == list(theirs.columns)
        for name, column in theirs.columns.items():
            assert ours.columns[name].tobytes() == column.tobytes(), name
        return scanned

    def plain_share(self, records: Sequence[Record], format_name: str) -> float:
        """Return which share of the records the scanner reads without the reference, once it knows them."""
        decoder = self.decoders[1]
        asked: list[Record] = []
        scanner = decoder._scanning._scanners[TOPIC]
        assert scanner.format == format_name
        original = scanner.scan
        shares = []

        def watch(given: Any, ask: Any) -> Any:
            found = original(given, Watched(ask, asked))
            shares.append(np.mean(found.plain))
            return found

        scanner.scan = watch
        decoder.decode(RecordBatch(TOPIC, 0, 1 + max(r.offset for r in records), records))
        scanner.scan = original
        assert asked == []
        return float(shares[-1])


class Watched:
    """Notes what the reference is asked about."""

    def __init__(self, ask: Any, asked: list[Record]) -> None:
        self._ask = ask
        self._asked = asked
        self.label_set, self.label_sets = ask.label_set, ask.label_sets

    def samples(self, record: Record) -> Any:
        self._asked.append(record)
        return self._ask.samples(record)


def records_of(values: Sequence[bytes | None], timestamp_ms: int = -1) -> list[Record]:
    return [Record(i, timestamp_ms, None, value) for i, value in enumerate(values)]


@pytest.mark.parametrize("format_name", SCANNERS)
def test_golden_records_are_plain_and_read_as_by_the_reference(format_name):
    twins = Twins()
    records = records_of(MESSAGES[format_name] * 3)
    for _ in range(2):
        assert len(twins.same(records).batch) > 0
    assert twins.plain_share(records, format_name) == 1.0


CAPTURES = [path for folder in capture_folders() for path in sorted(folder.glob("*.records.ndjson.gz"))]


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: f"{path.parent.name}/{path.name.split('.')[0]}")
def test_captures_of_real_agents_are_read_as_by_the_reference(path):
    twins = Twins()
    records = read_capture(path)
    for _ in range(2):
        twins.same(records)
    name = getattr(twins.decoders[1]._scanning._scanners.get(TOPIC), "format", None)
    if name is not None:
        assert twins.plain_share(records, name) > 0.99


def test_bad_records_between_good_ones_spoil_no_neighbour():
    for format_name, messages in MESSAGES.items():
        bad = [value for _, value, _ in CORPUS if len(value) < 100_000]
        twins = Twins()
        mixed = [value for pair in zip(messages * len(bad), [*bad, None], strict=False) for value in pair]
        for _ in range(2):
            assert len(twins.same(records_of(mixed)).batch) > 0, format_name


def test_limits_hold_for_scanned_records_too():
    for messages in MESSAGES.values():
        for changes in ({"record_bytes_max": 1024}, {"record_samples_max": 1}, {"future_max_s": 1.0}):
            twins = Twins(**changes)
            for _ in range(2):
                twins.same(records_of(messages, timestamp_ms=1_795_550_719_000))


def test_headers_that_name_labels_count():
    for messages in MESSAGES.values():
        twins = Twins(labels={"region": "eu-1"})
        for _ in range(2):
            records = [
                Record(i, -1, None, value, headers)
                for i, value in enumerate(messages)
                for headers in ((), [("cluster", b"a")], [("cluster", b"b"), ("x", b"")])
            ]
            twins.same(records)
        assert {"a", "b"} <= {labels.cluster for labels in twins.label_sets[1]._sets}


NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-10, 110, places=3, allow_nan=False).map(str),
    st.sampled_from(
        ["0", "-0", "0.0", "-0.0", "00", "01", "1.", ".5", "-", "1e3", "1E+2", "5e-1", "100", "1.0", "0.5"]
    ),
    st.from_regex(r"-?[0-9]{1,19}(\.[0-9]{1,18})?", fullmatch=True),
)
TIMES = st.one_of(
    st.sampled_from(
        [
            "1795550720",
            "1795550720.25",
            "1795550720000",
            "1795550720123.5",
            "1795550720000000",
            "1795550720000000000",
            "17955507200000000000",
            "99999999999999999",
            "100000000000",
            '"2026-11-24T20:05:20Z"',
            '"2026-11-24T20:05:20.123456789Z"',
            '"2026-11-24T20:05:20.5+01:00"',
            '"2026-11-24t20:05:20z"',
            '"2028-02-29T23:59:60Z"',
            '"2027-02-29T00:00:00Z"',
            '"2026-13-01T00:00:00Z"',
            '"2026-12-31T23:59:59.999999999Z"',
        ]
    ),
    st.datetimes().map(lambda when: f'"{when.isoformat()}Z"'),
    st.floats(1.7e9, 1.9e9).map(repr),
    NUMBERS,
)
TEXTS = st.one_of(
    st.sampled_from(["GPU-1", "", "n1", "labels", "fields", "timestamp", "value", 'q"', "b\\", "é", "\u2028", "\x00"]),
    st.text(max_size=20),
).map(json.dumps)
LABEL_VALUES = st.one_of(TEXTS, st.sampled_from(["null", "true", "7", "-1", "7.5", "[]", "{}", "1e2"]))
VALUES = st.one_of(NUMBERS, st.sampled_from(["null", "true", '"5"', "[1]", "{}", "nul", ""]))
MEMBERS = st.one_of(
    st.tuples(st.just("ts"), TIMES),
    st.tuples(st.sampled_from(["gpu", "uuid", "node", "pod", "namespace", "job", "mig_id", "gpu"]), LABEL_VALUES),
    st.tuples(st.sampled_from(["util", "sm", "mem", "power", "temp", "power_watts", "fb_used_bytes"]), VALUES),
    st.tuples(
        st.sampled_from(["x", "extra_key", "labels", "value", "timestamp", "fields", "DCGM_FI_DEV_GPU_UTIL"]), VALUES
    ),
)
USUAL = st.just([("ts", "1795550720"), ("uuid", '"GPU-1"'), ("util", "5")])
SPACES = st.sampled_from(["", " ", "  ", "\t", "\n"])


@st.composite
def objects(draw: Any) -> str:
    members = draw(st.one_of(USUAL, st.just([]))) + draw(st.lists(MEMBERS, max_size=8))
    members = draw(st.permutations(members))
    before, between, after = (draw(SPACES) for _ in range(3))
    return "{" + ("," + before).join(f'"{key}"{after}:{between}{value}' for key, value in members) + after + "}"


NATIVE = st.one_of(
    objects(),
    st.lists(objects(), max_size=4).map(lambda several: "[" + ",".join(several) + "]"),
    st.lists(objects(), max_size=3).map(lambda several: "[" + " , ".join(several) + " ]"),
).map(lambda text: text.encode("utf-8", "surrogatepass"))


@settings(max_examples=400, deadline=None)
@given(st.lists(NATIVE, min_size=1, max_size=12))
def test_any_native_json_is_read_as_by_the_reference(values):
    twins = Twins()
    teachers = [b'{"ts":1795550720,"uuid":"GPU-1","util":5,"sm":0.5,"power":3,"x":1,"node":"n1","pod":"p"}']
    for _ in range(2):
        twins.same(records_of(teachers + values + teachers))


@st.composite
def mutated(draw: Any, messages: Sequence[bytes]) -> bytes:
    """A message with some bytes changed, cut out, doubled or put in."""
    text = bytearray(draw(st.sampled_from(messages)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 12)))
        text[at:end] = draw(
            st.one_of(st.binary(max_size=4), st.just(bytes(text[at:end])), st.just(bytes(text[at:end]) * 2))
        )
    return bytes(text)


@pytest.mark.parametrize("format_name", SCANNERS)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_messages_are_read_as_by_the_reference(format_name, data):
    messages = MESSAGES[format_name]
    values = data.draw(st.lists(mutated(messages), min_size=1, max_size=6))
    twins = Twins()
    for _ in range(2):
        twins.same(records_of([*messages, *values, *messages]))


UNUSUAL = (
    "labels",
    "kind",
    "",
    " ",
    "N/A",
    "null",
    "é",
    "a\u2028",
    "\x7f",
    7,
    0,
    -1,
    1.5,
    None,
    True,
    [],
    "x" * 300,
    "GPU-1",
    "MIG-2",
)


@pytest.mark.parametrize("field", ["gpu", "uuid", "node", "mig_id", "pod", "team", "capacity_type"])
def test_native_labels_of_any_kind_mean_what_the_reference_says(field):
    twins = Twins()
    plain = {"ts": 1_790_000_000, "gpu": "3", "node": "n1", "namespace": "N/A", "sm": 0.5}
    for round_ in range(2):
        for k, text in enumerate(UNUSUAL):
            first = {"ts": plain["ts"], "sm": 0.5, field: text}
            mixed = [plain | {field: text}, plain, first, plain | {field: text, "uuid": f"GPU-{round_}-{k}"}]
            values = [json.dumps(row, ensure_ascii=k % 2 == 0, separators=(",", ":")).encode() for row in mixed]
            values += [json.dumps(mixed).encode(), json.dumps([plain, {**plain, field: text}]).encode()]
            twins.same(records_of(values))


def test_new_plain_native_labels_need_no_reference():
    twins = Twins()
    rows = [{"ts": 1_790_000_000, "gpu": f"GPU-{i}", "node": f"n{i // 8}", "sm": 0.5} for i in range(100)]
    records = records_of([json.dumps(row).encode() for row in rows])
    twins.same(records[:1])
    assert twins.plain_share(records, "native") == 1.0


ODD = [
    {"pod": None}, {"gpu": 3}, {"gpu": 0}, {"gpu": 7, "uuid": None}, {"uuid": 0}, {"uuid": "0"}, {"uuid": 12},
    {"gpu": "labels"}, {"pod": "é"}, {"pod": "\x00"}, {"pod": 'q"'}, {"pod": ""}, {"gpu": ""}, {"gpu": None},
    {"uuid": "GPU-x", "gpu": 5}, {"gpu": "MIG-7"}, {"gpu": -1}, {"gpu": 1.5}, {"gpu": True}, {"pod": "x" * 600},
    {"namespace": "gpu-operator", "container": "exporter"}, {"capacity_type": "On_Demand"}, {"node": "<<<NULL>>>"},
]  # fmt: skip


@pytest.mark.parametrize("headers", [(), [("cluster", b"a")]])
@pytest.mark.parametrize("labels", [{}, {"node": "given", "gpu": "9"}])
def test_fleets_of_unlike_gpus_arrive_as_the_reference_reads_them(headers, labels):
    """One batch brings plain labels, odd ones, and several sets of keys at once, so that all ways meet in it."""
    twins = Twins(labels=labels)
    rows: list[dict[str, Any]] = []
    for i in range(60):
        plain = {"ts": 1_790_000_000, "gpu": f"GPU-{i}", "node": f"n{i // 8}", "pod": f"p-{i}"}
        rows += [plain | {"sm": 0.5}, plain | {"gpu": str(i), "sm": 0.5}, plain | ODD[i % len(ODD)] | {"sm": 0.25}]
    texts = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    texts += [json.dumps(rows[i : i + 7]).encode() for i in range(0, len(rows), 7)]
    twins.same(records_of(texts[:1]))
    for _ in range(2):
        found = twins.same([Record(i, -1, None, text, headers) for i, text in enumerate(texts)])
        assert len(found.batch) > 100


def request_of(groups: Sequence[tuple[dict[str, Any], str, list[dict[str, Any]]]], metrics: Sequence[str]) -> bytes:
    """Return an OTLP request: by group the resource's attributes, its scope, and its points' attributes."""
    request = MetricsData()
    for resource_attributes, scope_name, points in groups:
        resource = request.resource_metrics.add()
        resource.resource.attributes.extend(map(key_value, resource_attributes, resource_attributes.values()))
        scope = resource.scope_metrics.add()
        scope.scope.name = scope_name
        for name in metrics:
            metric = scope.metrics.add(name=name, description=f"about {name}")
            kind = metric.sum if name.endswith("_total") else metric.gauge
            if name.endswith("_total"):
                kind.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
            for attributes in points:
                point = kind.data_points.add(time_unix_nano=1_790_000_000 * 10**9, as_double=0.5)
                point.attributes.extend(map(key_value, attributes, attributes.values()))
    return bytes(request.SerializeToString())


def key_value(key: str, value: Any) -> KeyValue:
    field = {str: "string_value", int: "int_value", float: "double_value", bool: "bool_value"}.get(type(value))
    return KeyValue(key=key, value=AnyValue(**{field: value})) if field is not None else KeyValue(key=key)


def fleet_of_nodes(nodes: int) -> list[bytes]:
    """Return one request of each node, every third with a second resource, some with odd attributes."""
    metrics = ["DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_GPU_UTIL", "some_total"]
    requests = []
    for n in range(nodes):
        points = [{"gpu": str(g), "UUID": f"GPU-{n}-{g}", "pod": f"p{n}", **ODD[(n + g) % len(ODD)]} for g in range(8)]
        groups = [({"host.name": f"n{n}", "k8s.cluster.name": "c"}, "dcgm", points)]
        if n % 3 == 0:
            groups.append(({"host.name": f"second-{n}", "n": n, "empty": None}, "", points[:2]))
            groups.append((groups[0][0], "another", points[4:]))
        requests.append(request_of(groups, metrics))
    return requests


@pytest.mark.parametrize("headers", [(), [("cluster", b"a")]])
@pytest.mark.parametrize("labels", [{}, {"node": "given", "gpu": "9"}])
def test_a_fleet_of_nodes_arrives_in_otlp_as_the_reference_reads_it(headers, labels):
    twins = Twins(labels=labels)
    records = [Record(i, -1, None, value, headers) for i, value in enumerate(fleet_of_nodes(40))]
    for _ in range(2):
        assert len(twins.same(records).batch) > 300


def test_of_a_new_node_the_reference_reads_one_point_for_each_gpu():
    metrics = ["DCGM_FI_PROF_GR_ENGINE_ACTIVE", *(f"m{i}" for i in range(19))]
    requests = [
        request_of([({"host.name": f"n{n}"}, "dcgm", [{"UUID": f"GPU-{n}-{g}"} for g in range(8)])], metrics)
        for n in range(3)
    ]
    decoder = Decoder({}, IngestSettings(), FIELDS, LabelSets())
    decoder.decode(RecordBatch(TOPIC, 0, 1, records_of(requests[:1])))
    scanner, asked = decoder._scanning._scanners[TOPIC], []
    scanned = scanner.scan(Records.of(records_of(requests)), Watched(decoder._scanning._asking(TOPIC, scanner), asked))
    assert scanned.plain.all()
    assert len(scanned.record) == 24
    requests_read = [metrics_of(MetricsData.FromString(record.value)) for record in asked]
    assert [[len(metric.gauge.data_points) for metric in metrics] for metrics in requests_read] == [[8]] * 2


def metrics_of(request: MetricsData) -> list[Any]:
    return [m for resource in request.resource_metrics for scope in resource.scope_metrics for m in scope.metrics]


def test_a_table_without_room_grows_before_the_reference_has_to_help(monkeypatch):
    monkeypatch.setattr(raw_labels, "ENTRIES_FIRST", 4)
    twins = Twins()
    records = records_of(fleet_of_nodes(40))
    scanner = OtlpProtoScanner(FIELDS, twins.decoders[1]._scanning._bounds)
    scanned = scanner.scan(Records.of(records), twins.decoders[1]._scanning._asking(TOPIC, scanner))
    twins.same(records)
    twins.same(records)
    assert np.mean(scanned.plain) == twins.plain_share(records, "otlp_proto") > 0


def test_labels_are_forgotten_with_the_resources_that_they_are_under(monkeypatch):
    """Numbers of resources begin anew: labels of old ones must not be taken for those of new ones."""
    monkeypatch.setattr(point_reading, "HEADS_MAX", 32)
    twins = Twins()
    attributes = [{"gpu": str(g)} for g in range(8)]
    for n in range(60):
        request = request_of([({"host.name": f"n{n}"}, "dcgm", attributes)], ["DCGM_FI_PROF_GR_ENGINE_ACTIVE"])
        found = twins.same(records_of([request]))
        assert {twins.label_sets[1][i].node for i in found.batch.label_set.tolist()} == {f"n{n}"}
