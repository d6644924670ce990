from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.errors import ConfigError, Unavailable
from service.ingest import file_lines, file_source
from service.ingest.contract import Corrupt, Record, RecordBatch, TopicPartition, Unplaced
from service.ingest.file_source import FileSource
from service.ingest.formats.native import Native
from service.settings import FileSettings
from tests.fakes.clock import ManualClock

CAPTURES = Path(__file__).parents[2] / "data" / "captures"
NOBODY: frozenset[TopicPartition] = frozenset()
A = TopicPartition("a.ndjson", 0)


OPEN: list[FileSource] = []


@pytest.fixture(autouse=True)
def _closed_at_the_end():
    yield
    while OPEN:
        OPEN.pop().close()


def source(*paths: Path | str, follow: bool = False, clock: ManualClock | None = None) -> FileSource:
    settings = FileSettings(paths=[str(path) for path in paths], follow=follow)
    OPEN.append(FileSource(settings, clock or ManualClock()))
    return OPEN[-1]


def started(*paths: Path | str, follow: bool = False, **offsets: int) -> FileSource:
    made = source(*paths, follow=follow)
    for partition in made.assigned():
        made.seek(partition, offsets.get(partition.topic.partition(".")[0]))
    return made


def poll(made: FileSource, paused: frozenset[TopicPartition] = NOBODY) -> list[RecordBatch]:
    return made.poll(0, paused)


Item = Record | Corrupt | Unplaced


def drain(made: FileSource) -> dict[TopicPartition, list[Item]]:
    """Everything that is there now, by partition, with what is corrupt or has no place where it lay."""
    found: dict[TopicPartition, list[Item]] = {name: [] for name in made.assigned()}
    for _ in range(1000):
        batches = poll(made)
        for batch in batches:
            items: list[Item] = [*batch.unplaced, *batch.records, *batch.corrupt]
            found[TopicPartition(batch.topic, batch.partition)] += sorted(items, key=lambda item: item[0])
        if not batches and all(made.ended(name) for name in made.assigned()):
            return found
    raise AssertionError("no end")


def values(made: FileSource) -> list[bytes | None]:
    return [item.value for items in drain(made).values() for item in items if isinstance(item, Record)]


def captured(partition: int, offset: int, value: str | None = "v", **more: object) -> str:
    encoded = None if value is None else base64.b64encode(value.encode()).decode()
    line = {
        "partition": partition,
        "offset": offset,
        "timestamp": 5,
        "key_b64": None,
        "value_b64": encoded,
    }
    return json.dumps({**line, "headers": [], **more})


# ---- plain files


def test_each_line_is_a_record_and_its_number_the_offset(tmp_path):
    (tmp_path / "a.ndjson").write_bytes(b'{"x":1}\r\n\n  \n{"x":2}\nlast')
    found = drain(started(tmp_path / "a.ndjson"))[A]
    assert found == [
        Record(0, -1, None, b'{"x":1}'),
        Record(3, -1, None, b'{"x":2}'),
        Record(4, -1, None, b"last"),
    ]


@pytest.mark.parametrize(
    "name, pack",
    [
        ("a.ndjson", bytes),
        ("a.ndjson.gz", gzip.compress),
        ("a.ndjson.zst", zstandard.compress),
        ("no-suffix", gzip.compress),
        ("a.gz", lambda text: gzip.compress(text[:5]) + gzip.compress(text[5:]) + b"\0" * 512),
        ("a.zst", lambda text: zstandard.compress(text[:5]) + zstandard.compress(text[5:])),
    ],
)
def test_packed_files_give_the_same_records(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(b"one\ntwo\nthree\n"))
    assert values(started(tmp_path / name)) == [b"one", b"two", b"three"]


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")), max_size=30),
    start=st.integers(0, 35),
    records_max=st.integers(1, 7),
)
def test_reading_on_from_any_offset_equals_reading_through(tmp_path_factory, lines, start, records_max):
    file = tmp_path_factory.mktemp("t") / "a.ndjson"
    file.write_bytes(b"x\n" * 36 + b"\n".join(lines))
    whole = drain(started(file))[A]
    made = source(file)
    log = made._logs[A]
    made.seek(A, start)
    rest: list[Record] = []
    while not log.ended:
        batch = log.read(records_max, 1 << 20)
        if batch is not None:
            assert batch.next_offset > batch.records[-1].offset
            rest += batch.records
    assert rest == [record for record in whole if record[0] >= start]


