"""What every format promises: its golden records mean the same rows, and no bytes make it fail."""

from __future__ import annotations

import math
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.labels import LabelSet
from service.errors import PoisonRecord
from service.ingest.contract import REASONS, Parsed, Record
from service.ingest.formats import FORMATS
from service.settings import FORMAT_NAMES
from tests.service.ingest.decoding import TOPIC, Bench, golden

TIME_NS = 1_795_550_720 * 10**9
HELD = LabelSet(
    node="gpu-node-1",
    gpu="0",
    uuid="GPU-11111111-aaaa-4bbb-8ccc-000000000001",
    model="NVIDIA H100 80GB HBM3",
    namespace="ml-train",
    pod="llm-0",
    container="main",
)
FREE = LabelSet(
    node="gpu-node-1",
    gpu="1",
    uuid="GPU-11111111-aaaa-4bbb-8ccc-000000000002",
    model="NVIDIA H100 80GB HBM3",
)
ROWS = {
    (HELD, TIME_NS): {"util_ratio": 0.97, "fb_used_bytes": 70000.0 * 1048576, "power_watts": 402.5},
    (FREE, TIME_NS): {"util_ratio": 0.0, "fb_used_bytes": 513.0 * 1048576, "power_watts": 71.25},
}
# collectd has neither UUIDs nor pods.
COLLECTD = {
    (LabelSet(node=held.node, gpu=held.gpu, model="NVIDIA_H100_80GB_HBM3"), time_ns): cells
    for (held, time_ns), cells in ROWS.items()
}

every_format = pytest.mark.parametrize("name", sorted(FORMATS))


def parse(name: str, value: bytes) -> Parsed | None:
    """Return what the format reads, None for poison; anything else that it raises fails the test."""
    record = Record(0, -1, None, value)
    assert FORMATS[name].recognises(record) in (True, False)
    try:
        parsed = FORMATS[name].parse(record)
    except PoisonRecord as poison:
        assert poison.reason in REASONS
        return None
    assert all(reject.reason in REASONS for reject in parsed.rejects)
    assert parsed.ended >= 0
    for sample in parsed.samples:
        assert isinstance(sample.event_time_ns, int)
        assert all(isinstance(text, str) for pair in sample.labels.items() for text in pair)
        assert all(isinstance(value, float) for value in sample.values.values())
    return parsed


def test_a_topic_can_be_pinned_to_every_format_that_there_is() -> None:
    assert set(get_args(FORMAT_NAMES)) - {"auto"} == set(FORMATS)
    assert all(known.name == name for name, known in FORMATS.items())


@every_format
def test_the_golden_records_mean_the_same_rows_in_every_format(name: str) -> None:
    bench = Bench()
    decoded = bench.decode(*golden(name))
    assert not decoded.rejected
    assert bench.merged(decoded) == (COLLECTD if name == "collectd_json" else ROWS)


@every_format
def test_a_format_named_for_a_topic_reads_the_same(name: str) -> None:
    recognised, named = Bench(), Bench({TOPIC: name})
    values = golden(name)
    assert named.merged(named.decode(*values)) == recognised.merged(recognised.decode(*values))


@every_format
def test_only_the_format_itself_is_the_first_to_claim_its_golden_records(name: str) -> None:
    for value in golden(name):
        record = Record(0, -1, None, value)
        assert next(known.name for known in FORMATS.values() if known.recognises(record)) == name


@every_format
@settings(max_examples=150, deadline=None, derandomize=True)
@given(value=st.binary(max_size=400))
def test_any_bytes_are_parsed_or_poison(name: str, value: bytes) -> None:
    parse(name, value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@every_format
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_mutated_golden_records_are_parsed_or_poison(name: str, data: st.DataObject) -> None:
    value = bytearray(data.draw(st.sampled_from(golden(name))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value)))
        cut = data.draw(st.integers(0, 12))
        value[at : at + cut] = data.draw(st.binary(max_size=6))
    parse(name, bytes(value))


@pytest.mark.parametrize(
    "name",
    sorted(name for name in FORMATS if "json" in name or name in ("native", "vector", "prometheus_adapter")),
)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_golden_documents_with_any_part_replaced_are_parsed_or_poison(name: str, data: st.DataObject) -> None:
    document = msgspec.json.decode(data.draw(st.sampled_from(golden(name))))
    holder, key = data.draw(st.sampled_from(list(_places(document))))
    holder[key] = data.draw(JSON)
    parse(name, msgspec.json.encode(document))


def _places(node: object) -> list[tuple[object, object]]:
    """Return every (container, key) below a JSON document."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in [(node, key), *_places(node[key])]]  # type: ignore[index]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    values=st.lists(
        st.binary(max_size=200) | st.sampled_from([v for n in FORMATS for v in golden(n)]),
        max_size=6,
    )
)
def test_every_record_has_exactly_one_outcome_and_rows_hold_only_sane_values(
    values: list[bytes],
) -> None:
    bench = Bench()
    decoded = bench.decode(*values)
    ended_in = sum(decoded.outcomes[name] for name in ("accepted", "rejected", "tombstone", "no_gpu"))
    assert ended_in == len(values)
    assert decoded.outcomes["rejected"] <= len(decoded.rejected) <= len(values)
    assert all(math.isfinite(cell) for _, _, cells in bench.rows(decoded) for cell in cells.values())
