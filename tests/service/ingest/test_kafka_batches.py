"""Reading fetched bytes without a broker: whatever they are, something is returned, and reading moves on."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.structs import TopicPartition as KafkaPartition

from service.ingest.contract import Corrupt, Record, TopicPartition
from service.ingest.kafka_batches import CRC_FROM, HEADER, AbortedTransaction, BatchReader
from service.ingest.kafka_buffers import Buffers
from service.ingest.kafka_codecs import EXPANDED_BYTES_MAX, BadCompression, expand
from service.ingest.kafka_fetch import FetchedRecords, FetchLedger
from service.ingest.records import RecordBlock, Records

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = (NONE, GZIP, SNAPPY, LZ4, ZSTD)
ATTRIBUTES_AT, DELTA_AT, COUNT_AT = 21, 23, 57


def batch(values: Sequence[bytes | None], base: int = 0, codec: int = NONE, headers: Sequence[object] = ()) -> bytes:
    """Return a batch as kafka-python writes it, moved to the offset `base`."""
    builder = MemoryRecordsBuilder(2, codec, 1 << 30)
    for i, value in enumerate(values):
        builder.append(timestamp=1000 + i, key=b"k%d" % i, value=value, headers=list(headers))
    builder.close()
    written = builder.buffer()
    return struct.pack(">q", base) + bytes(written[8:])


def signed(raw: bytes, *changes: tuple[int, str, int]) -> bytes:
    """Return the batch with fields changed and its checksum right again."""
    changed = bytearray(raw)
    for at, form, value in changes:
        struct.pack_into(form, changed, at, value)
    struct.pack_into(">I", changed, CRC_FROM - 4, crc32c(bytes(changed[CRC_FROM:])))
    return bytes(changed)


def of_producer(raw: bytes, producer_id: int, attributes: int) -> bytes:
    return signed(raw, (43, ">q", producer_id), (ATTRIBUTES_AT, ">h", attributes))


def marker(base: int, producer_id: int, kind: int) -> bytes:
    """Return a control batch: kind 0 aborts, 1 commits."""
    builder = MemoryRecordsBuilder(2, NONE, 1 << 20)
    builder.append(timestamp=1, key=struct.pack(">hh", 0, kind), value=b"\0" * 6, headers=[])
    builder.close()
    return of_producer(struct.pack(">q", base) + bytes(builder.buffer()[8:]), producer_id, 0x30)


def read(
    fetched: bytes,
    position: int = 0,
    end: int | None = None,
    aborted: Sequence[AbortedTransaction] = (),
    at_once: int = 1000,
) -> tuple[list[Record | Corrupt], int]:
    """Read until done; return the items and the position."""
    reader = BatchReader(fetched, position, aborted, end, Buffers())
    items: list[Record | Corrupt] = []
    while not reader.done:
        items += flat(reader.read(at_once))
    return items, reader.position


def flat(found: Sequence[RecordBlock | Corrupt]) -> list[Record | Corrupt]:
    return [each for item in found for each in ([item] if isinstance(item, Corrupt) else Records([item]))]


def offsets(items: Sequence[Record | Corrupt]) -> list[int]:
    return [item.offset for item in items if isinstance(item, Record)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_batches_of_every_codec_are_read_like_kafka_python_reads_them(codec: int, at_once: int) -> None:
    headers = [("a", b"1"), ("empty", b""), ("é", b"\xff")]
    fetched = batch([b"x" * 100, None, b""], 5, codec, headers) + batch([b"y"] * 4, 8, codec)
    theirs = [record for each in MemoryRecords(fetched) for record in each]
    items, position = read(fetched, 5, at_once=at_once)
    assert [item[:4] for item in items] == [(r.offset, r.timestamp, r.key, r.value) for r in theirs]
    assert [list(item.headers) for item in items if isinstance(item, Record)] == [r.headers for r in theirs]
    assert position == 12


def test_reading_starts_in_the_middle_of_a_batch() -> None:
    items, position = read(batch([b"v"] * 10, 100), 104)
    assert offsets(items) == [104, 105, 106, 107, 108, 109]
    assert position == 110


def test_offsets_that_compaction_removed_count_as_read() -> None:
    emptied = signed(batch([b"v"], 7), (DELTA_AT, ">i", 9), (COUNT_AT, ">i", 1))
    items, position = read(batch([b"v"] * 2, 0) + emptied, 0)
    assert (offsets(items), position) == ([0, 1, 7], 17)
    no_record = signed(
        batch([b"v"])[: HEADER.size],
        (8, ">i", HEADER.size - 12),
        (DELTA_AT, ">i", 4),
        (COUNT_AT, ">i", 0),
    )
    assert read(no_record, 0) == ([], 5)


def test_a_record_stamped_by_the_broker_has_the_time_of_its_batch() -> None:
    stamped = signed(batch([b"v"] * 2), (ATTRIBUTES_AT, ">h", 0x08), (35, ">q", 777))
    items, _ = read(stamped)
    assert [item.timestamp_ms for item in items if isinstance(item, Record)] == [777, 777]


def test_only_the_aborted_transactions_of_their_producer_are_left_out() -> None:
    fetched = (
        of_producer(batch([b"a"], 0), 1, 0x10)
        + of_producer(batch([b"b"], 1), 2, 0x10)
        + marker(2, 1, 0)
        + of_producer(batch([b"c"], 3), 1, 0x10)
        + marker(4, 1, 1)
        + marker(5, 2, 1)
    )
    items, position = read(fetched, aborted=[AbortedTransaction(1, 0)])
    assert (offsets(items), position) == ([1, 3], 6)


def test_a_header_key_that_is_not_utf_8_spoils_no_neighbour() -> None:
    raw = batch([b"v"] * 2, headers=[("key", b"1")]).replace(b"key", b"k\xffy")
    items, _ = read(signed(raw))
    assert [item.headers for item in items if isinstance(item, Record)] == [[("k�y", b"1")]] * 2


def test_an_answer_cut_anywhere_yields_its_whole_batches() -> None:
    first, second = batch([b"v"] * 3), batch([b"w"] * 3, 3)
    for cut in range(len(second)):
        assert read(first + second[:cut]) == read(first)


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_byte_anywhere_below_the_checksum_is_corrupt_and_named_with_its_offsets(
    codec: int,
) -> None:
    raw = batch([b"some value"] * 3, 10, codec)
    for at in range(CRC_FROM, len(raw)):
        spoilt = bytearray(raw)
        spoilt[at] ^= 0x40
        items, position = read(bytes(spoilt), 10, end=13)
        assert not offsets(items)
        assert isinstance(items[0], Corrupt)
        assert items[0].first_offset == 10
        assert 10 < position == items[0].next_offset <= 13


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        ((16, ">b", 1), "record format v1"),
        ((0, ">q", 1 << 40), "ends at 20"),
        ((0, ">q", -5), "in answer to a fetch at 10"),
        ((0, ">q", 3), "in answer to a fetch at 10"),
        ((8, ">i", 0), "batch length 0"),
        ((8, ">i", -1), "batch length -1"),
        ((8, ">i", 1 << 20), "does not end within"),
        ((DELTA_AT, ">i", -1), "in answer to a fetch at 10"),
        ((DELTA_AT, ">i", 1 << 30), "ends at 20"),
        ((COUNT_AT, ">i", 1 << 30), "records in"),
        ((COUNT_AT, ">i", -1), "records in"),
        ((COUNT_AT, ">i", 2), "after the last record"),
        ((ATTRIBUTES_AT, ">h", 5), "codec 5"),
        ((ATTRIBUTES_AT, ">h", ZSTD), "zstd"),
        ((ATTRIBUTES_AT, ">h", 0x20), "control batch"),
    ],
)
def test_a_lie_in_the_header_is_corrupt_even_under_a_right_checksum(damage: tuple[int, str, int], detail: str) -> None:
    items, position = read(signed(batch([b"v"] * 3, 10), damage), 10, end=20)
    corrupt = items[-1]
    assert isinstance(corrupt, Corrupt)
    assert detail in corrupt.detail
    assert corrupt.next_offset == position
    assert 10 < position <= 20


def test_records_before_the_one_that_breaks_the_structure_are_kept() -> None:
    raw = bytearray(batch([b"value"] * 3))
    raw[raw.index(b"k2") - 1] = 0x7E  # a key of 63 bytes
    items, position = read(signed(bytes(raw)))
    assert offsets(items) == [0, 1]
    assert items[-1][:2] == (2, 3)
    assert position == 3


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_bomb_is_refused_before_it_is_expanded(codec: int) -> None:
    raw = batch([bytes(EXPANDED_BYTES_MAX)], 0, codec)
    items, position = read(raw)
    assert [item[:2] for item in items] == [(0, 1)]
    assert "more than 67108864 bytes" in str(items[0])
    assert position == 1


def test_a_buffer_is_used_again_only_when_nobody_looks_at_it():
    buffers = Buffers(1000)
    held, begin, end = buffers.expand(NONE, memoryview(b"a" * 600))
    view = held[begin:end]
    del held
    again, begin, end = buffers.expand(NONE, memoryview(b"b" * 600))
    assert bytes(again[begin:end]) == b"b" * 600
    del again
    buffers.turn_over()
    for _ in range(6):
        buffers.expand(NONE, memoryview(b"c" * 600))
    assert bytes(view) == b"a" * 600
    first = view.base
    del view
    kept = {id(each) for each in buffers._kept}
    assert id(first) in kept or len(kept) == 4


@pytest.mark.parametrize("codec", CODECS[1:])
@given(packed=st.binary(max_size=200))
def test_bytes_that_do_not_decompress_are_refused_with_one_error(codec: int, packed: bytes) -> None:
    try:
        assert 0 <= expand(codec, memoryview(packed), memoryview(bytearray(1000))) <= 1000
    except BadCompression as error:
        assert str(error)


@given(st.binary(max_size=300), st.integers(0, 100), st.sampled_from([None, 50, 1000]))
def test_any_bytes_are_read_without_an_exception_and_reading_moves_on(
    fetched: bytes, position: int, end: int | None
) -> None:
    _, after = read(fetched, position, end)
    assert after > position or not fetched


@given(st.binary(min_size=1, max_size=120), st.integers(0, 40))
def test_any_records_under_a_right_checksum_are_read_without_an_exception(body: bytes, count: int) -> None:
    header = HEADER.pack(0, HEADER.size - 12 + len(body), 0, 2, 0, 0, 30, 0, 0, -1, -1, -1, count)
    items, position = read(signed(header + body), 0, at_once=3)
    assert 0 < position <= 31
    assert offsets(items) == sorted(set(offsets(items)))


PARTITION = TopicPartition("topic", 0)


def fetched(ledger: FetchLedger, raw: bytes, offset: int = 0) -> FetchedRecords:
    return FetchedRecords(ledger, offset, KafkaPartition(*PARTITION), MemoryRecords(raw), aborted_transactions=None)


def ledger(end: int | None = None) -> FetchLedger:
    return FetchLedger(lambda _: end)


def test_bytes_found_bad_once_are_fetched_again_before_they_are_called_corrupt() -> None:
    spoilt = batch([b"v"] * 3)[:-1] + b"!"
    known = ledger()
    first = fetched(known, batch([b"u"] * 2) + spoilt.replace(b"\0" * 8, struct.pack(">q", 2), 1))
    assert offsets(flat(first.take(100))) == [0, 1]
    assert (bool(first), first.next_fetch_offset, known.positions) == (False, 2, {PARTITION: 2})
    again = fetched(known, struct.pack(">q", 2) + spoilt[8:], 2)
    assert [item[:2] for item in again.take(100)] == [(2, 5)]
    assert known.positions == {PARTITION: 5}


def test_bytes_that_are_good_the_second_time_are_read() -> None:
    known = ledger()
    good = batch([b"v"] * 3)
    assert fetched(known, good[:-1] + b"!").take(100) == []
    assert offsets(flat(fetched(known, good).take(100))) == [0, 1, 2]


def test_an_answer_that_yields_nothing_is_drained_and_moves_on() -> None:
    drained: list[FetchedRecords] = []
    known = ledger()
    answer = FetchedRecords(
        known,
        0,
        KafkaPartition(*PARTITION),
        MemoryRecords(marker(0, 1, 0)),
        on_drain=drained.append,
    )
    assert answer.take(10) == []
    assert (bool(answer), drained, known.positions) == (False, [answer], {PARTITION: 1})


def test_an_answer_without_a_whole_batch_is_noted_for_the_partition() -> None:
    known = ledger()
    fetched(known, batch([b"v"])[:-1], 7)
    assert known.unreadable == {PARTITION: 7}


@pytest.mark.parametrize("attribute", ["PartitionRecords", "_parse_fetched_data", "_append", "fetched_records"])
def test_the_client_still_has_the_seam(attribute: str) -> None:
    assert callable(getattr(Fetcher, attribute))


def test_the_client_still_builds_what_it_fetched_with_the_arguments_that_we_take() -> None:
    theirs: Callable[..., object] = Fetcher.PartitionRecords
    records = MemoryRecords(batch([b"v"] * 3))
    original = theirs(1, KafkaPartition("topic", 0), records, aborted_transactions=None, on_drain=lambda _: None)
    ours = fetched(ledger(), batch([b"v"] * 3), 1)
    read_by_fetcher = {
        "topic_partition",
        "next_fetch_offset",
        "leader_epoch",
        "records_read",
        "bytes_read",
    }
    assert read_by_fetcher <= vars(original).keys() & vars(ours).keys()
    assert [item.offset for item in original.take(10)] == offsets(flat(ours.take(10)))  # type: ignore[attr-defined]
    assert original.next_fetch_offset == ours.next_fetch_offset == 3  # type: ignore[attr-defined]
    assert hasattr(KafkaConsumer, "highwater")
