"""Labels taken column by column mean what the field table says of each row alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.labels import LabelSet
from service.ingest.fields import FieldTable
from service.ingest.label_columns import LabelColumns
from service.ingest.reading import MEASUREMENT
from tests.service.ingest.decoding import FIELDS

NAMES = [
    *LabelSet._fields, "UUID", "Hostname", "hostname", "modelName", "exported_pod", "exported_namespace",
    "exported_container", "instance", "GPU_I_ID", "host", "id.pod", "k8s.pod.name", "x",
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([
        "GPU-1", "GPU-2", "MIG-1", "0", "n1", "", "<<<NULL>>>", "on_demand", "Preemptible", "reserved",
        "gpu-operator", "exporter", "nvidia-dcgm-exporter-x", "a", "\0", "\0001", "GPU-",
    ]),
    st.text(max_size=5),
)  # fmt: skip


@st.composite
def tables(draw: Any) -> tuple[list[str], list[list[str]]]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=7, unique=True))
    rows = draw(st.integers(1, 6))
    usual = draw(st.booleans())  # all rows alike but for a few
    columns = [draw(st.lists(VALUES, min_size=rows, max_size=rows)) for _ in names]
    if usual:
        columns = [[column[0]] * (rows - 1) + [column[-1]] for column in columns]
    return names, columns


@settings(max_examples=400)
@given(
    tables(),
    st.sampled_from(["native", "", "nvidia_smi", "cuda", "collectd"]),
    st.dictionaries(st.sampled_from(LabelSet._fields), st.sampled_from(["d", "GPU-d", "spot"]), max_size=3),
)
def test_columns_mean_what_each_row_means_alone(table, measurement, defaults):
    names, columns = table
    more = {MEASUREMENT: measurement} if measurement else {}
    tested = LabelColumns(FIELDS)
    for _ in range(2):
        found = tested.label_sets(names, columns, more, defaults)
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        assert found == [FIELDS.label_set(row | more, defaults) for row in rows]


@pytest.mark.parametrize("glob", ["*", "?*", "[!x]*"])
def test_exporters_whose_names_fit_anything_are_asked_about_row_by_row(monkeypatch, glob):
    fields = FieldTable.load()
    monkeypatch.setattr(fields, "exporters", ({"pod": glob},))
    names, columns = ["uuid", "pod"], [["GPU-1", "GPU-2", "GPU-3"], ["train", "x", "y"]]
    found = LabelColumns(fields).label_sets(names, columns, {}, {})
    rows = zip(*columns, strict=True)
    assert found == [fields.label_set(dict(zip(names, row, strict=True)), {}) for row in rows]
