"""Captures that something went wrong with: every line is a record or has a dead letter, at its place, exactly once."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.app import run_replay
from service.clock import SystemClock
from service.ingest import capture_file
from service.ingest.capture_file import CaptureLog, is_capture, parts
from service.ingest.contract import RecordBatch
from service.pipeline.intake import Intake
from tests.service.ingest.decoding import TOPIC, Bench, golden
from tests.service.pipeline.stream import configuration, worker

GOOD = golden("native")[0].strip()
HUGE = 10**30


def line(offset: object, partition: object = 0, timestamp: object = -1, value: bytes = GOOD) -> str:
    place = {"partition": partition, "offset": offset, "timestamp": timestamp}
    return json.dumps({**place, "key_b64": None, "value_b64": base64.b64encode(value).decode(), "headers": []})


def capture(folder: Path, *lines: str) -> Path:
    path = folder / "c.ndjson"
    path.write_text("\n".join(lines) + "\n")
    return path


def replayed(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = path.parent / "out"
    summary = run_replay(configuration(), [str(path)], out, SystemClock())
    return summary, [json.loads(text) for text in (out / "dead_letters.ndjson").read_text().splitlines()]


@pytest.mark.parametrize(
    "bad, expected",
    [
        (line(2**63), "<= 9223372036854775806 - at `$.offset`"),
        (line(2**63 - 1), "<= 9223372036854775806 - at `$.offset`"),
        (line(HUGE), "<= 9223372036854775806 - at `$.offset`"),
        (line(-1), ">= 0 - at `$.offset`"),
        (line(-(2**70)), ">= 0 - at `$.offset`"),
        (line("7"), "Expected `int`, got `str` - at `$.offset`"),
        (line(7.5), "Expected `int`, got `float` - at `$.offset`"),
        (line(6), "offset 6: expected 7 or more"),
        (line(7, timestamp=HUGE), "<= 9223372036854775807 - at `$.timestamp`"),
        (line(7, timestamp=-2), ">= -1 - at `$.timestamp`"),
        (line(7, partition=HUGE), "<= 2147483647 - at `$.partition`"),
        (line(7, partition=-1), ">= 0 - at `$.partition`"),
        (line(7).replace('value_b64": "', 'value_b64": "='), "$.value_b64"),
        ("{torn", "not a captured record"),
    ],
)
@pytest.mark.parametrize("lines_before", [0, 1])
def test_a_line_with_an_impossible_coordinate_becomes_a_letter_at_its_place(
    bad: str, expected: str, lines_before: int, tmp_path: Path
) -> None:
    if "7 or more" in expected and not lines_before:
        lines_before = 1  # nothing goes back at the beginning
    good = [line(6), line(7)]
    summary, (letter,) = replayed(capture(tmp_path, *good[:lines_before], bad, *good[lines_before:]))
    assert summary["outcomes"]["accepted"] == 2
    assert summary["outcomes"]["rejected"] == 1
    assert summary["rejects_by_reason"] == {"malformed": 1}
    assert expected in letter["detail"]
    assert letter["detail"].startswith(f"line {lines_before + 1}: ")
    assert (letter["topic"], letter["partition"]) == ("c.ndjson", 0)
    assert letter["offset"] == (7 if lines_before else 0)
    assert base64.b64decode(letter["value_b64"]) == bad.encode()


def test_the_greatest_offset_and_a_timestamp_of_none_are_possible(tmp_path: Path) -> None:
    summary, letters = replayed(capture(tmp_path, line(0), line(2**63 - 2, 2**31 - 1)))
    assert summary["outcomes"]["accepted"] == 2
    assert letters == []


def test_a_line_is_charged_to_the_partition_that_it_names(tmp_path: Path) -> None:
    _, letters = replayed(capture(tmp_path, line(0, 3), line(-1, 5), line(0, 3, timestamp=-9), "{", line(4, 5)))
    assert [(letter["partition"], letter["detail"].partition(":")[0]) for letter in letters] == [
        (3, "line 3"), (3, "line 4"), (5, "line 2"),
    ]  # fmt: skip


def test_a_letter_before_a_record_and_that_records_own_letter_are_two(tmp_path: Path) -> None:
    bad_value = line(1, value=b"nonsense")
    summary, letters = replayed(capture(tmp_path, line(0), line(-1), bad_value, line(2)))
    assert [(letter["offset"], letter["reason"]) for letter in letters] == [(1, "malformed"), (1, "not_recognised")]
    assert summary["outcomes"]["rejected"] == summary["outcomes"]["accepted"] == 2


@pytest.mark.parametrize("first", ["{torn", line(2**64, 1), line(0, HUGE), "", "null", line("x", "y")])
def test_a_capture_whose_first_line_is_bad_is_one_all_the_same(first: str, tmp_path: Path) -> None:
    path = capture(tmp_path, first, line(3, 1), line(4, 1))
    assert is_capture(path)
    summary, letters = replayed(path)
    assert summary["outcomes"]["accepted"] == 2
    assert [(x["partition"], x["offset"], x["reason"]) for x in letters] == ([(1, 0, "malformed")] if first else [])


def test_a_file_of_telemetry_is_no_capture(tmp_path: Path) -> None:
    path = tmp_path / "telemetry"
    path.write_bytes(b"{torn\n" * 9 + GOOD)
    assert not is_capture(path)


def test_a_capture_without_one_good_line_is_all_letters(tmp_path: Path) -> None:
    summary, letters = replayed(capture(tmp_path, line(0, HUGE), line(0, HUGE)))
    assert summary["records"] == 2
    assert [letter["detail"].partition(":")[0] for letter in letters] == ["line 1", "line 2"]


BAD = ("{", line(-1), line(HUGE), line(1, timestamp=HUGE), line(0))


def read_on(log: CaptureLog, start: int | None, lines_max: int) -> list[RecordBatch]:
    log.seek(start)
    batches = []
    while not log.ended:
        if batch := log.read(lines_max, 1 << 20):
            batches.append(batch)
    return batches


def told(batches: list[RecordBatch]) -> list[tuple[int, str]]:
    """Return records by offset and bad lines by their text, in order."""
    return [
        item
        for batch in batches
        for item in sorted(
            [(record.offset, "") for record in batch.records] + [(bad.offset, bad.detail) for bad in batch.unplaced],
            key=lambda item: (item[0], not item[1]),
        )
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    script=st.lists(st.one_of(st.integers(1, 3), st.sampled_from(BAD)), max_size=12),
    lines_max=st.integers(1, 5),
    cut=st.integers(0, 12),
)
def test_every_line_is_told_exactly_once_also_when_reading_goes_on_after_a_restart(
    tmp_path: Path, script: list[int | str], lines_max: int, cut: int
) -> None:
    lines, offset = [line(0)], 0
    for item in script:
        offset += item if isinstance(item, int) else 0
        lines.append(line(offset) if isinstance(item, int) else item)
    path = capture(tmp_path, *lines)
    (part,) = parts(path)
    log = CaptureLog("c", path, part)
    whole = read_on(log, None, lines_max)
    assert len(told(whole)) == len(lines)
    cut = min(cut, len(whole))
    start = whole[cut - 1].next_offset if cut else None
    resumed = whole[:cut] + read_on(log, start, 3)
    assert told(resumed) == told(whole)


def test_a_flood_of_bad_lines_is_handed_over_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = capture(tmp_path, line(0), *["{"] * 3 * capture_file._BAD_LINES_MAX, line(1))
    (part,) = parts(path)
    batches = read_on(CaptureLog("c", path, part), None, 500)
    sizes = [len(batch.unplaced) for batch in batches]
    assert sum(sizes) == 3 * capture_file._BAD_LINES_MAX
    assert max(sizes) <= capture_file._BAD_LINES_MAX + 500
    assert batches[-1].next_offset == 2


def test_the_breaker_sees_bad_lines_where_they_lie_among_the_records(tmp_path: Path) -> None:
    path = capture(tmp_path, line(0), "{", line(1), line(2, value=b"?"), "{", "{", line(9), "{")
    (part,) = parts(path)
    (batch,) = read_on(CaptureLog(TOPIC, path, part), None, 100)
    bench = Bench()
    intake = Intake(bench.decoder, worker(configuration(), bench.label_sets), configuration().ingest, None)
    letters = intake.take(batch, intake.decode(batch))
    assert letters.records == 8
    assert [place for place, _ in letters.poison()] == [1, 3, 4, 5, 7]
