"""A fleet as the worker would publish it: realistic names, prices and waste, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detectors.idle_waste import SIGNALS, STATES
from detectors.labels import LabelSet
from service.alerting.contract import Alert, AlertStatus
from service.view import WASTE_STATES, FleetView, PartitionStatus, Publisher, ServiceStatus
from tests.fakes.clock import ManualClock

AS_OF_NS = 1_795_500_000_000_000_000  # 2026-11-24T06:00:00Z
SECOND_NS = 1_000_000_000

_MODELS = (
    ("NVIDIA H100 80GB HBM3", "p5.48xlarge", 6.88, 700, 80),
    ("NVIDIA A100-SXM4-80GB", "p4de.24xlarge", 3.43, 400, 80),
    ("NVIDIA L40S", "g6e.48xlarge", 2.26, 350, 48),
    ("NVIDIA GB300", "custom-rack", float("nan"), 1400, 288),
)
_TENANTS = (
    ("research", "llm-pretrain", "pretrain-70b-worker"),
    ("search", "ranking", "ranker-train"),
    ("growth", "notebooks", "jupyter-maria"),
    ("vision", "segmentation", "seg-finetune"),
    ("platform", "inference", "chat-serve"),
    ("robotics", "sim-rl", "rollout"),
    ("speech", "asr", "whisper-batch"),
)
# Share of the fleet per state, in the order of STATES, and the share of its price that each wastes.
_SHARES = (0.07, 0.05, 0.08, 0.11, 0.02, 0.02, 0.62, 0.03)
_WASTED = (1.0, 1.0, 1.0, 0.6, 1.0, 1.0, 0.0, 0.0)
_ACTIVITY = (0.0, 0.0, 0.0, 0.22, 0.99, 0.30, 0.88, np.nan)
_ACTIONS = {
    "unallocated": "Schedule work on it, scale the node pool down, or give the node back.",
    "truly_idle": "Stop the workload or release the GPU; ask the owner whether it waits for something.",
    "idle_held": "Unload the model, scale to zero, or shut the notebook down.",
    "low_efficiency": "Raise the batch size, look at the data loader, or move to a MIG slice.",
    "hung_collective": "Take a stack dump of every rank, then restart the job from its last checkpoint.",
    "keep_alive": "Ask the owner to end the keep-alive script; the GPU does no work that anyone reads.",
}


def still_clock() -> ManualClock:
    """Return a clock that stands 20 s after the fleet's event time."""
    return ManualClock(AS_OF_NS + 20 * SECOND_NS)


