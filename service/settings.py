"""The configuration as types: every key, its default, its unit and its meaning. config.yaml shows the same for reading.

Parameters of plug-ins (detectors, notifiers) stand beside the plug-ins; `service.config` joins them in.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

# FORMATS by name (a test holds the two together: settings stand below what reads them).
FORMAT_NAMES = Literal[
    "auto", "native", "otlp_proto", "otlp_json", "prometheus_adapter", "prometheus_remote_write", "telegraf_json",
    "influx", "vector", "collectd_json",
]  # fmt: skip


SEVERAL_LINES = "one secret a line"
"""Beside the type of a secret of which its file may hold more than one."""


class Section(BaseModel):
    """A part of the configuration: frozen, and a typing mistake in a key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class KafkaTls(Section):
    """TLS towards the brokers; hostname and certificate are always checked."""

    ca_file: str = ""
    """PEM file of the authorities to trust; empty trusts the system's."""
    cert_file: str = ""
    """PEM certificate of this client, where the brokers ask for one."""
    key_file: str = ""
    """PEM key of that certificate."""


class KafkaSasl(Section):
    """SASL towards the brokers."""

    mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    """Empty: no SASL."""
    username: str = ""
    """User name."""
    password: SecretStr = SecretStr("")
    """From the environment only (SKINFLINT__SOURCE__KAFKA__SASL__PASSWORD); in files use password_file."""
    password_file: str = ""
    """File that holds the password and nothing else."""


class KafkaSettings(Section):
    """Where the telemetry is."""

    bootstrap_servers: Annotated[list[str], Field(min_length=1)] = ["127.0.0.1:9092"]
    """host:port of some brokers."""
    topics: Annotated[list[str], Field(min_length=1)] = ["gpu-telemetry"]
    """Topics to read; all members of a group must read the same ones."""
    formats: dict[str, FORMAT_NAMES] = {}
    """Format per topic, where recognising it per record is not wanted: {topic: format}."""
    group_id: str = "skinflint"
    """Consumer group; also names the committed offsets that lag tools show."""
    group_instance_id: str = ""
    """A name unique in the group (static membership): a restart need not wait for session_timeout_ms. Empty: none."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where to begin when there is no checkpoint for a partition."""
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Transport security."""
    allow_plaintext_beyond_loopback: bool = False
    """Without TLS only brokers on loopback are accepted, unless this is set."""
    tls: KafkaTls = KafkaTls()
    """TLS settings, used with SSL and SASL_SSL."""
    sasl: KafkaSasl = KafkaSasl()
    """SASL settings, used with SASL_PLAINTEXT and SASL_SSL."""
    session_timeout_ms: Annotated[int, Field(ge=6_000, le=300_000)] = 45_000
    """Without a heartbeat for so long the group takes our partitions away; at most poll_interval_max_ms."""
    poll_interval_max_ms: Annotated[int, Field(ge=10_000, le=600_000)] = 60_000
    """Without a poll for so long the client leaves the group; also bounds how long a slow member delays a rebalance."""
    fetch_bytes_max: Annotated[int, Field(ge=1 << 16, le=1 << 30)] = 50 << 20
    """Most bytes of one fetch over all partitions."""
    partition_fetch_bytes_max: Annotated[int, Field(ge=1 << 16, le=1 << 28)] = 4 << 20
    """Most bytes of one fetch of one partition; a larger single batch is still delivered."""
    poll_records_max: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    """Most records handed over at once."""
    raw_batches: Literal["auto", "off"] = "auto"
    """auto reads record batches whole, through the inside of kafka-python, if a trial at the start finds that as it must
    be. Else, and with off, records are read one by one: many times slower, with no limit on what a batch decompresses to
    (15 kB of zstd may become 500 MB), and joining the group anew after each unreadable batch."""

    @model_validator(mode="after")
    def _session_within_poll_interval(self) -> Self:
        # Otherwise the group would notice a process that is gone later than one that only hangs.
        if self.session_timeout_ms > self.poll_interval_max_ms:
            raise ValueError(
                f"session_timeout_ms: expected at most poll_interval_max_ms ({self.poll_interval_max_ms}), "
                f"got {self.session_timeout_ms}"
            )
        return self


class FileSettings(Section):
    """Recorded telemetry: NDJSON, capture files, Parquet, each also .gz or .zst where that makes sense; '-' is stdin."""

    paths: list[str] = []
    """Files and folders. A folder is read in order of names, as one log."""
    follow: bool = False
    """Go on reading as files grow and new ones appear in the folders, as a service does."""


class SimulateSettings(Section):
    """A simulated fleet, for a first look and for tests."""

    nodes: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Nodes of eight GPUs."""
    seed: Annotated[int, Field(ge=0)] = 7
    """The same seed gives the same fleet, samples and truth."""
    interval_s: Annotated[float, Field(ge=1, le=300)] = 15
    """Seconds of event time between two samples of a GPU."""
    speed: Annotated[float, Field(ge=0, le=100_000)] = 60
    """Seconds of event time per second of wall time; 0 is as fast as possible."""
    duration_s: Annotated[float, Field(ge=0)] = 0
    """Event time to simulate, then end; 0 is without end."""
    truth_file: str = ""
    """Where to write the ground truth (NDJSON); empty writes none."""


