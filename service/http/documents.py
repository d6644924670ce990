"""From a FleetView to the JSON that the API answers with; a number that is not known is null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from detectors.idle_waste import SIGNALS, STATES
from service.alerting.contract import Alert, AlertStatus
from service.summary import OwnerWaste, by_state, top_owners
from service.view import WASTE_STATES, FleetView, Publisher, ServiceStatus

# A live source may bring samples this much late without anyone being at fault: period, lateness bound and one tick.
_BEHIND_AFTER_S = 300
_STALE_AFTER_TICKS = 4
_STALE_AFTER_S_MIN = 15
_STALE_AFTER_S_MAX = 300
_NS = 1_000_000_000

Document = dict[str, Any]


def summary(publisher: Publisher, now_ns: int, owners: int) -> Document:
    """Return the fleet in a few figures: states, owners, alerts, and how fresh all that is."""
    view, status = publisher.view, publisher.status
    totals = by_state(view)
    waste, spend = float(totals.waste_usd_per_hour.sum()), float(totals.usd_per_hour.sum())
    top, rest = top_owners(view, owners)
    return {
        "as_of": instant(view.as_of_ns),
        "freshness": freshness(publisher, now_ns),
        "fleet": {
            "gpus": len(view),
            "wasted_gpus": int(totals.gpus[: len(WASTE_STATES)].sum()),
            "unknown_price_gpus": view.unknown_price_count,
            "usd_per_hour": spend,
            "waste_usd_per_hour": waste,
            "waste_usd_total": float(totals.waste_usd.sum()),
            "waste_share": waste / spend if spend > 0 else None,
        },
        "states": [
            {
                "state": name,
                "wasted": name in WASTE_STATES,
                "gpus": int(totals.gpus[i]),
                "usd_per_hour": float(totals.usd_per_hour[i]),
                "waste_usd_per_hour": float(totals.waste_usd_per_hour[i]),
                "waste_usd_total": float(totals.waste_usd[i]),
                "gpu_hours_total": float(totals.seconds[i]) / 3600,
            }
            for i, name in enumerate(STATES)
        ],
        "owners": [asdict(row) for row in top],
        "owners_rest": _optional(rest),
        "owner_count": len(view.owners[0]),
        "alerts": alert_counts(view),
        "service": service(status, now_ns),
    }


def freshness(publisher: Publisher, now_ns: int) -> Document:
    """Return whether the figures may be believed as current: level ok, notice or alarm, and a sentence for people."""
    age_s = publisher.view_age_s()
    level, text = _freshness(publisher, age_s, now_ns)
    return {"level": level, "text": text, "view_age_s": age_s}


def _freshness(publisher: Publisher, age_s: float | None, now_ns: int) -> tuple[str, str]:
    status = publisher.status
    if age_s is None:
        return "notice", "Starting: the first tick has not closed yet, so there is nothing to show."
    if status.source_ended:
        return "notice", "The input has ended. These are its final figures; they no longer change."
    stale_s = min(max(_STALE_AFTER_TICKS * status.tick_s, _STALE_AFTER_S_MIN), _STALE_AFTER_S_MAX)
    if publisher.is_silent():
        text = f"No tick has closed for {duration(age_s)}, so every GPU counts as unknown. Is telemetry still arriving?"
        return "alarm", text
    if age_s > stale_s:
        return (
            "alarm",
            f"Old figures: no tick has closed for {duration(age_s)}. Is telemetry still arriving?",
        )
    behind_s = (now_ns - publisher.view.as_of_ns) / _NS
    if status.source_kind == "kafka" and behind_s > _BEHIND_AFTER_S:
        return "alarm", f"Catching up: these figures are {duration(behind_s)} behind the clock."
    return "ok", "Live"


def service(status: ServiceStatus, now_ns: int) -> Document:
    """Return how the service itself fares."""
    lags = [part.lag_records for part in status.partitions if part.lag_records is not None]
    taken = status.checkpoint_at_ns
    return {
        "ready": status.ready,
        "reasons": list(status.reasons),
        "source": status.source_kind,
        "source_ended": status.source_ended,
        "watermark": instant(status.watermark_ns or 0),
        "partitions": len(status.partitions),
        "lag_records": sum(lags) if lags else None,
        "records": dict(status.records),
        "dead_letters": sum(status.dead_letters.values()),
        "entities": status.entities,
        "entities_max": status.entities_max,
        "outbox_rows": status.outbox_rows,
        "checkpoint_age_s": None if taken is None else max(0.0, (now_ns - taken) / _NS),
    }


def alert_counts(view: FleetView) -> dict[str, int]:
    """Return how many alerts there are of each status, also those that the view left out."""
    return {status.value: view.alert_counts.get(status, 0) for status in AlertStatus}


def gpu(view: FleetView, i: int) -> Document:
    """Return everything about the GPU in row `i`."""
    labels = view.labels[i]
    return {
        "key": view.entity_key[i],
        **labels._asdict(),
        "owner": view.owner[i],
        "state": STATES[view.state[i]],
        "state_since": instant(int(view.state_since_ns[i])),
        "confidence": number(view.confidence[i]),
        "signal": SIGNALS[view.signal[i]],
        "activity_ratio": number(view.activity_ratio[i]),
        "tensor_ratio": number(view.tensor_ratio[i]),
        "power_watts": number(view.power_watts[i]),
        "fb_used_bytes": number(view.fb_used_bytes[i]),
        "fb_total_bytes": number(view.fb_total_bytes[i]),
        "usd_per_hour": number(view.usd_per_hour[i]),
        "waste_usd_per_hour": number(view.waste_usd_per_hour[i]),
        "waste_usd_total": number(view.waste_usd_total[i]),
    }


def alert(item: Alert) -> Document:
    """Return everything about one alert."""
    return {
        "alert_id": item.alert_id,
        "detector": item.detector,
        "kind": item.kind,
        "severity": item.severity,
        "status": item.status.value,
        "entity_key": item.entity_key,
        "labels": {name: value for name, value in item.labels._asdict().items() if value},
        "owner": item.owner,
        "opened": instant(item.opened_ns),
        "fired": instant(item.fired_ns),
        "ended": instant(item.ended_ns or 0),
        "as_of": instant(item.as_of_ns),
        "usd_per_hour": number(item.usd_per_hour),
        "usd_so_far": number(item.usd_so_far),
        "confidence": number(item.confidence),
        "summary": item.summary,
        "action": item.action,
        "evidence": _evidence(item.evidence),
    }


def _evidence(evidence: Mapping[str, float | str]) -> Document:
    return {name: value if isinstance(value, str) else number(value) for name, value in evidence.items()}


def _optional(row: OwnerWaste | None) -> Document | None:
    return None if row is None else asdict(row)


def number(value: float | None) -> float | None:
    """Return a plain float, None for what JSON cannot say (NaN, infinite)."""
    return None if value is None or not math.isfinite(value) else float(value)


def instant(time_ns: int) -> str | None:
    """Return event or wall time as ISO 8601 in UTC with milliseconds; None for 0."""
    if not time_ns:
        return None
    seconds, rest = divmod(time_ns, _NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest // 1_000_000:03d}Z"


def duration(seconds: float) -> str:
    """Return a length of time for people: the two largest units are enough."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
