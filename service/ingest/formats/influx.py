"""Influx line protocol, Telegraf's default on Kafka: one or more lines a record."""

from __future__ import annotations

import re
from typing import ClassVar

from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Reject, Sample
from service.ingest.instants import from_epoch
from service.ingest.reading import MEASUREMENT, NotANumber, numeral

_HEAD_BYTES = 4096
# Possessive throughout: a backslash before a special character is taken with it, and nothing is ever tried twice.
_MEASUREMENT = re.compile(r"((?:\\[, ]|[^, \r\n])++)")
_TAG = re.compile(r",((?:\\[,= ]|[^,= \r\n])++)=((?:\\[,= ]|[^,= \r\n])++)")
_FIELD = re.compile(
    r"((?:\\[,= ]|[^,= \r\n])++)="
    r'(?:"((?:\\["\\]|[^"])*+)"'
    r"|([-+]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?)([iu]?)"
    r"|(t|T|true|True|TRUE|f|F|false|False|FALSE))(?=[, \r\n]|\Z)"
)
_SPACES = re.compile(r" ++")
_TIME = re.compile(r" *+(-?[0-9]{1,20}+)? *+\r?(?:\n|\Z)")
_BETWEEN = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_ESCAPE = re.compile(r"\\([,= ])")


class Influx:
    """measurement,tag=value field=1.5,other=2i 1795547844000000000; the time's unit is told by its magnitude."""

    name: ClassVar[str] = "influx"

    def recognises(self, record: Record) -> bool:
        if record.value is None:
            return False
        head = record.value[:_HEAD_BYTES].lstrip()
        opens = head[:1].isalnum() or head[:1] in (b"_", b"#", b"%") or head[:1] > b"\x7f"
        return opens and b"=" in head and b" " in head and b"\x00" not in head

    def parse(self, record: Record) -> Parsed:
        try:
            text = (record.value or b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise PoisonRecord("malformed", str(error)) from None
        parsed = Parsed()
        at, item = _after(_BETWEEN, text, 0), 0
        while at < len(text):
            try:
                sample, end = _line(text, at)
                parsed.samples.append(sample)
            except PoisonRecord as poison:
                parsed.rejects.append(Reject(item, poison.reason, poison.detail))
                end = text.find("\n", at) + 1 or len(text)
            at, item = _after(_BETWEEN, text, end), item + 1
        return parsed


def _line(text: str, at: int) -> tuple[Sample, int]:
    """Read the line at `at`; return its sample and where the next line may begin."""
    start = at
    measurement = _MEASUREMENT.match(text, at)
    if measurement is None:
        raise PoisonRecord("malformed", _near("a measurement", text, at))
    at = measurement.end()
    labels: dict[str, str] = {}
    while (tag := _TAG.match(text, at)) is not None:
        labels[_plain(tag[1])] = _plain(tag[2])
        at = tag.end()
    labels[MEASUREMENT] = _plain(measurement[1])
    gap = _SPACES.match(text, at)
    if gap is None:
        raise PoisonRecord("malformed", _near("a tag or a space", text, at))
    values, at = _fields(text, gap.end())
    time = _TIME.match(text, at)
    if time is None:
        raise PoisonRecord("malformed", _near("a time and the end of the line", text, at))
    if time[1] is None:
        raise PoisonRecord("missing_field", _near("a time", text, start))
    return Sample(labels, from_epoch(int(time[1])), values), time.end()


def _fields(text: str, at: int) -> tuple[dict[str, float], int]:
    values: dict[str, float] = {}
    while True:
        field = _FIELD.match(text, at)
        if field is None:
            raise PoisonRecord("malformed", _near("a field", text, at))
        name, quoted, digits, _, boolean = field.groups()
        found = quoted if quoted is not None else boolean
        values[_plain(name)] = numeral(digits) if found is None else NotANumber(found)
        at = field.end()
        if not text.startswith(",", at):
            return values, at
        at += 1


def _plain(token: str) -> str:
    return _ESCAPE.sub(r"\1", token) if "\\" in token else token


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match is not None else at


def _near(expected: str, text: str, at: int) -> str:
    return f"expected {expected} at {text[at : at + 40]!r}"
