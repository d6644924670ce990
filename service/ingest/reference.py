"""The reference parser: which format a record has and what its samples are; what the scanners are proved against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from service.errors import PoisonRecord
from service.ingest.contract import Format, Parsed, Record, Sample
from service.ingest.formats import FORMATS
from service.settings import IngestSettings


class Read(NamedTuple):
    """A record as one format reads it."""

    format: Format
    parsed: Parsed


class Reference:
    """Reads one record at a time; the same record gives the same samples wherever it lies."""

    def __init__(self, formats_by_topic: Mapping[str, str], settings: IngestSettings) -> None:
        """`formats_by_topic` holds keys of FORMATS, or "auto"; topics that are not named are "auto"."""
        self._formats = {topic: FORMATS[name] for topic, name in formats_by_topic.items() if name != "auto"}
        self._bytes_max = settings.record_bytes_max
        self._samples_max = settings.record_samples_max

    def read(self, topic: str, record: Record) -> Read:
        """Return what the record holds, or raise PoisonRecord.

        Several formats may claim a record, by a word that is another's key and this one's value: the first that reads
        it has it, and if none reads anything of it, the trouble is the first claimant's.
        """
        size = len(record.value or b"")
        if size > self._bytes_max:
            raise PoisonRecord("too_large", f"{size} bytes, at most {self._bytes_max} are read")
        first: Read | PoisonRecord | None = None
        for known in self._claimants(topic, record):
            try:
                read = Read(known, self._within_limits(known.parse(record)))
            except PoisonRecord as poison:
                first = first or poison
                continue
            if read.parsed.samples or read.parsed.ended or not read.parsed.rejects:
                return read
            first = first or read
        if isinstance(first, Read):
            return first
        opening = (record.value or b"")[:24]
        raise first or PoisonRecord("not_recognised", f"no format claims bytes that begin with {opening!r}")

    def clean_samples(self, topic: str, record: Record, format: str) -> list[Sample] | None:
        """Return the samples of a record that is of this format and has nothing to reject, else None."""
        if record.value is None:
            return None
        try:
            read = self.read(topic, record)
        except PoisonRecord:
            return None
        return read.parsed.samples if read.format.name == format and not read.parsed.rejects else None

    def format_of(self, topic: str, record: Record) -> str | None:
        """Return the name of the format that reads the record, None if none does."""
        try:
            return self.read(topic, record).format.name
        except PoisonRecord:
            return None

    def _claimants(self, topic: str, record: Record) -> Iterator[Format]:
        forced = self._formats.get(topic)
        if forced is not None:
            return iter((forced,))
        return (known for known in FORMATS.values() if known.recognises(record))

    def _within_limits(self, parsed: Parsed) -> Parsed:
        samples = len(parsed.samples) + len(parsed.rejects) + parsed.ended
        if samples > self._samples_max:
            raise PoisonRecord("too_large", f"{samples} samples, at most {self._samples_max} are read")
        return parsed