class SourceSettings(Section):
    """Where events come from."""

    kind: Literal["kafka", "file", "simulate"] = "simulate"
    """Which of the three sources runs."""
    kafka: KafkaSettings = KafkaSettings()
    """Used with kind: kafka."""
    file: FileSettings = FileSettings()
    """Used with kind: file."""
    simulate: SimulateSettings = SimulateSettings()
    """Used with kind: simulate."""

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        if self.kind == "file" and not self.file.paths:
            raise ValueError("file.paths: at least one path is needed with source.kind: file")
        return self


class DeadLetterSettings(Section):
    """Where rejected records go, and when there are too many."""

    kind: Literal["file", "kafka"] = "file"
    """A file in the state folder, or a topic."""
    topic: str = "skinflint.dead-letters"
    """Topic, with kind: kafka; it must exist."""
    value_bytes_max: Annotated[int, Field(ge=0, le=1 << 20)] = 4096
    """How much of a rejected value is kept; its SHA-256 is of the whole."""
    bytes_max: Annotated[int, Field(ge=1 << 27)] = 1 << 30
    """With kind: file, most bytes of all files of letters together; at an eighth of it a file is followed by the next."""
    when_full: Literal["pause", "drop_oldest"] = "pause"
    """At bytes_max: drop the oldest file, or, an eighth earlier, pause reading until files are moved away."""
    breaker_ratio_max: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The breaker opens when more than this share of the last breaker_window_records of a partition was rejected."""
    breaker_window_records: Annotated[int, Field(ge=10, le=1_000_000)] = 1000
    """Records over which that share is taken."""
    breaker_run_records: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """It also opens after so many rejected records in a row. An open breaker ends the process before the offsets are passed."""


class IngestSettings(Section):
    """From bytes to rows."""

    record_bytes_max: Annotated[int, Field(ge=1024, le=1 << 28)] = 8 << 20
    """A longer record is rejected."""
    record_samples_max: Annotated[int, Field(ge=1, le=10_000_000)] = 200_000
    """A record with more samples is rejected."""
    label_chars_max: Annotated[int, Field(ge=64, le=4096)] = 512
    """A sample with a longer name (GPU, node, pod and the like) is rejected."""
    future_max_s: Annotated[float, Field(ge=0)] = 300
    """A sample later than its record's own timestamp by more than this is rejected."""
    lateness_max_s: Annotated[float, Field(ge=0, le=86_400)] = 30
    """A sample older than the newest of its partition by more than this is rejected; also how long a tick waits."""
    jump_max_s: Annotated[float, Field(ge=1)] = 600
    """A sample further ahead than this moves the partition's clock only after jump_rows rows in a row say so."""
    jump_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """See jump_max_s; one exporter with a wrong clock then makes no other sample late."""
    idle_partition_s: Annotated[float, Field(gt=0)] = 10
    """A partition read to its end and silent for so long no longer holds back the others."""
    ahead_max_s: Annotated[float, Field(gt=0)] = 300
    """A partition so far ahead of the slowest one is paused until the slowest has come closer."""
    pending_rows_max: Annotated[int, Field(ge=1000)] = 20_000_000
    """Rows waiting for their tick; at the limit the partitions that are ahead are paused."""
    dead_letter: DeadLetterSettings = DeadLetterSettings()
    """Rejected records."""
    label_sets_unused_max: Annotated[int, Field(ge=1000, le=10_000_000)] = 50_000
    """Label sets learned beyond those in use until the unused ones are forgotten: pods come and go, so do made-up ids."""
    labels: dict[str, str] = {}
    """Labels for samples that lack them, e.g. {cluster: east-1, region: us-east-1}."""


class FleetSettings(Section):
    """The GPUs and who holds them."""

    tick_s: Annotated[float, Field(ge=1, le=300)] = 15
    """Rules are evaluated at multiples of this in event time."""
    entities_max: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """GPUs and MIG instances tracked; a new one beyond is rejected and counted."""
    stale_after_s: Annotated[float, Field(ge=1, le=86_400)] = 180
    """A value older than this is no longer believed; a GPU without fresh values is unknown, never idle. At least tick_s."""
    attribution_ttl_s: Annotated[float, Field(ge=0, le=86_400)] = 600
    """How long the holder is remembered while its labels are missing."""
    forget_after_s: Annotated[float, Field(ge=60)] = 86_400
    """A GPU that was silent for so long is dropped from metrics and pages, and its place is reused."""
    teams: dict[str, str] = {}
    """Owner of a namespace: {namespace pattern: team}; patterns as in shells."""

    @model_validator(mode="after")
    def _fresh_for_a_tick(self) -> Self:
        # Otherwise a value could be stale before the tick that it belongs to is judged.
        if self.stale_after_s < self.tick_s:
            raise ValueError(f"stale_after_s: expected at least tick_s ({self.tick_s:g}), got {self.stale_after_s:g}")
        return self


