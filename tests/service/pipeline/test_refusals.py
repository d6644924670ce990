"""Letters of a batch, put together from columns, are those that going record by record gives."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detectors.batch import EventBatch
from service.ingest.contract import ENTITIES_MAX, LATE, REASONS, Corrupt, Record, RecordBatch, Unplaced
from service.ingest.decode import Decoded, Rejected
from service.ingest.records import Records
from service.pipeline.refusals import Refusals, letters_of

ACCEPTED = -1
NO_ROOM = 9  # fleet.entities_max


@st.composite
def batches(draw: st.DrawFn) -> tuple[RecordBatch, Decoded, Refusals]:
    """Return a batch of records with up to three rows each, some bad, some rows refused, and unreadable stretches between."""
    offsets = np.cumsum(draw(st.lists(st.integers(1, 4), max_size=8))).tolist()
    value = st.none() | st.binary(max_size=12)
    records = [Record(offset, draw(st.integers(-1, 99)), b"k", draw(value)) for offset in offsets]
    fates = [draw(st.lists(st.sampled_from([ACCEPTED, LATE, ENTITIES_MAX]), max_size=3)) for _ in records]
    bad = [i for i in range(len(records)) if draw(st.booleans())]
    rejected = [Rejected(i, draw(st.sampled_from(REASONS[:7])), f"bad {i}", draw(st.integers(1, 3))) for i in bad]
    lost = st.lists(st.integers(0, 20), max_size=3)
    corrupt = [Corrupt(first, first + draw(st.integers(1, 5)), "crc") for first in draw(lost)]
    unplaced = [Unplaced(offset, b"?%d" % offset, "no offset") for offset in draw(lost)]
    batch = RecordBatch("t", 3, 99, Records.of(records), corrupt, unplaced)
    fate = np.array([each for row in fates for each in row], np.int8)
    row_offset = np.repeat(np.array(offsets, np.int64), [len(rows) for rows in fates])
    rows = EventBatch("t", 3, 99, row_offset, np.arange(len(fate)) * 7, np.zeros(len(fate), np.int32), {})
    refusals = Refusals.of(fate == LATE, fate != ENTITIES_MAX, NO_ROOM)
    return batch, Decoded(Records.of(records), rows, rejected, Counter()), refusals


def naive(
    batch: RecordBatch, decoded: Decoded, refusals: Refusals
) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Return the documents, and place and reason of each, from one walk over everything in the order of the log."""
    there: list[tuple[int, int, Any]] = [(corrupt.first_offset, 0, corrupt) for corrupt in batch.corrupt]
    there += [(unplaced.offset, 1, unplaced) for unplaced in batch.unplaced]
    there += [(record.offset, 2, record) for record in batch.records]
    refused = dict(zip(refusals.row.tolist(), refusals.reason.tolist(), strict=True))
    documents, places = [], []
    index = -1
    for place, (offset, _, item) in enumerate(sorted(there, key=lambda each: each[:2])):
        said: list[tuple[str, str, int]] = []
        value, timestamp_ms = None, -1
        if isinstance(item, Corrupt):
            last = item.next_offset - 1
            said.append(("corrupt_batch", f"offsets {offset} to {last}: crc", item.next_offset - offset))
        elif isinstance(item, Unplaced):
            said.append(("malformed", item.detail, 1))
            value = item.value
        else:
            index += 1
            value, timestamp_ms = item.value, item.timestamp_ms
            said += [each[1:] for each in decoded.rejected if each.record == index]
            rows = [row for row in np.flatnonzero(decoded.batch.offset == offset).tolist() if row in refused]
            said += [
                ("late", f"event time {row * 7} ns is behind the watermark", 1) for row in rows if refused[row] == LATE
            ]
            said += [
                ("entities_max", "fleet.entities_max 9 reached", 1) for row in rows if refused[row] == ENTITIES_MAX
            ]
        if said:
            places.append((place, said[0][0]))
            documents.append({
                "topic": "t", "partition": 3, "offset": offset, "reason": said[0][0], "detail": said[0][1],
                "rejected_samples": sum(samples for _, _, samples in said),
                "sha256": "" if value is None else sha256(value).hexdigest(),
                "value_b64": None if value is None else b64encode(value[:5]).decode(),
                "timestamp_ms": timestamp_ms,
            })  # fmt: skip
    return documents, places


@given(batches())
def test_letters_are_those_of_a_walk_record_by_record(made: tuple[RecordBatch, Decoded, Refusals]) -> None:
    batch, decoded, refusals = made
    letters, left_none = letters_of(batch, decoded, refusals)
    documents, places = naive(batch, decoded, refusals)
    lines = list(letters.lines(value_bytes_max=5))
    assert [json.loads(line) for line in lines] == documents
    assert lines == [json.dumps(document, separators=(",", ":")) for document in documents]
    assert letters.records == len(batch.records) + len(batch.corrupt) + len(batch.unplaced)
    assert letters.poison() == [each for each in places if each[1] != "entities_max"]
    rows = Counter(decoded.batch.offset.tolist())
    refused = Counter(decoded.batch.offset[refusals.row].tolist())
    assert left_none == sum(refused[offset] == count for offset, count in rows.items())


def test_a_value_is_neither_copied_nor_cut_before_it_is_written() -> None:
    records = Records.of([Record(5, 1, None, b"whole value")])
    rows = EventBatch("t", 0, 6, np.array([5]), np.array([0]), np.array([0], np.int32), {})
    decoded = Decoded(records, rows, [], Counter())
    letters, _ = letters_of(RecordBatch("t", 0, 6, records), decoded, Refusals.of(rows.offset < 0, rows.offset < 0, 1))
    (value,) = letters.value
    assert isinstance(value, memoryview)
    assert value.obj is records.data
    (line,) = letters.lines(value_bytes_max=0)
    assert json.loads(line)["value_b64"] == ""
    assert json.loads(line)["sha256"] == sha256(b"whole value").hexdigest()
