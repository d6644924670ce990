"""The tables of a result, for a terminal or as Markdown. A result is what build/bench.json holds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.engines import ENGINES, OURS
from tests.bench.works import WORKS, Work

Result = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn; the first column is text, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def print(self, console: Console) -> None:
        """Draw it on a terminal."""
        table = Table(title=self.title, title_justify="left")
        for i, name in enumerate(self.header):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """Write it as Markdown."""
        rule = ["---"] + ["---:"] * (len(self.header) - 1)
        lines = [f"**{self.title}**", "", _line(self.header), _line(rule)]
        return "\n".join(lines + [_line(row) for row in self.rows])


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cell.strip() for cell in cells)} |"


def grids(result: Result) -> list[Grid]:
    """Return the tables for which the result has figures."""
    made = [_engines(result), _profile(result), _latency(result)]
    made += [_operation(result), _flood(result), _curve(result), _kernels(result)]
    return [grid for grid in made if grid.rows]


def _engines(result: Result) -> Grid:
    """Compare every engine of every work with ours, missing ones with the reason."""
    rows: list[tuple[str, ...]] = []
    for work in WORKS.values():
        rows.append((f"{work.name}: {work.title}", *[""] * 5))
        rows += [_engine(result, work, engine.name) for engine in ENGINES[work.name]]
    header = ("engine", "messages/s", "data points/s", "ours is", "peak memory", "rounds")
    return Grid("Each engine on one core, the broker on another: medians of interleaved rounds", header, rows)


def _engine(result: Result, work: Work, name: str) -> tuple[str, ...]:
    rounds = result[work.name].get(name, [])
    if not rounds:
        reason = result["missing"].get(work.name, {}).get(name, "not run")
        return (f"  {name}: missing, {reason}", *[""] * 5)
    rate, ours = median(rounds), result[work.name].get(OURS)
    points = f"{rate * work.points_per_message:,.0f}" if work.points_per_message > 1 else ""
    ratio = f"{median(ours) / rate:.2f}x" if ours else ""
    memory = f"{result['memory'][work.name][name] / 2**20:,.0f} MiB"
    return f"  {name}", f"{rate:,.0f}", points, ratio, memory, str(len(rounds))


STAGES = ("poll", "decode", "ingest", "tick", "checkpoint", "rest")


def _profile(result: Result) -> Grid:
    """Show where ours spends its time, in nanoseconds per message."""
    rows = []
    for name, profile in result.get("profile", {}).items():
        each = [profile["stages_s"].get(stage, 0.0) / profile["messages"] * 1e9 for stage in STAGES]
        rows.append((name, *(f"{ns:,.0f}" for ns in each), f"{sum(each):,.0f}"))
    return Grid("Ours by stage, ns a message (waiting for a fetch counts as poll)", ("work", *STAGES, "sum"), rows)


def _curve(result: Result) -> Grid:
    """Show how ours goes over the size of the fleet and the number of partitions."""
    rows = []
    for along, points in result.get("curve", {}).items():
        for count, point in points.items():
            label = f"{int(count):,} {along}"
            if "missing" in point:
                rows.append((f"{label}: missing, {point['missing']}", "", "", ""))
            else:
                memory = f"{point['peak_rss_bytes'] / 2**20:,.0f} MiB"
                rows.append((label, f"{point['messages']:,}", f"{point['messages_per_s']:,.0f}", memory))
    return Grid("Ours on W1 over GPUs and partitions", ("", "messages", "messages/s", "peak memory"), rows)


TIMES = ("producer_late_max_s", "broker_ack_max_s", "outbox_p50_s", "outbox_p99_s", "p50_s", "p99_s", "max_s")
COUNTS = ("messages_per_s", "gpus", "ticks", "checkpoints", "alerts")


def _latency(result: Result) -> Grid:
    """Show how long alerts take at which rate, half of ours at last."""
    found = result.get("latency", {})
    header = ("messages/s", "GPUs", "ticks", "checkpoints", "alerts", "producer late by", "broker's longest ack")
    header += ("p50 in the outbox", "p99 in the outbox", "p50", "p99", "max")
    title = "From the last event that an alert waited for to its notifier"
    if "missing" in found:
        return Grid(title, header, [(f"missing, {found['missing']}", *[""] * (len(header) - 1))])
    rows = []
    for each in sorted(found.get("rates", []), key=lambda each: each["asked_per_s"]):
        half = " (half of ours)" if each["asked_per_s"] == found["half_of_ours_per_s"] else ""
        if "missing" in each:
            rows.append((f"{each['asked_per_s']:,.0f}{half}: missing, {each['missing']}", *[""] * (len(header) - 1)))
            continue
        rate, *counts = (f"{each[name]:,.0f}" for name in COUNTS)
        times = (f"{each[name]:.3f} s" if name in each else "" for name in TIMES)
        rows.append((rate + half, *counts, *times))
    return Grid(title, header, rows)


def _operation(result: Result) -> Grid:
    """Show beside each goal what was reached, by the size of the fleet."""
    fleets = list(result.get("operation", {}).values())
    columns = [_operated(found) for found in fleets]
    rows = [(name, goal, *(column[name][1] for column in columns)) for name, (goal, _) in (columns or [{}])[0].items()]
    header = ("", "goal", *(f"{found['gpus']:,} GPUs" for found in fleets))
    return Grid("Operation of large fleets, while they report", header, rows)


def _operated(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return by figure its goal and its value."""

    def longest(of: dict[str, Any], metrics: bool) -> float:
        return max(each["seconds"] for path, each in of.items() if (path == "/metrics") == metrics)

    def stop(beside: str) -> str:
        if beside not in found["gaps"]:
            return "none"
        return (
            " / ".join(f"{found['gaps'][beside].get(name, 0.0) * 1000:.0f}" for name in ("stop", "tick", "poll"))
            + " ms"
        )

    idle, busy, size = found["idle"], found["ingest"], found["idle"]["/metrics"]["bytes"]
    return {
        "start to ready, fresh": ("5 s", f"{found['fresh_s']:.2f} s"),
        "start to ready, fleet resumed": ("5 s", f"{found['resumed_s']:.2f} s"),
        "longest stop / tick / poll beside a checkpoint": ("50 ms", stop("saving")),
        "beside a scrape": ("", stop("scrape")),
        "beside both": ("", stop("both")),
        "beside neither": ("", stop("nothing")),
        "a checkpoint, at most": ("", f"{found['checkpoint_max_s']:.2f} s"),
        "/metrics, nothing to read": ("0.5 s", f"{longest(idle, True):.3f} s"),
        "/metrics": ("0.5 s", f"{longest(busy, True):.3f} s"),
        "/metrics, bytes": ("", f"{size / 2**20:.1f} MiB"),
        "the slowest of the API, nothing to read": ("0.5 s", f"{longest(idle, False):.3f} s"),
        "the slowest of the API": ("0.5 s", f"{longest(busy, False):.3f} s"),
        "peak memory": ("1,907 MiB", f"{found['peak_rss_bytes'] / 2**20:,.0f} MiB"),
        "messages/s": ("", f"{found['messages_per_s']:,.0f}"),
    }


def _flood(result: Result) -> Grid:
    """Show what ids beyond the limit cost: between two rows, and in memory so far."""
    found = result.get("flood", {})
    rows: list[tuple[str, ...]] = [(f"missing, {found['missing']}", "", "")] if "missing" in found else []
    seen, seconds = 0, 0.0
    for mark in found.get("marks", []):
        rate = (mark["seen"] - seen) / (mark["seconds"] - seconds) if mark["seen"] > seen else 0.0
        seen, seconds = mark["seen"], mark["seconds"]
        rows.append((f"{mark['messages']:,}", f"{rate:,.0f}", f"{mark['peak_rss_bytes'] / 2**20:,.0f} MiB"))
    title = f"Ours under a flood of new ids, with room for {found.get('entities_max', 0):,}"
    return Grid(title, ("ids so far", "messages/s since the row above", "peak memory so far"), rows)


def _kernels(result: Result) -> Grid:
    """Show the kernels beside memory."""
    rows = [
        (name, f"{found['ns_per_row_and_column']:.1f}", f"{found['plain_passes']:.2f}x")
        for name, found in result.get("kernels", {}).items()
    ]
    return Grid("Kernels on one core", ("kernel", "ns a row and column", "of a plain pass over the same bytes"), rows)
