"""Scanning: which scanner reads a topic, and the reference that tells it what is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.log import VALUE
from service.ingest.contract import Record, Sample
from service.ingest.fields import FieldTable
from service.ingest.records import Records
from service.ingest.reference import Reference
from service.ingest.scanners import SCANNERS
from service.ingest.scanners.contract import Ask, Bounds, Scanned, Scanner
from service.settings import IngestSettings

LabelSetsOf = Callable[[str, Sequence[str], Sequence[Sequence[str]]], list[int]]  # measurement, names, columns

LESSONS_MAX = 8  # records of a batch from which a scanner may learn


class Scanning:
    """A scanner for each topic, chosen by what its records are; each kept for the format that it has learned."""

    def __init__(
        self,
        reference: Reference,
        fields: FieldTable,
        bounds: Bounds,
        label_set_of: Callable[[Record, Sample], int],
        label_sets_of: LabelSetsOf,
    ) -> None:
        """`label_set_of` returns the id of a sample's label set, negative where it names no GPU; `label_sets_of` many."""
        self._reference = reference
        self._fields = fields
        self._bounds = bounds
        self._label_set_of = label_set_of
        self._label_sets_of = label_sets_of
        self._scanners: dict[str, Scanner] = {}

    def scan(self, topic: str, records: Records) -> Scanned | None:
        """Read what is plain, and learn from some of what is not; None where no scanner knows the topic's format."""
        scanner = self._scanners.get(topic) or self._choose(topic, records, np.flatnonzero(records.span[:, VALUE] >= 0))
        if scanner is None:
            return None
        scanned = scanner.scan(records, self._asking(topic, scanner))
        others = np.flatnonzero(~scanned.plain & (records.span[:, VALUE] >= 0))
        if 2 * len(others) > len(records):
            better = self._choose(topic, records, others)
            if better is not scanner and better is not None:
                return better.scan(records, self._asking(topic, better))
        return self._teach(topic, scanner, records, others) or scanned

    def forget_label_sets(self, used: NDArray[np.bool_]) -> None:
        """Forget which labels mean others than these label sets, bool[label sets]."""
        for scanner in self._scanners.values():
            scanner.forget_label_sets(used)

    def _teach(self, topic: str, scanner: Scanner, records: Records, others: NDArray[np.int64]) -> Scanned | None:
        """Let the scanner learn from a few records that it could not read; scan again if it did."""
        learned = False
        for i in others[: LESSONS_MAX if scanner.learns else 0].tolist():
            record = records[i]
            if self._reference.clean_samples(topic, record, scanner.format):
                learned |= scanner.learn(record)
        return scanner.scan(records, self._asking(topic, scanner)) if learned else None

    def _asking(self, topic: str, scanner: Scanner) -> Ask:
        return _Asking(self._reference, topic, scanner.format, self._label_set_of, self._label_sets_of)

    def _choose(self, topic: str, records: Records, among: NDArray[np.int64]) -> Scanner | None:
        """Return the scanner for the format of the first of these records, the one before where there is none for it."""
        known = self._scanners.get(topic)
        for i in among[:1].tolist():
            format = self._reference.format_of(topic, records[i])
            if format in SCANNERS and (known is None or known.format != format):
                known = self._scanners[topic] = SCANNERS[format](self._fields, self._bounds)
                if self._reference.clean_samples(topic, records[i], format):
                    known.learn(records[i])
        return known


def warm_up_scanners(fields: FieldTable, bounds: Bounds) -> None:
    """Compile what the scanners call, or read it from the cache: a scan of nothing goes through all of it."""
    nothing = Records.of([])
    for build in SCANNERS.values():
        scanner = build(fields, bounds)
        reference = Reference({}, IngestSettings())
        scanner.scan(nothing, _Asking(reference, "", scanner.format, lambda _record, _sample: -1, lambda *_: []))


class _Asking:
    """The questions of one scanner about one topic."""

    def __init__(
        self,
        reference: Reference,
        topic: str,
        format: str,
        label_set_of: Callable[[Record, Sample], int],
        label_sets_of: LabelSetsOf,
    ) -> None:
        self._reference = reference
        self._topic = topic
        self._format = format
        self.label_set = label_set_of
        self._label_sets_of = label_sets_of

    def samples(self, record: Record) -> list[Sample] | None:
        return self._reference.clean_samples(self._topic, record, self._format)

    def label_sets(self, measurement: str, names: Sequence[str], columns: Sequence[Sequence[str]]) -> list[int]:
        return self._label_sets_of(measurement, names, columns)
