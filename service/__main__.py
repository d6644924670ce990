"""The command line: arguments in, exit code out; everything else is built in app.py."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from service import app, config
from service.checks import Use, load
from service.clock import SystemClock
from service.config import Configuration
from service.errors import ConfigError, ConfigProblem, CorruptState, FloodOfPoison, Unavailable
from service.ingest.kafka_capture import capture as capture_records
from service.ingest.kafka_group import FencedMember
from service.ingest.simulate.evaluate import SETTLE_S
from service.logs import configure, get_logger, quieten_client
from service.options import (
    NODES,
    ConfigFile,
    Invocation,
    OutputFormat,
    ScenarioName,
    Wire,
    finite,
    refuse_unless_seeds,
)
from service.reports import console, evaluate_simulation, fleet_of, print_replay, print_scores, produce_simulation
from service.settings import LogSettings, SimulateSettings
from service.writable import why_not_writable

log = get_logger(__name__)
cli = typer.Typer(
    name="skinflint",
    help="Which GPUs are wasted, who pays, what to change: streaming FinOps for AI and GPU fleets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

STOP_MAX_S = 9.5
EXIT_ERROR, EXIT_CONFIG, EXIT_FLOOD, EXIT_CORRUPT = 1, 2, 3, 4


def _config_file(given: Path | None) -> Path | None:
    standard = Path("config.yaml")
    return standard if given is None and standard.is_file() else given


def _load(config_file: Path | None, use: Use = Use.NOTHING) -> Configuration:
    return load(_config_file(config_file), os.environ, use, SystemClock())


@cli.command()
def run(config_file: ConfigFile = None) -> None:
    """Run the service until it is told to stop."""
    settings = _load(config_file, Use.SERVICE)
    configure(settings.log)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold every secret
    stop = threading.Event()

    def ask_to_stop(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        # Whatever hangs on the way out, the checkpoint is the truth: nothing is lost by leaving.
        last_resort = threading.Timer(STOP_MAX_S, os._exit, (EXIT_ERROR,))
        last_resort.daemon = True
        last_resort.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    try:
        app.run_service(settings, SystemClock(), stop)
    except ConfigError as error:  # a port or folder that somebody else holds: known only now, but set in a line too
        raise config.placed(error, _config_file(config_file), os.environ, app.configuration_type()) from error
    log.info("stopped")


def _configure_quietly(settings: Configuration) -> None:
    """Log what a person must know while a command works; the client's chatter belongs to the service's log."""
    if settings.log.level == "info":
        configure(settings.log.model_copy(update={"level": "warning"}))
        quieten_client()
    else:
        configure(settings.log)


@cli.command()
def replay(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, capture files, or - for stdin.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    config_file: ConfigFile = None,
    output: OutputFormat = "text",
) -> None:
    """Run the same pipeline over recorded input at full speed; the same input gives the same bytes."""
    settings = _load(config_file)
    _configure_quietly(settings)
    if why := why_not_writable(out):
        raise ConfigError([ConfigProblem("--out", f"{out} cannot be written: {why}; expected a folder")])
    with Console(stderr=True).status("replaying") as status:

        def show(records: int, as_of_ns: int) -> None:
            reached = datetime.fromtimestamp(as_of_ns / 1e9, UTC)
            status.update(f"replaying: {records:,} records, event time {reached:%Y-%m-%d %H:%M}")

        summary = app.run_replay(settings, inputs, out, SystemClock(), show)
    print_replay(summary, out, output)


@cli.command()
def simulate(
    config_file: ConfigFile = None,
    duration_s: Annotated[float, typer.Option(help="Event time to simulate.", min=1, callback=finite)] = 3600,
    nodes: Annotated[int | None, NODES] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.", min=0)] = None,
    scenario: ScenarioName = "fleet",
    wire: Wire = "native",
    out: Annotated[Path | None, typer.Option("--out", help="Write records to this file.")] = None,
    topic: Annotated[str, typer.Option(help="Produce to this topic of source.kafka instead.")] = "",
    truth: Annotated[Path | None, typer.Option(help="Write the ground truth to this file.")] = None,
) -> None:
    """Write a simulated fleet's telemetry, up to now, to a file or to Kafka, in any of the wire formats."""
    settings = _load(config_file, Use.KAFKA if topic else Use.NOTHING)
    _configure_quietly(settings)
    changes: dict[str, Any] = {"duration_s": duration_s, "speed": 0, "truth_file": str(truth or "")}
    changes |= {k: v for k, v in (("nodes", nodes), ("seed", seed)) if v is not None}
    fleet = fleet_of(settings.source.simulate, changes)
    count = produce_simulation(fleet, scenario, wire, out, settings.source.kafka, topic, SystemClock())
    typer.echo(f"{count} messages written", err=True)


