"""A notification in plain words, dollars first, cleaned of what untrusted names could smuggle in."""

from __future__ import annotations

import datetime
import math
import unicodedata
from dataclasses import dataclass

from detectors.labels import LabelSet
from service.alerting.contract import Alert, AlertStatus, Notification
from service.alerting.uncertain import PossibleRepeat

NAME_CHARS_MAX = 80
TEXT_CHARS_MAX = 500

# How a count of GPUs goes on, per kind; a kind that is not here goes on with its own title.
_PHRASES = {
    "unallocated": "held by nobody",
    "truly_idle": "allocated but idle",
    "idle_held": "idle with memory held",
    "low_efficiency": "working far below what they can",
    "hung_collective": "probably hung in a collective operation",
    "keep_alive": "kept busy without useful work",
    "telemetry_disagreement": "with measurements that contradict each other",
}
# Control, format (bidi and zero-width among them), surrogate, private and unassigned characters.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Message:
    """A notification in words. Every text is one line without control characters, but not escaped for any markup."""

    headline: str
    totals: str
    action: str
    gpus: tuple[str, ...]  # one line per alert, the most expensive first
    left_out: str  # what `gpus` does not list; empty if it lists all
    resolved: bool

    def text(self) -> str:
        """Return everything, line by line."""
        action = (f"What to do: {self.action}",) if self.action and not self.resolved else ()
        tail = (self.left_out,) if self.left_out else ()
        gpus = tuple(f"- {line}" for line in self.gpus)
        return "\n".join((self.headline, self.totals, *action, *gpus, *tail))


def render(notification: Notification) -> Message:
    """Say in words what `notification` holds."""
    resolved = notification.status is AlertStatus.RESOLVED
    return Message(
        headline=headline(notification),
        totals=_totals(notification),
        action=clean(notification.action, TEXT_CHARS_MAX),
        gpus=tuple(_gpu(alert) for alert in notification.alerts),
        left_out=left_out(notification.alert_count - len(notification.alerts)),
        resolved=resolved,
    )


def headline(notification: Notification) -> str:
    """Return the one line that must be enough: dollars, how many GPUs, what is the matter, whose they are."""
    count = gpu_count(notification.alert_count)
    phrase = _PHRASES.get(notification.kind)
    what = f"{count} {phrase}" if phrase else f"{count}: {clean(notification.title, NAME_CHARS_MAX)}"
    owner = clean(notification.owner, NAME_CHARS_MAX)
    whose = f" — {owner}" if owner else " — no owner known"
    repeat = " (possible repeat)" if isinstance(notification, PossibleRepeat) else ""
    return f"{_money_first(notification)}{what}{whose}{repeat}"


def left_out(count: int) -> str:
    """Say how many alerts are not listed; empty for none."""
    return f"and {count:,} more not listed here" if count > 0 else ""


def gpu_count(count: int) -> str:
    """Return "1 GPU", "16 GPUs"."""
    return "1 GPU" if count == 1 else f"{count:,} GPUs"


def usd(amount: float | None) -> str:
    """Return an amount for people: cents below $100, whole dollars above; "unknown" for None and NaN."""
    if amount is None or not math.isfinite(amount):
        return "unknown"
    sign, size = ("-" if amount < 0 else ""), abs(amount)
    if size >= 99.995:
        return f"{sign}${size:,.0f}"
    if 0 < size < 0.005:
        return f"{sign}under $0.01"
    return f"{sign}${size:.2f}"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, e.g. "2 d 4 h", "3 h 10 min", "45 s"."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
        elif parts:
            break
        left %= size
    return " ".join(parts) or "0 s"


def moment(time_ns: int) -> str:
    """Return an instant to the minute, in UTC."""
    try:
        instant = datetime.datetime.fromtimestamp(time_ns // _NS, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return "an unknown time"
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def clean(text: str, chars_max: int) -> str:
    """Return `text` on one line and of bounded length, with a visible mark for what could reorder, hide or control."""
    whole = "".join(map(_safe, text[: 4 * chars_max]))
    line = " ".join(whole.split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"


def _safe(char: str) -> str:
    if char.isspace():
        return " "
    return "\ufffd" if unicodedata.category(char) in _UNSAFE else char


def _money_first(notification: Notification) -> str:
    rate, total = notification.usd_per_hour, notification.usd_so_far
    if notification.status is AlertStatus.RESOLVED:
        return f"Resolved, {usd(total)} wasted in all: " if total else "Resolved: "
    still = "Still " if notification.reason == "repeat" else ""
    if rate is None or not math.isfinite(rate):
        return f"{still}of unknown cost: " if still else "Unknown cost: "
    if rate == 0:
        return f"{still}so: " if still else ""
    return f"{still}{usd(24 * rate)}/day wasted: "


def _totals(notification: Notification) -> str:
    rate, total = notification.usd_per_hour, notification.usd_so_far
    known = [f"{usd(rate)}/hour"] if rate is not None else []
    known += [f"{usd(total)} {_so_far(notification.status)}"] if total is not None else []
    price = known or ["price unknown: add a rule under prices.rules"]
    count = gpu_count(notification.alert_count)
    severity = clean(notification.severity, NAME_CHARS_MAX)
    return " · ".join((*price, count, severity, f"as of {moment(notification.event_time_ns)}"))


def _so_far(status: AlertStatus) -> str:
    return "in all" if status is AlertStatus.RESOLVED else "so far"


def _gpu(alert: Alert) -> str:
    """Return where, what, whose, since when and how expensive, leaving out what is not known."""
    labels = alert.labels
    place = f"{labels.node} GPU {labels.gpu}" if labels.node and labels.gpu else alert.entity_key
    mig = f"MIG {labels.mig_id} {labels.mig_profile}" if labels.mig_id else ""
    names = [clean(name, NAME_CHARS_MAX) for name in (place, mig, labels.model)]
    end_ns = alert.as_of_ns if alert.ended_ns is None else alert.ended_ns
    lasted = duration((end_ns - alert.opened_ns) / _NS)
    since = f"since {moment(alert.opened_ns)} ({lasted})"
    cost = f"{usd(alert.usd_so_far)} {_so_far(alert.status)}"
    priced = cost if alert.usd_so_far is not None else "price unknown"
    return " · ".join(part for part in (*names, _holder(labels), since, priced) if part)


def _holder(labels: LabelSet) -> str:
    namespace, pod, job = (clean(name, NAME_CHARS_MAX) for name in (labels.namespace, labels.pod, labels.job))
    if pod:
        return f"pod {namespace}/{pod}" if namespace else f"pod {pod}"
    return f"job {job}" if job else namespace
