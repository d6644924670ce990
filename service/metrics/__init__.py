"""Every metric on /metrics: a collector that reads the Publisher at scrape time, and the timings that the loop observes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.alerting.contract import AlertStatus
from service.clock import Clock
from service.ingest.contract import REASONS
from service.metrics.exposition import WasteByGpu
from service.metrics.families import count, gauge, label_text, maybe, one, per_state, zeros
from service.settings import HttpSettings
from service.summary import NOBODY, by_state, top_owners, worst_first
from service.view import NOTIFICATION_OUTCOMES, RECORD_OUTCOMES, SAMPLE_OUTCOMES, FleetView, Publisher, ServiceStatus

_NS = 1e-9

# Ticks of 10,000 GPUs take milliseconds, checkpoints of 100,000 GPUs a few tenths of a second on a slow disk.
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class LoopTimings:
    """What happens in the loop, told as it happens: how long its steps take, and what found no way out."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tick = Histogram(
            "skinflint_tick_duration_seconds",
            "Time to close one tick: order, fold, detect, publish. Near tick_s means the process cannot keep up: "
            "give it a faster core or split the topic over more processes.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.checkpoint = Histogram(
            "skinflint_checkpoint_duration_seconds",
            "Time to make one checkpoint durable. Growing without more GPUs means a slow disk.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.unrouted = Counter(
            "skinflint_notifications_unrouted_total",
            "Messages that went to nobody, since no route matches their kind and owner. Moving: the logs name both; "
            "add a route under alerting.routes.",
            registry=registry,
        )
        self.raw_batches = Gauge(
            "skinflint_kafka_raw_batches",
            "1 when Kafka record batches are read whole. 0 with Kafka: record by record, many times slower, and without a "
            "limit on what is decompressed; the logs say why. 0 for all other sources.",
            registry=registry,
        )


class FleetCollector(Collector):
    """All series that follow from the newest view and status; nothing is kept between scrapes, so nothing goes stale."""

    def __init__(self, publisher: Publisher, settings: HttpSettings, clock: Clock, version: str) -> None:
        self._publisher = publisher
        self._settings = settings
        self._clock = clock
        self._version = version

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not need a view, and the names cannot clash."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family, from one view and one status throughout."""
        view, status = self._publisher.view, self._publisher.status
        yield gauge("build_info", "Always 1; the label tells the version.", {self._version: 1}, "version")
        # Counters are kept over restarts: a zero while state is being read would look like a reset to Prometheus, and
        # everything after it like new.
        if self._publisher.has_started():
            yield from _fleet(view)
            yield from self._owners(view)
            yield from self._gpus(view)
            yield from _read(status)
            yield from _backlog(status)
            yield from _alerting(view, status)
        yield from self._health(view, status)

    def _owners(self, view: FleetView) -> Iterator[Metric]:
        top, rest = top_owners(view, self._settings.owner_series_max)
        values: dict[str, float] = {}
        for row in (*top, rest) if rest else top:  # an owner may be called _other: one series then
            owner = label_text(row.owner) or NOBODY
            values[owner] = values.get(owner, 0.0) + row.waste_usd_per_hour
        yield gauge(
            "owner_waste_usd_per_hour",
            "What each owner wastes now, for the most wasteful http.owner_series_max owners; the rest is _other, "
            "GPUs that nobody holds are _nobody. Talk to the owner on top.",
            values,
            "owner",
        )

    def _gpus(self, view: FleetView) -> Iterator[Metric]:
        shown = min(self._settings.gpu_series_max, len(view))
        if self._settings.gpu_series_max:
            yield WasteByGpu(view, worst_first(view)[0][:shown])
        yield one(
            "gpu_series_left_out",
            "GPUs without a series of their own, since http.gpu_series_max bounds them. Raise that, or use the API.",
            len(view) - shown,
        )

    def _health(self, view: FleetView, status: ServiceStatus) -> Iterator[Metric]:
        yield one("ready", "1 when /readyz says yes. 0 for long: /readyz names the reasons.", status.ready)
        yield maybe(
            "view_timestamp_seconds",
            "Event time of the newest published tick. It moves with every tick.",
            view.as_of_ns * _NS if view.as_of_ns else None,
        )
        yield maybe(
            "view_age_seconds",
            "Time since a tick was last published. Growing: telemetry has stopped or cannot be read; beyond "
            "fleet.stale_after_s and what ticks wait for, every GPU is shown as unknown.",
            self._publisher.view_age_s(),
        )
        yield maybe(
            "watermark_timestamp_seconds",
            "Event time up to which all partitions were read. Standing still: a source is silent or unreadable.",
            None if status.watermark_ns is None else status.watermark_ns * _NS,
        )
        age_s = self._publisher.status_age_s()
        yield maybe(
            "loop_age_seconds",
            "Time since the loop last came round. Growing: it is stuck, and the watchdog will end the process.",
            age_s,
        )
        taken = status.checkpoint_at_ns
        yield maybe(
            "checkpoint_age_seconds",
            "Time since the last durable checkpoint; so much is replayed after a crash. Growing: the disk fails.",
            None if taken is None else max(0.0, (self._clock.now_ns() - taken) * _NS),
        )
        yield count("checkpoints_total", "Durable checkpoints.", {"": status.checkpoints})