def gpu_labels(i: int, allocated: bool) -> LabelSet:
    """Return the labels of the i-th GPU: eight to a node, nodes of one model in a row."""
    node = i // 8
    model, instance_type, *_ = _MODELS[node % len(_MODELS) if node % 16 == 15 else node % 3]
    team, namespace, job = _TENANTS[(node * node + i % 8 // 4) % len(_TENANTS)]
    place = LabelSet(
        cluster="east-1",
        region="us-east-1",
        node=f"gpu-node-{node:04d}",
        gpu=str(i % 8),
        uuid=f"GPU-{i:08x}-5ea1-4c0f-9d2b-{i * 7919:012x}",
        model=model,
        instance_type=instance_type,
        capacity_type="spot" if node % 5 == 0 else "on-demand",
    )
    if not allocated:
        return place
    return place._replace(namespace=namespace, pod=f"{job}-{i % 97}", container="main", job=job, team=team)


def fleet_view(
    gpus: int = 512,
    seed: int = 7,
    *,
    as_of_ns: int = AS_OF_NS,
    labels: Sequence[LabelSet] | None = None,
    alerts: Sequence[Alert] | None = None,
) -> FleetView:
    """Return a fleet of `gpus`; `labels` and `alerts` replace the invented ones."""
    rng = np.random.default_rng(seed)
    m = len(labels) if labels is not None else gpus
    state = rng.choice(len(STATES), size=m, p=_SHARES).astype(np.int8)
    names = labels or [gpu_labels(i, bool(state[i] != 0)) for i in range(m)]
    facts = np.array([next((x for x in _MODELS if x[0] == n.model), _MODELS[0])[2:] for n in names])
    price, power_max, memory_gib = facts.reshape(m, 3).astype(np.float64).T
    seconds = rng.dirichlet(np.array(_SHARES) * 4, size=m) * rng.uniform(6, 96, (m, 1)) * 3600
    wasted = np.array(_WASTED)
    activity = np.array(_ACTIVITY)[state] * rng.uniform(0.9, 1.0, m)
    waste_in_state = np.nan_to_num(seconds / 3600 * price[:, None] * wasted)
    held = np.where(np.isin(state, (0, 1)), 0.004, rng.uniform(0.2, 0.95, m))
    load = np.where(np.isin(state, (3, 5, 6)), rng.uniform(0.35, 0.95, m), 0.11)
    unknown = state == STATES.index("unknown")
    view = FleetView(
        as_of_ns=as_of_ns,
        entity_key=tuple(n.entity_key() for n in names),
        labels=tuple(names),
        owner=tuple(n.team for n in names),
        state=state,
        state_since_ns=(as_of_ns - rng.uniform(60, 90_000, m) * 1e9).astype(np.int64),
        usd_per_hour=price,
        waste_usd_per_hour=price * wasted[state],
        waste_usd_total=waste_in_state.sum(axis=1),
        confidence=rng.uniform(0.6, 1.0, m),
        signal=np.where(unknown, SIGNALS.index("none"), rng.integers(0, 3, m)).astype(np.int8),
        activity_ratio=activity,
        tensor_ratio=activity * 0.5,
        power_watts=np.where(unknown, np.nan, power_max * load),
        fb_used_bytes=np.where(unknown, np.nan, memory_gib * 2**30 * held),
        fb_total_bytes=memory_gib * 2**30,
        seconds_in_state=seconds.sum(axis=0),
        waste_usd_in_state=waste_in_state.sum(axis=0),
    )
    found = alerts_of(view) if alerts is None else tuple(alerts)
    counts = Counter(alert.status for alert in found)
    return replace(view, alerts=found, alert_counts={s: counts[s] for s in AlertStatus})


def alerts_of(view: FleetView, stride: int = 5) -> tuple[Alert, ...]:
    """Return an alert for every `stride`-th wasted GPU: most of them firing."""
    wasted = [i for i in range(len(view)) if view.state[i] < len(WASTE_STATES)]
    statuses = (AlertStatus.FIRING, AlertStatus.FIRING, AlertStatus.PENDING, AlertStatus.RESOLVED)
    return tuple(alert_on(view, i, statuses[k % len(statuses)]) for k, i in enumerate(wasted[::stride]))


def alert_on(view: FleetView, i: int, status: AlertStatus) -> Alert:
    """Return an alert on the GPU in row `i`, of the kind of its state."""
    kind = STATES[view.state[i]]
    labels, price = view.labels[i], float(view.waste_usd_per_hour[i])
    known = not np.isnan(price)
    since_ns = int(view.state_since_ns[i])
    ended_ns = view.as_of_ns - 60 * SECOND_NS if status is AlertStatus.RESOLVED else None
    return Alert(
        alert_id=f"{i:032x}",
        detector="idle_waste",
        kind=kind,
        severity="critical" if kind == "hung_collective" else "warning",
        status=status,
        entity_key=view.entity_key[i],
        labels=labels,
        owner=view.owner[i],
        opened_ns=since_ns,
        fired_ns=since_ns + 1800 * SECOND_NS if status is not AlertStatus.PENDING else 0,
        ended_ns=ended_ns,
        as_of_ns=view.as_of_ns,
        usd_per_hour=price if known else None,
        usd_so_far=price * (view.as_of_ns - since_ns) / 3.6e12 if known else None,
        confidence=float(view.confidence[i]),
        summary=f"{kind.replace('_', ' ').capitalize()}: {labels.node} GPU {labels.gpu}.",
        action=_ACTIONS[kind],
        evidence={"duty_ratio": 0.0, "window_s": 300.0, "signal": "sm"},
    )


def service_status(**changes: object) -> ServiceStatus:
    """Return the status of a healthy service on Kafka, with `changes`."""
    fields: dict[str, object] = {
        "ready": True,
        "source_kind": "kafka",
        "records": {"accepted": 120_000, "rejected": 12},
        "samples": {"rows": 480_000, "series_ended": 15},
        "dead_letters": {"malformed": 11, "late": 1},
        "partitions": (
            PartitionStatus("gpu-telemetry", 0, 60_010, 42, AS_OF_NS + 30 * SECOND_NS),
            PartitionStatus("gpu-telemetry", 1, 60_002, 0, AS_OF_NS + 31 * SECOND_NS),
        ),
        "watermark_ns": AS_OF_NS + 30 * SECOND_NS,
        "receivers": ("console", "slack"),
        "notifications": {("slack", "delivered"): 9, ("slack", "retried"): 2},
        "outbox_rows": 3,
        "entities": 512,
        "entities_max": 100_000,
        "checkpoints": 40,
        "checkpoint_at_ns": AS_OF_NS + 16 * SECOND_NS,
    }
    return ServiceStatus(**{**fields, **changes})  # type: ignore[arg-type]


def publisher_of(
    view: FleetView | None = None,
    status: ServiceStatus | None = None,
    clock: ManualClock | None = None,
) -> Publisher:
    """Return a publisher that has published both."""
    publisher = Publisher(clock or still_clock())
    publisher.publish_view(view or fleet_view())
    publisher.publish_status(status or service_status())
    return publisher