def test_the_batch_says_where_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(file_source, "POLL_RECORDS_MAX", 2)
    (tmp_path / "a.ndjson").write_text("1\n2\n3\n")
    made = started(tmp_path / "a.ndjson")
    (batch,) = poll(made)
    assert (len(batch.records), batch.next_offset, made.ended(A)) == (2, 2, False)
    again = started(tmp_path / "a.ndjson", a=batch.next_offset)
    assert values(again) == [b"3"]


def test_a_finite_input_ends_and_says_so(tmp_path):
    (tmp_path / "a.ndjson").write_text("1\n")
    made = started(tmp_path / "a.ndjson")
    assert not made.live
    assert len(poll(made)) == 1
    assert poll(made) == []
    assert made.ended(A)


def test_a_partition_is_not_read_before_it_was_sought_nor_while_paused(tmp_path):
    (tmp_path / "a.ndjson").write_text("1\n")
    made = source(tmp_path / "a.ndjson")
    assert poll(made) == []
    assert not made.ended(A)
    made.seek(A, None)
    assert poll(made, paused=frozenset({A})) == []
    assert len(poll(made)) == 1


def test_seeking_back_reads_again(tmp_path):
    (tmp_path / "a.ndjson").write_text("1\n2\n")
    made = started(tmp_path / "a.ndjson")
    assert values(made) == [b"1", b"2"]
    made.seek(A, 1)
    assert values(made) == [b"2"]


