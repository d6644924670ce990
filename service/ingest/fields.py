"""The field table at work: metric names to columns and units, raw labels to label sets, as fields.yaml says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from detectors.columns import COLUMNS, INDEX
from detectors.labels import LabelSet
from service.errors import ConfigError, ConfigProblem
from service.ingest.label_reading import HOLDER_FIELDS, Context, Reading, first_of, fits, reading_of
from service.ingest.reading import MEASUREMENT

TABLE_FILE = Path(__file__).with_name("fields.yaml")
_NEVER = float("inf")
_CACHE_MAX = 1 << 14  # names and measurements come from outside: neither cache may grow with them
_READINGS_MAX, _NAMES_MAX = 1 << 10, 64  # what is left of the table, for so many sets of so many names at most
_TEXTS_MAX = 1 << 16
UUID_PREFIXES = ("GPU-", "MIG-")


class Metric(NamedTuple):
    """Where a metric goes: `raw * multiply / divide + 0.0` in `column`, if that lies in [lowest, highest].

    The +0.0 makes one zero of the two. A raw value of at least `suspect_from`, or of a size of at least `blank_from`,
    may be a code for "no value" (`FieldTable.is_blank`). `column` is -1 for a metric that is known and ignored.
    """

    column: int
    multiply: float = 1.0
    divide: float = 1.0
    lowest: float = 0.0
    highest: float = 0.0
    suspect_from: float = _NEVER
    blank_from: float = _NEVER


class Choice(NamedTuple):
    """A metric that is meant where all the labels have these values; "" stands for a missing label."""

    when: tuple[tuple[str, str], ...]
    metric: Metric


Entry = Metric | list[Choice] | None
IGNORED = Metric(-1)


def choose(choices: list[Choice], labels: Mapping[str, str]) -> Metric | None:
    """Return the first choice that fits the labels, None if none does."""
    for choice in choices:
        if all(labels.get(name, "") == value for name, value in choice.when):
            return choice.metric
    return None


class Lookup(dict[str, Entry]):
    """Metric names under one measurement; asked for a name it does not hold, it finds out and remembers. None is unknown."""

    def __init__(self, names: Mapping[str, Entry], ignored: re.Pattern[str], fallback: Lookup | None) -> None:
        super().__init__(names)
        self._known = len(names)
        self._ignored = ignored
        self._fallback = fallback

    def __missing__(self, name: str) -> Entry:
        if self._ignored.fullmatch(name):
            entry: Entry = IGNORED
        else:
            entry = self._fallback[name] if self._fallback is not None else None
        if len(self) < self._known + _CACHE_MAX:
            self[name] = entry
        return entry


class FieldTable:
    """The table, ready to be asked. Immutable but for its caches; give every decoder its own."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        """`table` as in fields.yaml. Raises ConfigError with every problem found."""
        problems: list[ConfigProblem] = []
        blanks = table["blanks"]
        self._codes = frozenset(float(code) for code in blanks["codes"])
        self.codes = np.array(sorted(self._codes))
        self._blank_from = float(blanks["at_least"])
        self.blank_texts = frozenset(blanks["texts"])
        self._value_fields = tuple(table["value_fields"])
        self._everywhere, self._by_measurement = self._lookups(table["sources"], problems)
        self._last_resort = {name: tuple(aliases) for name, aliases in table["last_resort"].items()}
        self.exporters = tuple(table["exporters"])
        self.spellings: Mapping[str, Mapping[str, str]] = table["spellings"]
        self._general = Context(_aliases(table["labels"], problems), tuple(table["holders"]), False)
        self._contexts = {name: self._context(given, problems) for name, given in table["contexts"].items()}
        if problems:
            raise ConfigError(problems)
        self._measured: dict[str, Lookup] = {}
        self._readings: dict[tuple[int, tuple[str, ...]], Reading] = {}
        self._texts: dict[str, str] = {}

    @classmethod
    def load(cls, path: Path = TABLE_FILE) -> FieldTable:
        """Read the table from YAML; the one that comes with the package by default."""
        return cls(yaml.safe_load(path.read_text(encoding="utf-8")))

    def lookup(self, measurement: str) -> Lookup:
        """Return what metric names mean under a measurement ("" where the format knows none): Metric, choices, or None."""
        known = self._by_measurement.get(measurement) or self._measured.get(measurement)
        if known is not None:
            return known
        owner = self._everywhere[measurement]
        if owner is None:
            return self._everywhere
        if len(self._measured) >= _CACHE_MAX:
            self._measured.clear()
        fresh = Lookup(dict.fromkeys(self._value_fields, owner), _pattern(()), self._everywhere)
        self._measured[measurement] = fresh
        return fresh

    def is_blank(self, metric: Metric, raw: float) -> bool:
        """Tell whether a suspect raw value is a code for "no value"."""
        return metric.blank_from < _NEVER and (raw in self._codes or metric.blank_from <= abs(raw) < _NEVER)

    def is_blank_text(self, text: str) -> bool:
        """Tell whether text in the place of a number, or of a label, says that there is none."""
        return text in self.blank_texts

    def label_set(self, raw: Mapping[str, str], defaults: Mapping[str, str]) -> LabelSet:
        """Return the label set that raw labels mean; `defaults` (by field name) fill what is missing."""
        reading = self._reading(raw.get(MEASUREMENT, ""), tuple(raw))
        folded: dict[str, str] = {}
        for name, lowered in reading.names:
            value = raw[name]
            if value and value not in self.blank_texts:
                folded.setdefault(lowered, value)
        found = first_of(reading.aliases, folded)
        found.update(self._holder(reading.holders, folded))
        if not found.get("uuid") and found.get("gpu", "").startswith(UUID_PREFIXES):
            found["uuid"] = found.pop("gpu")
        for name, value in defaults.items():
            found.setdefault(name, value)
        for name, value in first_of(reading.last_resort, folded).items():
            found.setdefault(name, value)
        if reading.lone_gpu_is_uuid and not found.get("uuid") and not found.get("node") and "gpu" in found:
            found["uuid"] = found.pop("gpu")
        for name in self.spellings:
            if name in found:
                found[name] = self.spelled(name, found[name])
        uuid = found.pop("uuid", "")
        return LabelSet(**dict(zip(found, self.shared(list(found.values())), strict=True)), uuid=uuid)

    def spelled(self, name: str, text: str) -> str:
        """Return the one spelling of a label of which there are several."""
        word = text.lower().replace("_", "-")
        return str(self.spellings[name].get(word, word))

    def shared(self, texts: Sequence[str]) -> list[str]:
        """Return equal texts that were met before, so that a thousand GPUs of a namespace hold its name once."""
        if len(self._texts) + len(texts) > _TEXTS_MAX:
            self._texts.clear()
        return list(map(self._texts.setdefault, texts, texts))

    def _reading(self, measurement: str, names: tuple[str, ...]) -> Reading:
        """Return what is left of the table for labels of these names: of a hundred spellings a handful."""
        context = self._contexts.get(measurement, self._general)
        known = self._readings.get((id(context), names))
        if known is not None:
            return known
        reading = reading_of(context, self._last_resort, names)
        if len(names) <= _NAMES_MAX:
            if len(self._readings) >= _READINGS_MAX:
                self._readings.clear()
            self._readings[id(context), names] = reading
        return reading

    def _holder(self, holders: Iterable[Mapping[str, Any]], folded: Mapping[str, str]) -> dict[str, str]:
        """Return namespace, pod and container of whoever has the GPU, and nothing where that is the exporter."""
        for family in holders:
            holder = {name: folded[family[name]] for name in HOLDER_FIELDS if family[name] in folded}
            if not holder:
                continue
            if not any(fits(exporter, holder) for exporter in self.exporters):
                return holder
            if family.get("final"):
                break
        return {}

    def _context(self, given: Mapping[str, Any], problems: list[ConfigProblem]) -> Context:
        aliases = {**self._general.aliases, **_aliases(given.get("labels", {}), problems)}
        holders = tuple(given.get("holders", self._general.holders))
        return Context(aliases, holders, bool(given.get("lone_gpu_is_uuid")))

    def _lookups(self, sources: Mapping[str, Any], problems: list[ConfigProblem]) -> tuple[Lookup, dict[str, Lookup]]:
        everywhere: dict[str, Entry] = {}
        ignored: list[str] = []
        scoped: dict[str, tuple[dict[str, Entry], list[str]]] = {}
        for source, given in sources.items():
            names = {
                name: self._entry(f"sources.{source}.{name}", given, metric, problems)
                for name, metric in given["metrics"].items()
            }
            if given.get("columns"):
                names = {**{column.name: _metric(column.name, {}) for column in COLUMNS}, **names}
            for measurement in given.get("measurements", ()):
                scoped[measurement] = (names, given.get("ignored", []))
            if "measurements" not in given:
                problems += [
                    ConfigProblem(f"sources.{source}.{name}", "named twice") for name in names if name in everywhere
                ]
                everywhere |= names
                ignored += given.get("ignored", [])
        general = Lookup(everywhere, _pattern(ignored), None)
        return general, {
            measurement: Lookup(names, _pattern(patterns), general) for measurement, (names, patterns) in scoped.items()
        }

    def _entry(self, path: str, source: Mapping[str, Any], given: Any, problems: list[ConfigProblem]) -> Entry:
        choices = given if isinstance(given, list) else [given]
        read: list[Choice] = []
        for choice in choices:
            column = choice.get("column")
            unknown = choice.keys() - {"column", "multiply", "divide", "blank_at_least", "when"}
            if column not in INDEX or unknown:
                problems.append(
                    ConfigProblem(path, f"expected a column of detectors.columns and known keys, got {choice}")
                )
                continue
            metric = _metric(column, choice)
            if source.get("blanks"):
                blank_from = float(choice.get("blank_at_least", self._blank_from))
                metric = metric._replace(suspect_from=min(self._codes), blank_from=blank_from)
            read.append(Choice(tuple(sorted(choice.get("when", {}).items())), metric))
        if isinstance(given, list):
            return read
        return read[0].metric if read else None


def _metric(column: str, given: Mapping[str, Any]) -> Metric:
    index = INDEX[column]
    _, lowest, highest, _ = COLUMNS[index]
    return Metric(
        index,
        float(given.get("multiply", 1)),
        float(given.get("divide", 1)),
        float(lowest),
        float(highest),
    )


def _aliases(given: Mapping[str, Iterable[str]], problems: list[ConfigProblem]) -> dict[str, tuple[str, ...]]:
    """Return the names per field in lower case, each also as Prometheus renames it: exported_X, before all plain ones."""
    problems += [
        ConfigProblem(f"labels.{name}", "no field of LabelSet") for name in given if name not in LabelSet._fields
    ]
    lowered = {name: [alias.lower() for alias in aliases] for name, aliases in given.items()}
    return {name: (*(f"exported_{alias}" for alias in aliases), *aliases) for name, aliases in lowered.items()}


def _pattern(globs: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")