def register(
    registry: CollectorRegistry,
    publisher: Publisher,
    settings: HttpSettings,
    clock: Clock,
    version: str,
) -> LoopTimings:
    """Put every metric of this process on `registry` and return those that the loop moves."""
    # _created series would double the counters, and Prometheus has no use for them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry.register(FleetCollector(publisher, settings, clock, version))
    ProcessCollector(registry=registry)
    return LoopTimings(registry)


def _fleet(view: FleetView) -> Iterator[Metric]:
    totals = by_state(view)
    yield gauge("gpus", "GPUs and MIG instances in each state now.", per_state(totals.gpus), "state")
    yield gauge(
        "spend_usd_per_hour",
        "Price of the GPUs in each state now; those without a price are left out.",
        per_state(totals.usd_per_hour),
        "state",
    )
    yield gauge(
        "waste_usd_per_hour",
        "What is wasted now, per state; GPUs without a price are left out. Rising: see owner_waste_usd_per_hour.",
        per_state(totals.waste_usd_per_hour),
        "state",
    )
    yield count(
        "waste_usd_total",
        "Dollars wasted since tracking began, in event time; kept over restarts.",
        per_state(totals.waste_usd),
        "state",
    )
    yield count(
        "gpu_seconds_total",
        "GPU time spent in each state since tracking began, in event time; kept over restarts.",
        per_state(totals.seconds),
        "state",
    )
    yield one(
        "unknown_price_gpus",
        "GPUs without a price: every dollar figure leaves them out. Add a rule under prices.rules.",
        view.unknown_price_count,
    )


def _read(status: ServiceStatus) -> Iterator[Metric]:
    yield count(
        "records_total",
        "Kafka records or lines read, by what came of them. Each rejected one has a dead letter; so has an accepted one of which a sample was bad.",
        zeros(RECORD_OUTCOMES) | dict(status.records),
        "outcome",
    )
    yield count(
        "samples_total",
        "What was inside the records: rows taken in, end-of-series markers, values that say 'none', and unknown metric names.",
        zeros(SAMPLE_OUTCOMES) | dict(status.samples),
        "outcome",
    )
    yield count(
        "dead_letters_total",
        "Rejected records by reason. Moving: read the dead letters, mend the producer that they name.",
        zeros(REASONS) | dict(status.dead_letters),
        "reason",
    )
    yield one(
        "dead_letter_bytes", "Size of the files of dead letters, of those not moved away.", status.dead_letter_bytes
    )
    yield one(
        "dead_letter_bytes_max",
        "Most that they may have (ingest.dead_letter.bytes_max), 0 without such a limit. When less than an eighth is left, "
        "reading waits until files are moved away, or the oldest is dropped.",
        status.dead_letter_bytes_max,
    )
    yield count(
        "dead_letters_dropped_total",
        "Letters lost with the oldest files (ingest.dead_letter.when_full: drop_oldest). Moving: move files away sooner.",
        {"": status.dead_letters_dropped},
    )
    yield count(
        "data_gap_records_total",
        "Records that the log had lost (retention, truncation) before they were read. Moving: the logs name the "
        "offsets; keep records longer or catch up faster.",
        {"": status.data_gap_records},
    )


def _backlog(status: ServiceStatus) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "skinflint_partition_lag_records",
        "Records of the log not yet read. Growing steadily: this process cannot keep up.",
        labels=("topic", "partition"),
    )
    for part in status.partitions:
        if part.lag_records is not None:
            lag.add_metric((label_text(part.topic), str(part.partition)), part.lag_records)
    yield lag
    yield one("pending_rows", "Rows waiting for their tick to close.", status.pending_rows)
    yield one("entities", "GPUs and MIG instances tracked.", status.entities)
    yield one(
        "entities_max",
        "Most that are tracked (fleet.entities_max); new ones beyond are rejected as entities_max.",
        status.entities_max,
    )


def _alerting(view: FleetView, status: ServiceStatus) -> Iterator[Metric]:
    counts = {alert.value: view.alert_counts.get(alert, 0) for alert in AlertStatus}
    yield gauge(
        "alerts", "Alerts pending and firing now, and those resolved since the process started.", counts, "state"
    )
    notifications = CounterMetricFamily(
        "skinflint_notifications_total",
        "Attempts to send, by receiver. rejected and expired mean that a message was lost: check the receiver.",
        labels=("receiver", "outcome"),
    )
    receivers = dict.fromkeys([*status.receivers, *(name for name, _ in status.notifications)])
    for receiver in receivers:
        for outcome in NOTIFICATION_OUTCOMES:
            sent = status.notifications.get((receiver, outcome), 0)
            notifications.add_metric((label_text(receiver), outcome), sent)
    yield notifications
    yield one(
        "outbox_rows",
        "Messages waiting to be sent. Growing: a receiver is down; at alerting.outbox_rows_max reading stops.",
        status.outbox_rows,
    )
