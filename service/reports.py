"""What commands compute and print: replays, simulations and their evaluation."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from service import app
from service.clock import Clock, SystemClock
from service.config import Configuration
from service.errors import ConfigError, ConfigProblem
from service.ingest.simulate.evaluate import Evaluation, evaluate, read_intervals
from service.ingest.simulate.produce import FileSink, KafkaSink, ending_now, produce
from service.ingest.simulate.source import SimulateSource
from service.settings import KafkaSettings, SimulateSettings
from service.writable import why_no_file

EVALUATION_START_NS = 1_790_000_000 * 10**9
WIDTH = 200  # of tables in files and pipes


def console() -> Console:
    """Return standard output for tables: as wide as the terminal, or wide enough for any where there is none."""
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console() if terminal else Console(width=WIDTH)


def print_replay(summary: Mapping[str, Any], out: Path, output: str) -> None:
    """Print a replay's summary as a table or as JSON."""
    if output == "json":
        typer.echo(json.dumps(summary, sort_keys=True))
        return
    table = Table("replay", str(out), title_justify="left")
    for name in (
        "records",
        "rows",
        "entities",
        "entities_without_price",
        "ticks",
        "alerts",
        "waste_usd",
        "rows_per_s",
        "state_hash",
    ):
        table.add_row(name, str(summary[name]))
    for reason, count in summary["rejects_by_reason"].items():
        table.add_row(f"rejected: {reason}", str(count))
    for state, hours in summary["hours_in_state"].items():
        table.add_row(f"GPU-hours {state}", f"{hours:.2f}")
    console().print(table)


def produce_simulation(
    fleet: SimulateSettings,
    scenario: str,
    wire: str,
    out: Path | None,
    kafka: KafkaSettings,
    topic: str,
    clock: Clock,
) -> int:
    """Write a simulated fleet to a file or a topic; return how many messages."""
    problems = []
    if bool(out) == bool(topic):
        problems.append(ConfigProblem("--out, --topic", "expected one of the two"))
    for option, path in (("--out", out), ("--truth", Path(fleet.truth_file) if fleet.truth_file else None)):
        if path is not None and (why := why_no_file(path)):
            problems.append(ConfigProblem(option, f"{path} cannot be written: {why}; expected a file"))
    if problems:
        raise ConfigError(problems)
    source = ending_now(fleet, clock, scenario)
    sink = FileSink(out, capture=wire != "native") if out else KafkaSink(kafka, topic)
    return produce(source, wire, sink, lambda _: None)


def fleet_of(base: SimulateSettings, options: Mapping[str, Any]) -> SimulateSettings:
    """Return `base` with the options over it. Raises ConfigError with every option that is out of bounds."""
    try:
        return SimulateSettings.model_validate({**base.model_dump(), **options}, strict=True)
    except ValidationError as error:
        raise ConfigError(
            [ConfigProblem(f"--{detail['loc'][0]}".replace("_", "-"), detail["msg"]) for detail in error.errors()]
        ) from error


def evaluate_simulation(
    settings: Configuration, fleet: SimulateSettings, scenario: str, settle_s: float
) -> dict[str, Any]:
    """Run one simulated fleet through the pipeline and score it; also counts the idle findings."""
    clock = SystemClock()
    source = SimulateSource(fleet, clock, scenario, start_ns=EVALUATION_START_NS)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        summary = app.replay_source(settings, source, out, clock)
        found = list(read_intervals(out / "intervals.ndjson"))
        alerts = [json.loads(line) for line in (out / "alerts.ndjson").open(encoding="utf-8")]
    end_ns = int(summary["as_of_ns"])
    truth = list(source.truth.rows(source.entities, source.start_ns, end_ns))
    idle = ("truly_idle", "idle_held", "unallocated")
    fired = [alert for alert in alerts if alert["status"] == "firing"]
    return {
        "evaluation": evaluate(truth, found, settle_s),
        "idle_alerts": sum(alert["kind"] in idle for alert in fired),
        "alerts": len(fired),
    }


def print_scores(results: Mapping[int, Mapping[str, Any]], output: str) -> None:
    """Print precision and recall per state and seed, as tables or as JSON."""
    if output == "json":
        typer.echo(json.dumps({seed: _scores_json(result) for seed, result in results.items()}))
        return
    screen = console()
    for seed, result in results.items():
        evaluation: Evaluation = result["evaluation"]
        table = Table(
            "state", "precision", "recall", "GPU-hours", "precision, raw", "recall, raw",
            title=f"seed {seed}: settled {evaluation.settle_s:g} s after each change; "
            f"{result['alerts']} alerts, {result['idle_alerts']} of them idle or unallocated",
        )  # fmt: skip
        raw = {score.state: score for score in evaluation.raw}
        for score in evaluation.settled:
            table.add_row(
                score.state, _share(score.precision), _share(score.recall),
                f"{score.support_s / 3600:.1f}", _share(raw[score.state].precision), _share(raw[score.state].recall),
            )  # fmt: skip
        screen.print(table)


def _scores_json(result: Mapping[str, Any]) -> dict[str, Any]:
    evaluation: Evaluation = result["evaluation"]
    return {
        "idle_alerts": result["idle_alerts"],
        "alerts": result["alerts"],
        "states": {score.state: score._asdict() for score in evaluation.settled},
        "raw": {score.state: score._asdict() for score in evaluation.raw},
    }


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
