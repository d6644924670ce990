"""Kernels that read bytes and put points together equal their twins; the scans themselves are proved on whole records."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.interned import slots_fill
from kernels.log import HEADERS, KEY, VALUE, WHOLE, records_walk
from kernels.points import points_number, points_put, rows_repeated
from service.ingest.contract import Record
from service.ingest.records import Records
from tests.kernels import naive


def zigzag(number):
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def sized(part):
    return zigzag(-1) if part is None else zigzag(len(part)) + part


def body_of(records):
    out = b""
    for i, (key, value, headers) in enumerate(records):
        inner = b"\0" + zigzag(3 * i) + zigzag(i) + sized(key) + sized(value) + zigzag(len(headers))
        inner += b"".join(sized(name) + sized(text) for name, text in headers)
        out += zigzag(len(inner)) + inner
    return out


parts = st.one_of(st.none(), st.binary(max_size=200))
headers = st.lists(st.tuples(st.binary(max_size=5), parts), max_size=3)


@given(st.lists(st.tuples(parts, parts, headers), max_size=8), st.integers(0, 8), st.integers(-3, 3))
def test_the_walk_finds_every_record_from_an_offset_on(records, from_offset, cut):
    body = body_of(records)
    count = len(records)
    if cut < 0:
        body = body[:cut]
    offset, timestamp = np.empty(count, np.int64), np.empty(count, np.int64)
    span, end = np.empty((count, 6), np.int32), np.empty(2, np.int64)
    records_walk(
        np.frombuffer(body, np.uint8), 0, len(body), 0, count, from_offset, 100, -1, offset, timestamp, span, end
    )
    found, trouble = end.tolist()
    try:
        expected, whole = naive.records_walk(body, count)
    except IndexError:
        whole = False
    assert (trouble == WHOLE) == whole
    if whole:
        got = [
            (
                int(offset[i]),
                int(timestamp[i]) - 100,
                *(bytes_of(body, span[i], part) for part in (KEY, VALUE, HEADERS)),
            )
            for i in range(found)
        ]
        assert got == [record for record in expected if record[0] >= from_offset]


def bytes_of(body, span, part):
    return None if span[part] < 0 else body[span[part] : span[part + 1]]


@given(st.lists(st.tuples(parts, parts, st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=9)), max_size=3))))
def test_records_put_into_arrays_come_out_as_they_went_in(given_records):
    records = [Record(7 + 2 * i, 1000 - i, key, value, tuple(h)) for i, (key, value, h) in enumerate(given_records)]
    kept = Records.of(records)
    assert [record._replace(headers=tuple(record.headers)) for record in kept] == records
    assert Records.of(kept) is kept
    assert kept[1:] == list(kept)[1:]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_slots_are_filled_in_order_of_entries(hashes):
    slot = np.full(64, -1, np.int32)
    entry_hash = np.array(hashes, np.uint64)
    slots_fill(entry_hash, len(hashes), slot)
    assert slot.tolist() == naive.slots_fill(entry_hash, len(hashes), 64)


point = st.tuples(st.integers(0, 3), st.integers(-1, 4), st.integers(0, 3), st.integers(0, 2))


@given(st.lists(point, max_size=40), st.lists(st.booleans(), min_size=4, max_size=4))
def test_points_of_one_record_label_set_and_instant_share_a_row(points, plain):
    points = sorted(points, key=lambda each: each[0])
    record, column, label_set = (np.array([each[k] for each in points], np.int32) for k in range(3))
    time_ns = np.array([each[3] for each in points], np.int64)
    value = np.arange(len(points), dtype=float)
    row, first, before = (np.empty(len(points), np.int32) for _ in range(3))
    rows = np.zeros(1, np.int64)
    points_number(
        record, column, label_set, time_ns, np.array(plain), np.full(4, -1, np.int32), row, first, before, rows
    )
    assert row.tolist() == naive.points_number(record, column, label_set, time_ns, plain)
    assert rows[0] == row.max(initial=-1) + 1
    out = np.full((5, int(rows[0])), np.nan)
    points_put(row, column, value, np.arange(5, dtype=np.int32), out)
    np.testing.assert_array_equal(out, naive.points_put(row.tolist(), column.tolist(), value.tolist(), 5))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3), st.integers(0, 3)), max_size=30))
def test_a_row_repeats_when_its_label_set_does_not_move_on_within_the_record(rows):
    rows = sorted(rows, key=lambda each: each[0])
    record, label_set = (np.array([each[k] for each in rows], np.int32) for k in range(2))
    time_ns = np.array([each[2] for each in rows], np.int64)
    repeated = np.zeros(len(rows), np.bool_)
    rows_repeated(record, label_set, time_ns, np.full(4, -1, np.int64), repeated)
    assert repeated.tolist() == naive.rows_repeated(record, label_set, time_ns)
