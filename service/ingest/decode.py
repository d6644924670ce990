"""From records to rows: recognise, parse, resolve, check, pivot; every record ends in exactly one outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.batch import EventBatch
from detectors.labels import LabelSet, LabelSets
from service.errors import PoisonRecord
from service.ingest.contract import Record, RecordBatch, Sample
from service.ingest.fields import FieldTable, Lookup, Metric, choose
from service.ingest.known_labels import NO_GPU, TOO_LONG, KnownLabels, Pairs
from service.ingest.label_columns import Columns
from service.ingest.reading import NotANumber
from service.ingest.records import Records
from service.ingest.reference import Reference
from service.ingest.rows import Rows, with_scanned
from service.ingest.scanners.contract import Bounds
from service.ingest.scanning import Scanning
from service.settings import IngestSettings

# The first four count records, one each; the others count what was found inside them.
OUTCOMES: tuple[str, ...] = (
    "accepted",  # read, with or without rows, perhaps with a dead letter for some of its samples
    "rejected",  # nothing of it could be used: there is a dead letter
    "tombstone",  # no value
    "no_gpu",  # holds nothing about a GPU, such as `up`
    "series_ended",  # series-end markers
    "blank",  # values that say "no value"
    "unknown_metric",  # values under names that are not in the field table
)

_EARLIEST_NS = 1_420_070_400 * 10**9  # 2015
_LATEST_NS = 4_102_444_800 * 10**9  # 2100


class Rejected(NamedTuple):
    """A record of which something is bad: its index in the batch, what was wrong with it first, and in how many samples."""

    record: int
    reason: str
    detail: str
    samples: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a RecordBatch: its records as they were read, their rows, what is bad by record, counts by OUTCOMES."""

    records: Records
    batch: EventBatch
    rejected: list[Rejected]
    outcomes: Counter[str]


