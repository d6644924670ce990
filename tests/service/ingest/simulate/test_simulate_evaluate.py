"""Scores: GPU-seconds by state, what is left out, and what counts as wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.ingest.simulate.evaluate import StateScore, evaluate, read_intervals
from service.ingest.simulate.truth import TruthRow

S = 10**9


def row(state: str, start_s: float, end_s: float, trouble: str = "", key: str = "GPU-a") -> TruthRow:
    return TruthRow(key, state, round(start_s * S), round(end_s * S), trouble)


def score(scores: list[StateScore], state: str) -> StateScore:
    return next(score for score in scores if score.state == state)


def test_what_agrees_throughout_scores_one() -> None:
    truth = [row("active", 0, 1000), row("idle_held", 1000, 3000)]
    result = evaluate(truth, truth, settle_s=300)
    assert score(result.settled, "idle_held") == StateScore("idle_held", 1700, 1700, 1700, 1.0, 1.0)
    assert score(result.raw, "idle_held").support_s == 2000
    assert result.accuracy() == 1.0
    assert result.false_waste_s() == 0


def test_a_late_finding_costs_raw_recall_but_nothing_once_settled() -> None:
    truth = [row("active", 0, 1000), row("idle_held", 1000, 3000)]
    found = [row("active", 0, 1250), row("idle_held", 1250, 3000)]
    result = evaluate(truth, found, settle_s=300)
    assert score(result.settled, "idle_held").recall == 1.0
    assert score(result.raw, "idle_held").recall == pytest.approx(0.875)
    assert score(result.raw, "active").precision == pytest.approx(0.8)


def test_a_wrong_finding_costs_one_state_recall_and_the_other_precision() -> None:
    result = evaluate([row("active", 0, 1000)], [row("active", 0, 600), row("truly_idle", 600, 1000)], settle_s=0)
    assert score(result.settled, "active").recall == pytest.approx(0.6)
    assert score(result.settled, "truly_idle").precision == 0.0
    assert score(result.settled, "truly_idle").recall is None
    assert result.false_waste_s() == 400
    assert result.confusion == {("active", "active"): 600, ("active", "truly_idle"): 400}


def test_time_without_a_finding_is_unknown_up_to_the_end_of_what_was_seen() -> None:
    truth = [row("active", 0, 1000), row("active", 0, 1000, key="GPU-b")]
    result = evaluate(truth, [row("active", 100, 800)], settle_s=0)
    assert score(result.settled, "active").support_s == 1600
    assert score(result.settled, "unknown").claimed_s == 900
    assert score(evaluate(truth, [], settle_s=0, until_ns=500 * S).settled, "unknown").claimed_s == 1000


def test_a_row_that_goes_on_under_a_trouble_is_no_change_to_settle_after() -> None:
    truth = [row("active", 0, 1000), row("active", 1000, 2000, "lost_labels"), row("active", 2000, 3000)]
    result = evaluate(truth, [row("active", 0, 3000)], settle_s=300)
    assert score(result.settled, "active").support_s == 2700
    assert [(t.trouble, t.support_s, t.recall) for t in result.troubles] == [
        ("", 1700, 1.0),
        ("lost_labels", 1000, 1.0),
    ]


def test_under_frozen_telemetry_both_answers_are_right_but_waste_is_not() -> None:
    truth = [row("active", 0, 900, "frozen_exporter")]
    found = [row("active", 0, 300), row("unknown", 300, 600), row("idle_held", 600, 900)]
    result = evaluate(truth, found, settle_s=0)
    assert score(result.settled, "active").support_s == 600
    assert result.false_waste_s() == 300


def test_overlapping_rows_of_other_gpus_do_not_matter_and_order_does_not_either() -> None:
    truth = [row("idle_held", 500, 900), row("active", 0, 500), row("hung_collective", 0, 900, key="GPU-b")]
    assert evaluate(truth, truth[::-1], settle_s=0).accuracy() == 1.0


def test_a_state_that_nobody_knows_counts_as_unknown() -> None:
    result = evaluate([row("unknown", 0, 100, "false_zeros")], [row("telemetry_disagreement", 0, 100)], settle_s=0)
    assert score(result.settled, "unknown").recall == 1.0


def test_the_table_has_a_line_for_every_state_and_the_document_is_json() -> None:
    result = evaluate([row("active", 0, 7200)], [row("active", 0, 7200)], settle_s=0)
    lines = result.table()
    assert lines[0][:4] == ("state", "GPU-hours", "precision", "recall")
    assert ("active", "2.0", "1.000", "1.000", "1.000", "1.000") in lines
    assert ("idle_held", "0.0", "-", "-", "-", "-") in lines
    assert result.document()["accuracy"] == 1.0


def test_rows_are_read_from_files_and_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "truth.ndjson"
    path.write_text(row("active", 1, 2, "xid").line() + '{"entity_key":"b","state":"active","start_ns":0,"end_ns":9}\n')
    assert list(read_intervals(path)) == [row("active", 1, 2, "xid"), TruthRow("b", "active", 0, 9, "")]
    path.write_text('{"entity_key":"b"}\n')
    with pytest.raises(ValueError, match=r"truth\.ndjson:1: expected entity_key"):
        list(read_intervals(path))