class PriceRule(Section):
    """One price of the user's own; empty fields match everything, the first matching rule wins."""

    model: str = ""
    """Pattern for the GPU model, as in shells."""
    instance_type: str = ""
    """Instance type."""
    region: str = ""
    """Region."""
    capacity_type: Literal["", "on-demand", "spot", "reserved"] = ""
    """Capacity type."""
    cluster: str = ""
    """Cluster."""
    usd_per_gpu_hour: Annotated[float, Field(ge=0, le=10_000)]
    """Price of one whole GPU for one hour."""


class PriceSettings(Section):
    """What a GPU-hour costs."""

    rules: list[PriceRule] = []
    """Own prices; they come before the default table."""
    use_default_table: bool = True
    """Use the built-in list prices where no rule matches; False leaves the price unknown."""


class RouteSettings(Section):
    """Which alerts go where; the first route that matches is taken."""

    owner: str = "*"
    """Pattern for the owner."""
    kind: str = "*"
    """Pattern for the kind of alert; one that no kind matches is refused."""
    receivers: Annotated[list[str], Field(min_length=1)]
    """Names of receivers."""


class AlertingSettings(Section):
    """From findings to messages."""

    group_wait_s: Annotated[float, Field(ge=0, le=3600)] = 60
    """How long the first alert of a group (kind and owner) waits for others to go into the same message."""
    group_interval_s: Annotated[float, Field(ge=0, le=86_400)] = 300
    """How long further alerts of a group wait after a message."""
    repeat_interval_s: Annotated[float, Field(ge=60)] = 4 * 3600
    """A group that still fires is repeated after so long."""
    send_resolved: bool = True
    """Also tell when it is over."""
    alerts_per_notification_max: Annotated[int, Field(ge=1, le=1000)] = 20
    """How many alerts a message lists; the rest is counted."""
    usd_per_hour_min: Annotated[float, Field(ge=0)] = 0
    """Groups that waste less are tracked and shown, but not sent."""
    expire_after_s: Annotated[float, Field(ge=60)] = 24 * 3600
    """A message that could not be delivered for so long (wall time) is given up, counted and logged."""
    outbox_rows_max: Annotated[int, Field(ge=100)] = 100_000
    """Undelivered messages; at the limit reading stops until some are delivered."""
    routes: list[RouteSettings] = [RouteSettings(receivers=["console"])]
    """Where messages go."""
    page_url: str = ""
    """Address of the page as people reach it, for links in messages; empty sends no link."""


class StateSettings(Section):
    """What survives a restart."""

    directory: str = "state"
    """Folder for snapshots, outbox and dead letters; created with mode 0700; one process at a time."""
    checkpoint_interval_s: Annotated[float, Field(ge=0.05, le=600)] = 5
    """Wall time between two checkpoints; as much is replayed after a crash."""


class HttpSettings(Section):
    """Metrics, API and page."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 9615
    """Port; 0 takes a free one."""
    allow_beyond_loopback: bool = False
    """There is no login: another address than loopback is refused unless this is set."""
    gpu_series_max: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Per-GPU series on /metrics, the most wasteful first; 0 exposes none. What is left out is counted."""
    owner_series_max: Annotated[int, Field(ge=0, le=100_000)] = 200
    """Per-owner series on /metrics, the most wasteful first; the rest is summed as owner="_other"."""


class LogSettings(Section):
    """Logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written. Kafka's own loggers never go below info: at debug they print passwords."""
    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, JSON otherwise."""


class WatchdogSettings(Section):
    """Ends a process that is stuck, with the stacks of all its threads, so that a supervisor restarts it."""

    stuck_after_s: Annotated[float, Field(ge=5)] = 120
    """The loop must come round within this."""


class Settings(Section):
    """Everything. `service.config` adds `detectors` and `alerting.receivers` from the plug-ins."""

    source: SourceSettings = SourceSettings()
    """Where events come from."""
    ingest: IngestSettings = IngestSettings()
    """From bytes to rows."""
    fleet: FleetSettings = FleetSettings()
    """The GPUs and who holds them."""
    prices: PriceSettings = PriceSettings()
    """What a GPU-hour costs."""
    alerting: AlertingSettings = AlertingSettings()
    """From findings to messages."""
    state: StateSettings = StateSettings()
    """What survives a restart."""
    http: HttpSettings = HttpSettings()
    """Metrics, API and page."""
    log: LogSettings = LogSettings()
    """Logs."""
    watchdog: WatchdogSettings = WatchdogSettings()
    """Against a stuck process."""