def test_a_line_beyond_the_limit_is_corrupt_and_its_neighbours_survive(tmp_path, monkeypatch):
    monkeypatch.setattr(file_lines, "LINE_BYTES_MAX", 10)
    monkeypatch.setattr("service.ingest.file_bytes.PLAIN_PIECE_BYTES", 4)
    (tmp_path / "a.ndjson").write_bytes(b"one\n" + b"x" * 50 + b"\ntwo\n" + b"y" * 11)
    found = drain(started(tmp_path / "a.ndjson"))[A]
    detail = "line longer than 10 bytes"
    assert found == [
        Record(0, -1, None, b"one"),
        Corrupt(1, 2, detail),
        Record(2, -1, None, b"two"),
        Corrupt(3, 4, detail),
    ]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_damaged_tail_is_one_corrupt_entry_after_what_could_be_read(tmp_path, pack):
    text = b"".join(b"%d %s\n" % (i, os.urandom(20).hex().encode()) for i in range(20_000))
    whole = pack(text)
    half = whole[: len(whole) // 2]
    for name, packed in (("cut", half), ("overwritten", half + b"\xff" * len(half))):
        (tmp_path / name).write_bytes(packed)
        (found,) = drain(started(tmp_path / name)).values()
        *records, corrupt = found
        assert len(records) > 5000
        # gzip notices damage late: its last lines may be noise, which the formats then reject
        assert [record[3] for record in records[:5000]] == text.split(b"\n")[:5000]
        assert isinstance(corrupt, Corrupt)
        assert corrupt[:2] == (len(records), len(records) + 1)
        assert values(started(tmp_path / name, **{name: len(records) + 1})) == []


def test_a_compression_bomb_is_read_in_bounded_pieces(tmp_path):
    bomb = gzip.compress(b"\0" * (100 << 20))
    (tmp_path / "a.ndjson").write_bytes(bomb + gzip.compress(b"\nafter\n"))
    found = drain(started(tmp_path / "a.ndjson"))[A]
    assert [type(item) for item in found] == [Corrupt, Record]


def test_a_missing_path_names_its_place_in_the_configuration(tmp_path):
    with pytest.raises(ConfigError) as caught:
        source(tmp_path / "none", "also-none")
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["source.file.paths[0]", "source.file.paths[1]"]
    assert "No such file or directory" in caught.value.problems[0].message


def test_two_inputs_of_one_name_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.ndjson").write_text("1\n")
    with pytest.raises(ConfigError, match=r'paths\[1\]: another input is also called "a.ndjson"'):
        source(tmp_path / "x" / "a.ndjson", tmp_path / "y" / "a.ndjson")


def test_a_failing_disk_is_unavailable_and_not_a_crash(tmp_path, monkeypatch):
    (tmp_path / "a.ndjson").write_text("1\n")
    made = started(tmp_path / "a.ndjson")

    def fail(records_max: int, bytes_max: int) -> None:
        raise OSError(5, "Input/output error", "a.ndjson")

    monkeypatch.setattr(made._logs[A], "read", fail)
    with pytest.raises(Unavailable, match="Input/output error"):
        poll(made)


# ---- following a file


def test_a_followed_file_gives_lines_as_they_are_finished(tmp_path):
    file = tmp_path / "a.ndjson"
    file.write_text("one\nha")
    made = started(file, follow=True)
    assert made.live
    assert values(made) == [b"one"]
    assert made.ended(A)
    with file.open("a") as log:
        log.write("lf\n")
    assert values(made) == [b"half"]


def test_waiting_for_more_takes_at_most_the_timeout(tmp_path):
    (tmp_path / "a.ndjson").write_text("")
    clock = ManualClock()
    made = source(tmp_path / "a.ndjson", follow=True, clock=clock)
    made.seek(A, None)
    assert made.poll(2, NOBODY) == []
    assert clock.monotonic_s() == 2


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_file_can_be_followed_while_it_is_written(tmp_path, pack):
    text = os.urandom(30_000).hex().encode() + b"\nend\n"
    packed = pack(text)
    (tmp_path / "a.ndjson").write_bytes(packed[:10_000])
    made = started(tmp_path / "a.ndjson", follow=True)
    assert values(made) == []
    with (tmp_path / "a.ndjson").open("ab") as log:
        log.write(packed[10_000:])
    assert values(made) == text.splitlines()


def test_a_truncated_file_is_read_from_its_start_and_said_loudly(tmp_path):
    file = tmp_path / "a.ndjson"
    file.write_text("one\ntwo\n")
    made = started(file, follow=True)
    assert values(made) == [b"one", b"two"]
    file.write_text("new\n")
    with capture_logs() as logged:
        assert drain(made)[A] == [Record(2, -1, None, b"new")]
    assert [(line["log_level"], line["change"]) for line in logged] == [("warning", "truncated")]


def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(tmp_path):
    file = tmp_path / "a.ndjson"
    file.write_text("one\n")
    made = started(file, follow=True)
    assert values(made) == [b"one"]
    with file.open("a") as log:
        log.write("two\nhalf")
    file.rename(tmp_path / "a.ndjson.1")
    file.write_text("three\n")
    with capture_logs() as logged:
        found = drain(made)[A]
    assert [(item[0], item[3]) for item in found] == [(1, b"two"), (2, b"half"), (3, b"three")]
    assert logged[0]["change"] == "replaced"


def test_a_file_shorter_than_its_saved_position_is_read_from_the_start(tmp_path):
    (tmp_path / "a.ndjson").write_text("new\n")
    for follow in (False, True):
        with capture_logs() as logged:
            found = drain(started(tmp_path / "a.ndjson", follow=follow, a=7))[A]
        assert found == [Record(7, -1, None, b"new")]
        assert logged[0]["event"].startswith("file is shorter than its saved position")


# ---- folders


def folder_of(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "log"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


LOG = TopicPartition("log", 0)


def test_a_folder_is_one_log_in_the_order_of_names(tmp_path):
    folder = folder_of(tmp_path, b="3\n", a="1\n2", c="")
    (folder / "d").write_bytes(gzip.compress(b"4\n"))
    (folder / ".hidden").write_text("no\n")
    made = started(folder)
    assert made.assigned() == {LOG}
    found = drain(made)[LOG]
    assert [item[3] for item in found] == [b"1", b"2", b"3", b"4"]
    offsets = [item[0] for item in found]
    assert offsets == sorted(set(offsets))
    assert max(offsets) < 2**63


def test_a_folder_is_resumed_at_any_offset(tmp_path):
    folder = folder_of(tmp_path, a="1\n2\n", b="3\n", c="4\n5\n")
    whole = drain(started(folder))[LOG]
    for i, item in enumerate(whole):
        assert drain(started(folder, log=item[0]))[LOG] == whole[i:]
        assert drain(started(folder, log=item[0] + 1))[LOG] == whole[i + 1 :]


def test_a_followed_folder_gives_growth_and_new_files(tmp_path):
    folder = folder_of(tmp_path)
    made = started(folder, follow=True)
    assert values(made) == []
    (folder / "a").write_text("1\nha")
    assert values(made) == [b"1"]
    with (folder / "a").open("a") as log:
        log.write("lf\nlast")
    (folder / "b").write_text("2\n")
    assert values(made) == [b"half", b"last", b"2"]
    assert made.ended(LOG)


def test_positions_survive_the_deletion_of_older_files(tmp_path):
    folder = folder_of(tmp_path, a="1\n", b="2\n", c="3\n4\n")
    whole = drain(started(folder, follow=True))[LOG]
    (folder / "a").unlink()
    with capture_logs() as logged:
        assert drain(started(folder, follow=True, log=whole[2][0] + 1))[LOG] == whole[3:]
    assert logged[0]["count"] == 1


def test_when_the_file_of_the_position_is_gone_reading_begins_with_what_is_left(tmp_path):
    folder = folder_of(tmp_path, a="1\n", b="2\n")
    whole = drain(started(folder))[LOG]
    (folder / "a").unlink()
    with capture_logs() as logged:
        found = drain(started(folder, log=whole[0][0] + 1))[LOG]
    assert [item[3] for item in found] == [b"2"]
    assert found[0][0] > whole[0][0]
    assert "is gone" in logged[0]["event"]


def test_a_file_that_appears_out_of_order_or_is_rewritten_is_named_and_not_read(tmp_path):
    folder = folder_of(tmp_path, b="1\n2\n")
    made = started(folder, follow=True)
    assert values(made) == [b"1", b"2"]
    with capture_logs() as logged:
        (folder / "a").write_text("too early\n")
        (folder / "b").write_text("3\n")
        assert values(made) == []
        (folder / "c").write_text("4\n")
        assert values(made) == [b"4"]
    assert {line["file"] for line in logged} == {"a", "b"}


def test_captures_in_a_folder_are_logs_of_their_own(tmp_path):
    folder = folder_of(tmp_path, x="1\n", y=captured(2, 7))
    assert source(folder).assigned() == {LOG, TopicPartition("y", 2)}


# ---- Parquet


def parquet_file(path: Path, rows: int = 3, **columns: object) -> Path:
    table = pa.table(
        {
            "ts": pa.array([1_700_000_000_000_000_000 + i for i in range(rows)], pa.timestamp("ns", "UTC")),
            "uuid": [f"GPU-{i}" for i in range(rows)],
            "util_ratio": [None if i == 1 else i / 10 for i in range(rows)],
            **columns,
        }
    )
    pq.write_table(table, path, row_group_size=2)
    return path


def test_parquet_rows_are_native_records(tmp_path):
    made = started(parquet_file(tmp_path / "a.parquet", mem=[1, 2, 3]))
    (records,) = drain(made).values()
    assert [record[0] for record in records] == [0, 1, 2]
    assert json.loads(records[0][3]) == {
        "ts": 1_700_000_000_000_000_000,
        "uuid": "GPU-0",
        "util_ratio": 0.0,
        "mem": 1,
    }
    assert "util_ratio" not in json.loads(records[1][3])
    sample = Native().parse(records[2]).samples[0]
    assert sample.event_time_ns == 1_700_000_000_000_000_002
    assert sample.values == {"util_ratio": 0.2, "mem": 3.0}


@pytest.mark.parametrize("start", range(6))
def test_parquet_is_resumed_at_a_row(tmp_path, start):
    parquet_file(tmp_path / "a.parquet", rows=5)
    (records,) = drain(started(tmp_path / "a.parquet", a=start)).values()
    assert [record[0] for record in records] == list(range(start, 5))


def test_a_file_that_only_claims_to_be_parquet_is_one_corrupt_entry(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    (found,) = drain(started(tmp_path / "a.parquet")).values()
    assert found[0][:2] == (0, 1)
    assert "not a readable Parquet file" in found[0][2]


def test_parquet_without_timestamps_in_nanoseconds_is_converted(tmp_path):
    table = pa.table({"ts": pa.array([1_700_000_000_000], pa.timestamp("ms")), "uuid": ["GPU-0"], "util": [50]})
    pq.write_table(table, tmp_path / "a.parquet")
    (value,) = values(started(tmp_path / "a.parquet"))
    assert json.loads(value or b"")["ts"] == 1_700_000_000_000_000_000


# ---- captures


def test_a_capture_gives_its_partitions_with_their_own_offsets(tmp_path):
    lines = [
        captured(0, 4),
        captured(0, 5, None, key_b64="a2V5"),
        captured(3, 0, headers=[["h", "aA=="]]),
    ]
    (tmp_path / "c").write_text("\n".join(lines) + "\n")
    made = started(tmp_path / "c")
    assert drain(made) == {
        TopicPartition("c", 0): [Record(4, 5, None, b"v"), Record(5, 5, b"key", None)],
        TopicPartition("c", 3): [Record(0, 5, None, b"v", (("h", b"h"),))],
    }


def test_topics_of_one_capture_are_told_apart(tmp_path):
    lines = [captured(0, 0, topic="x"), captured(0, 0, topic="y")]
    (tmp_path / "c").write_text("\n".join(lines))
    assert source(tmp_path / "c").assigned() == {TopicPartition("c/x", 0), TopicPartition("c/y", 0)}


def test_a_capture_is_resumed_per_partition(tmp_path):
    lines = [captured(p, offset) for p in (0, 1) for offset in (3, 4, 8)]
    (tmp_path / "c").write_text("\n".join(lines))
    made = source(tmp_path / "c")
    made.seek(TopicPartition("c", 0), 4)
    made.seek(TopicPartition("c", 1), 9)
    found = drain(made)
    assert [record[0] for record in found[TopicPartition("c", 0)]] == [4, 8]
    assert found[TopicPartition("c", 1)] == []


def test_partitions_of_a_capture_may_be_mixed(tmp_path):
    lines = [captured(i % 2, i // 2) for i in range(10)]
    (tmp_path / "c").write_text("\n".join(lines))
    found = drain(started(tmp_path / "c"))
    assert [[record[0] for record in records] for records in found.values()] == [[0, 1, 2, 3, 4]] * 2


def test_bad_lines_of_a_capture_are_gaps_in_the_offsets_of_their_partition(tmp_path):
    lines = [
        captured(0, 3),
        "{broken",
        captured(0, 5).replace('"v', '"!').replace("dg==", "=dg="),
        captured(0, 7),
        captured(1, 0),
        "junk",
    ]
    (tmp_path / "c").write_text("\n".join(lines))
    for start in (None, 4):
        made = source(tmp_path / "c")
        for partition in made.assigned():
            made.seek(partition, start if partition.partition == 0 else None)
        found = drain(made)
        zero = [item for item in found[TopicPartition("c", 0)] if item[0] > 3]
        assert [item[:2] for item in zero if isinstance(item, Unplaced)] == [(4, b"{broken"), (5, lines[2].encode())]
        assert "line 2: not a captured record" in zero[0][2]
        assert zero[2] == Record(7, 5, None, b"v")
        one = found[TopicPartition("c", 1)]
        assert one[0] == Record(0, 5, None, b"v")
        assert one[1][:2] == (1, b"junk")


def test_a_cut_off_packed_capture_gives_what_can_be_read_and_one_gap(tmp_path):
    text = "\n".join(captured(0, i, os.urandom(50).hex()) for i in range(2000)).encode()
    packed = gzip.compress(text)
    (tmp_path / "c").write_bytes(packed[: len(packed) // 2])
    (found,) = drain(started(tmp_path / "c")).values()
    assert [item[0] for item in found[:-1]] == list(range(len(found) - 1))
    assert len(found) > 500
    assert isinstance(found[-1], Corrupt)


def test_offsets_that_go_back_are_reported_and_not_delivered_twice(tmp_path):
    (tmp_path / "c").write_text("\n".join([captured(0, 5), captured(0, 4), captured(0, 6)]))
    (found,) = drain(started(tmp_path / "c")).values()
    assert [item[0] for item in found if isinstance(item, Record)] == [5, 6]
    (unplaced,) = [item for item in found if isinstance(item, Unplaced)]
    assert "offset 4: expected 6 or more" in unplaced.detail


def test_a_real_capture_is_read_record_by_record():
    file = CAPTURES / "tel-json-v1.records.ndjson.gz"
    expected: dict[tuple[int, int], bytes] = {}
    for line in gzip.decompress(file.read_bytes()).splitlines():
        row = json.loads(line)
        expected[row["partition"], row["offset"]] = base64.b64decode(row["value_b64"])
    found = drain(started(file))
    assert {(name.partition, item[0]): item[3] for name, items in found.items() for item in items} == expected


# ---- standard input


@pytest.fixture
def pipe(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr("service.ingest.file_source.StdinBytes", lambda: file_source_stdin(reader))
    yield writer
    while OPEN:
        OPEN.pop().close()
    os.close(reader)


def file_source_stdin(descriptor: int):
    from service.ingest.file_bytes import StdinBytes

    return StdinBytes(descriptor)


def test_standard_input_is_read_as_it_comes_and_ends_with_its_writer(pipe):
    made = started("-")
    os.write(pipe, b"one\ntw")
    (batch,) = poll(made)
    assert (batch.topic, [record.value for record in batch.records]) == ("stdin", [b"one"])
    assert poll(made) == []
    os.write(pipe, b"o\nlast")
    os.close(pipe)
    assert values(made) == [b"two", b"last"]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_standard_input_is_unpacked_however_it_is_cut_into_pieces(pipe, pack):
    made = started("-")
    packed = pack(b"one\ntwo\n")
    for cut in (1, 2, 3, 4, 5, len(packed)):
        os.write(pipe, packed[cut - 1 : cut] if cut <= 5 else packed[5:])
        if cut <= 5:
            assert poll(made) == []
    os.close(pipe)
    assert values(made) == [b"one", b"two"]


def test_standard_input_that_looks_packed_for_one_byte_only_is_plain(pipe):
    made = started("-")
    os.write(pipe, b"(")
    assert poll(made) == []
    os.close(pipe)
    assert values(made) == [b"("]


def test_packed_standard_input_that_breaks_off_says_so(pipe):
    made = started("-")
    os.write(pipe, gzip.compress(b"one\n" * 100)[:-9])
    os.close(pipe)
    (found,) = drain(made).values()
    assert "ends in the middle of its compressed data" in str(found[-1])


def test_a_writer_that_pauses_has_not_ended(pipe):
    made = started("-")
    (partition,) = made.assigned()
    assert poll(made) == []
    assert not made.ended(partition)
    os.write(pipe, b"one\n")
    os.close(pipe)
    assert values(made) == [b"one"]
    assert made.ended(partition)


def test_standard_input_goes_on_under_further_offsets_after_a_restart(pipe):
    made = started("-", stdin=7)
    os.write(pipe, b"one\n")
    os.close(pipe)
    (found,) = drain(made).values()
    assert found == [Record(7, -1, None, b"one")]
