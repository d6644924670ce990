"""Options of the command line that several commands share, and what makes one an error of usage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from service.ingest.simulate.produce import PRODUCE_FORMATS
from service.ingest.simulate.source import Scenario


@dataclass(slots=True)
class Invocation:
    """What `main` must know of a command that failed."""

    output: str = "text"


def _remember(ctx: typer.Context, output: str) -> str:
    if isinstance(ctx.obj, Invocation):
        ctx.obj.output = output
    return output


def finite(value: float) -> float:
    """Return the value, or refuse NaN and infinities, which pass every bound."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


def refuse_unless_seeds(text: str) -> str:
    """Return the text, or refuse it where it is no list of seeds."""
    if not all(word.strip().isdecimal() for word in text.split(",")):
        raise typer.BadParameter(f"{text!r}: expected whole numbers separated by commas, such as 1,2,3.")
    return text


def _wire(name: str) -> str:
    if name not in PRODUCE_FORMATS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(PRODUCE_FORMATS)}.")
    return name


ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file; without it, ./config.yaml.")
]
OutputFormat = Annotated[
    Literal["text", "json"], typer.Option("--format", help="How to print.", callback=_remember, is_eager=True)
]
NODES = typer.Option(help="Nodes of eight GPUs.", min=1, max=100_000)
ScenarioName = Annotated[Scenario, typer.Option(help="The whole fleet, a clean one, or one with broken telemetry.")]


Wire = Annotated[str, typer.Option("--wire", help=f"One of {', '.join(PRODUCE_FORMATS)}.", callback=_wire)]
