"""The W1 table as a picture: bars in SVG, written by hand, readable on light and on dark ground."""

from __future__ import annotations

from html import escape
from statistics import median

from tests.bench.engines import ENGINES, OURS, OURS_TWO
from tests.bench.report import Result

WIDTH, LEFT, RIGHT = 840, 280, 190
ROW, BAR, TOP, BOTTOM = 30, 18, 46, 16
TITLE = "Single-sample JSON from Kafka on one core, messages per second"

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; }
.bar { fill: #8c959f; }
.ours { fill: #1a7f5a; }
.axis { stroke: #8c959f; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .bar { fill: #6e7681; }
  .ours { fill: #3fb984; }
  .axis { stroke: #6e7681; }
}
"""


def svg(result: Result) -> str:
    """Return the picture: one bar an engine, the fastest first; length is the median of messages per second."""
    rates = {name: median(rounds) for name, rounds in result["W1"].items() if rounds}
    known = [engine.name for engine in ENGINES["W1"] if engine.name in rates]
    order = sorted(known, key=lambda name: -rates[name])
    scale = (WIDTH - LEFT - RIGHT) / max(rates.values())
    height = TOP + ROW * len(order) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{TITLE}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="16" y="26">{TITLE}</text>',
    ]
    for i, name in enumerate(order):
        parts += _bar(name, rates, TOP + i * ROW, rates[name] * scale)
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP - 4}" y2="{height - BOTTOM}"/>')
    return "\n".join([*parts, "</svg>", ""])


def _bar(name: str, rates: dict[str, float], y: int, length: float) -> list[str]:
    middle = y + BAR - 4
    ratio = rates[OURS] / rates[name] if OURS in rates else 1.0
    said = f"{rates[name]:,.0f}" + ("" if name in {OURS, OURS_TWO} else f" (ours is {ratio:.1f}x)")
    kind = "bar ours" if name in {OURS, OURS_TWO} else "bar"
    return [
        f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        f'<text x="{LEFT + length + 8:.1f}" y="{middle}">{said}</text>',
    ]