@cli.command()
def evaluate(
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.", callback=refuse_unless_seeds)] = "1,2,3",
    nodes: Annotated[int, NODES] = 32,
    hours: Annotated[float, typer.Option(help="Event time of each run.", min=0.1, callback=finite)] = 8,
    scenario: ScenarioName = "fleet",
    settle_s: Annotated[
        float, typer.Option(help="Time after each change that is not judged.", min=0, callback=finite)
    ] = SETTLE_S,
    config_file: ConfigFile = None,
    output: OutputFormat = "text",
) -> None:
    """Run the detectors over simulated fleets and compare with the ground truth, state by state."""
    settings = _load(config_file)
    configure(settings.log.model_copy(update={"level": "warning"}))
    fleets = {
        int(seed): fleet_of(
            SimulateSettings(), {"nodes": nodes, "seed": int(seed), "duration_s": hours * 3600, "speed": 0}
        )
        for seed in seeds.split(",")
    }
    results = {seed: evaluate_simulation(settings, fleet, scenario, settle_s) for seed, fleet in fleets.items()}
    print_scores(results, output)


@cli.command()
def capture(
    topics: Annotated[list[str], typer.Argument(help="Topics to read.")],
    out: Annotated[Path, typer.Option("--out", help="Capture file; .gz and .zst are compressed.")],
    max_records: Annotated[int | None, typer.Option(help="Stop after so many records.", min=1)] = None,
    start: Annotated[Literal["earliest", "latest"], typer.Option("--from", help="Where to begin.")] = "earliest",
    follow: Annotated[bool, typer.Option(help="Go on past the present end.")] = False,
    config_file: ConfigFile = None,
) -> None:
    """Copy records of Kafka topics into a capture file that `replay` reads."""
    settings = _load(config_file, Use.KAFKA)
    _configure_quietly(settings)
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    count = capture_records(
        settings.source.kafka, topics, out, SystemClock(),
        records_max=max_records, start=start, follow=follow, stopped=stop.is_set,
    )  # fmt: skip
    typer.echo(f"{count} records written to {out}", err=True)


@cli.command("compile")
def compile_command(config_file: ConfigFile = None) -> None:
    """Compile every kernel and keep the machine code, as the build of an image does; a start then takes seconds less."""
    folder = app.compile_kernels(_load(config_file))
    if folder is None:
        raise Unavailable(
            "compiled kernels could be kept nowhere: expected NUMBA_CACHE_DIR to name a folder to write to"
        )
    typer.echo(f"compiled kernels are in {folder}")


@cli.command("check-config")
def check_config(config_file: ConfigFile = None, output: OutputFormat = "text") -> None:
    """Check the configuration and say everything that is wrong with it."""
    _load(config_file, Use.SERVICE)
    if output == "json":
        typer.echo(json.dumps({"valid": True, "problems": []}))
        return
    typer.echo("the configuration is valid")


@cli.command("print-config")
def print_config(config_file: ConfigFile = None) -> None:
    """Print the effective configuration as JSON; secrets are stars."""
    typer.echo(json.dumps(config.redacted(_load(config_file)), indent=2))


@cli.command("config-schema")
def config_schema() -> None:
    """Print the JSON schema of config.yaml, for editors."""
    typer.echo(json.dumps(config.schema(app.configuration_type()), indent=2))


@cli.command("config-document")
def config_document(
    markdown: Annotated[bool, typer.Option(help="The reference as Markdown.")] = False,
) -> None:
    """Print the documented default configuration, as it stands in config.yaml."""
    render = config.reference if markdown else config.document
    typer.echo(render(app.configuration_type()), nl=False)


@cli.command()
def version(output: OutputFormat = "text") -> None:
    """Print the version, and those of the parts that matter when something is wrong."""
    names = ("skinflint", "kafka-python", "numba", "numpy")
    found = {name: package_version(name) for name in names} | {"python": sys.version.split()[0]}
    if output == "json":
        typer.echo(json.dumps(found))
        return
    table = Table("part", "version")
    for name, number in found.items():
        table.add_row(name, number)
    console().print(table)


def _print_problems(problems: list[ConfigProblem], output: str) -> None:
    if output == "json":
        document = {"valid": False, "problems": [
            {"file": p.file, "line": p.line, "path": p.path, "message": p.message} for p in problems
        ]}  # fmt: skip
        typer.echo(json.dumps(document))
        return
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)


def main() -> None:
    """Run the command line; what ends it decides the exit code: 0 well, 1 bug, 2 configuration, 3 flood, 4 state."""
    invocation = Invocation()
    try:
        cli(obj=invocation)
    except ConfigError as error:
        _print_problems(error.problems, invocation.output)
        sys.exit(EXIT_CONFIG)
    except FloodOfPoison as error:
        typer.echo(f"error: the breaker is open: {error}", err=True)
        sys.exit(EXIT_FLOOD)
    except (Unavailable, FencedMember) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_ERROR)
    except CorruptState as error:
        typer.echo(f"error: saved state cannot be used: {error}", err=True)
        sys.exit(EXIT_CORRUPT)


if __name__ == "__main__":
    configure(LogSettings())
    main()