class Decoder:
    """Decodes the batches of all partitions; the same record gives the same rows wherever it lies."""

    def __init__(
        self,
        formats_by_topic: Mapping[str, str],
        settings: IngestSettings,
        fields: FieldTable,
        label_sets: LabelSets,
        scanning: bool = True,
    ) -> None:
        """`formats_by_topic` holds keys of FORMATS, or "auto"; topics that are not named are "auto".

        Without `scanning` every record goes through the reference parser, with the same result.
        """
        self._reference = Reference(formats_by_topic, settings)
        self._settings = settings
        self._fields = fields
        self._labels = KnownLabels(fields, label_sets, settings.label_chars_max)
        self._defaults = tuple(sorted(settings.labels.items()))
        self._future_ns = round(settings.future_max_s * 1e9)
        bounds = Bounds(
            _EARLIEST_NS, _LATEST_NS, self._future_ns, settings.record_bytes_max, settings.record_samples_max
        )
        self._scanning = (
            Scanning(self._reference, fields, bounds, self._label_set_of, self._label_sets_of) if scanning else None
        )

    def decode(self, batch: RecordBatch) -> Decoded:
        """Decode all records, in order. Bad bytes raise nothing; they end among the rejected.

        What is plain is scanned; every other record goes to the reference parser, which says what it is. Offsets that could
        not be read count as rejected; they have no record.
        """
        rows = Rows()
        outcomes: Counter[str] = Counter()
        for corrupt in batch.corrupt:
            outcomes["rejected"] += corrupt.next_offset - corrupt.first_offset
        rejected: list[Rejected] = []
        records = Records.of(batch.records)
        scanned = self._scanning.scan(batch.topic, records) if self._scanning is not None else None
        others = range(len(records)) if scanned is None else np.flatnonzero(~scanned.plain).tolist()
        for i in others:
            record = records[i]
            reading = _Reading(record, rows, outcomes, self._latest_ns(record))
            outcomes[self._record(reading, batch.topic)] += 1
            if reading.rejected:
                rejected.append(Rejected(i, reading.reason, reading.detail, reading.rejected))
        read = rows.event_batch(batch)
        if scanned is None or not scanned.plain.any():
            return Decoded(records, read, rejected, outcomes)
        outcomes.update({name: number for name, number in scanned.counts.items() if number})
        return Decoded(records, with_scanned(read, scanned, records.offset), rejected, outcomes)

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget which labels mean others than these label sets, bool[label sets]. What was decoded must be taken in."""
        self._labels.forget(used)
        if self._scanning is not None:
            self._scanning.forget_label_sets(used)

    def _label_set_of(self, record: Record, sample: Sample) -> int:
        return self._labels.meant(sample.labels, self._defaults_with(record))

    def _label_sets_of(self, measurement: str, names: Sequence[str], columns: Columns) -> list[int]:
        return self._labels.meant_by_columns(measurement, names, columns, self._defaults)

    def _record(self, reading: _Reading, topic: str) -> str:
        """Decode one record and return its outcome."""
        record = reading.record
        if record.value is None:
            return "tombstone"
        try:
            parsed = self._reference.read(topic, record).parsed
        except PoisonRecord as poison:
            reading.reject(poison.reason, poison.detail)
            return "rejected"
        for reject in parsed.rejects:
            reading.reject(reject.reason, f"item {reject.item}: {reject.detail}")
        if parsed.ended:
            reading.outcomes["series_ended"] += parsed.ended
        rows_before = len(reading.rows)
        reading.rows.begin_record(record.offset)
        defaults = self._defaults_with(record)
        for sample in parsed.samples:
            self._sample(reading, sample, defaults)
        if reading.rejected and len(reading.rows) == rows_before:
            return "rejected"
        return "accepted" if reading.gpu_seen or parsed.ended else "no_gpu"

    def _sample(self, reading: _Reading, sample: Sample, defaults: Pairs) -> None:
        """Check the values of one sample and put the good ones into its row."""
        labels, time_ns, values = sample
        label_set, lookup = self._labels.find(labels, defaults)
        if label_set == NO_GPU:
            self._sample_without_gpu(reading, sample, lookup)
            return
        reading.gpu_seen = True
        if label_set == TOO_LONG:
            reading.reject("too_large", f"a label of more than {self._settings.label_chars_max} characters")
            return
        if not _EARLIEST_NS <= time_ns < reading.latest_ns:
            reading.reject(*_time_trouble(time_ns, reading))
            return
        rows = reading.rows
        row = -1
        for name, raw in values.items():
            entry = lookup[name]
            metric = choose(entry, labels) if isinstance(entry, list) else entry
            if metric is None:
                reading.outcomes["unknown_metric"] += 1
                continue
            column, multiply, divide, lowest, highest, suspect_from, _ = metric
            if column < 0:
                continue
            value = raw * multiply / divide + 0.0
            plain = raw < suspect_from and lowest <= value <= highest
            if not plain and not self._is_good_after_all(reading, name, raw, metric):
                continue
            if row < 0:
                row = rows.row(label_set, time_ns)
            rows.put(row, column, value)

    def _is_good_after_all(self, reading: _Reading, name: str, raw: float, metric: Metric) -> bool:
        """Judge a value that is blank, or large enough to be, or out of range, or no number; count what is not used."""
        found = raw.found if isinstance(raw, NotANumber) else None
        if self._fields.is_blank(metric, raw) or (found is not None and self._fields.is_blank_text(found)):
            reading.outcomes["blank"] += 1
            return False
        if found is not None:
            reading.reject("wrong_type", f"{name}: expected a number, got {found[:60]!r}")
            return False
        value = raw * metric.multiply / metric.divide
        if not metric.lowest <= value <= metric.highest:
            reading.reject("out_of_range", f"{name}: {raw!r} is outside its range")
            return False
        return True

    def _sample_without_gpu(self, reading: _Reading, sample: Sample, lookup: Lookup) -> None:
        """Metrics of agents and hosts are none of our business; a GPU's metric must say which GPU."""
        for name in sample.values:
            entry = lookup[name]
            metric = choose(entry, sample.labels) if isinstance(entry, list) else entry
            if metric is None:
                reading.outcomes["unknown_metric"] += 1
            elif metric.column >= 0:
                reading.reject("missing_field", f"{name}: no label names the GPU")

    def _defaults_with(self, record: Record) -> Pairs:
        """Return the configured labels overlaid with headers that are named after fields of LabelSet."""
        if not record.headers:
            return self._defaults
        defaults = dict(self._defaults)
        for name, value in record.headers:
            field = name.lower()
            text = value.decode("utf-8", "ignore") if value else ""
            if field in LabelSet._fields and text:
                defaults[field] = text
        return tuple(sorted(defaults.items()))

    def _latest_ns(self, record: Record) -> int:
        """Return the first instant that is too late for a sample of this record."""
        if record.timestamp_ms < 0:
            return _LATEST_NS
        return min(_LATEST_NS, record.timestamp_ms * 1_000_000 + self._future_ns + 1)


class _Reading:
    """One record while it is being decoded: where its rows go, and what was wrong with it first and how often."""

    __slots__ = (
        "detail",
        "gpu_seen",
        "latest_ns",
        "outcomes",
        "reason",
        "record",
        "rejected",
        "rows",
    )

    def __init__(self, record: Record, rows: Rows, outcomes: Counter[str], latest_ns: int) -> None:
        self.record = record
        self.rows = rows
        self.outcomes = outcomes
        self.latest_ns = latest_ns
        self.gpu_seen = False
        self.rejected = 0
        self.reason = ""
        self.detail = ""

    def reject(self, reason: str, detail: str) -> None:
        if not self.rejected:
            self.reason, self.detail = reason, detail
        self.rejected += 1


def _time_trouble(time_ns: int, reading: _Reading) -> tuple[str, str]:
    if not _EARLIEST_NS <= time_ns < _LATEST_NS:
        return "time_out_of_range", f"event time {time_ns} ns: expected a time from 2015 to 2099"
    ahead_s = time_ns / 1e9 - reading.record.timestamp_ms / 1e3
    return "future", f"event time {ahead_s:.0f} s after the record's own timestamp"
