"""JSON of collectd's write_kafka: an array of value lists, usually of one."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from service.errors import PoisonRecord
from service.ingest.contract import Parsed, Record, Reject, Sample
from service.ingest.instants import instant
from service.ingest.reading import MEASUREMENT, NotANumber, json_document, number

_KINDS = frozenset({"gauge", "derive", "counter", "absolute"})  # all that collectd has
_OPENING = re.compile(rb"\s*[{\[]")


class CollectdJson:
    """[{"values": [67], "dstypes": ["gauge"], "dsnames": ["value"], "time": …, "host": …, "plugin": …, "type": …}].

    A value's name is type.type_instance.dsname without what is empty or "value". Whatever is no gauge was turned into
    a rate on its way, and is named so. "2-NAME" as plugin instance is also given as the labels plugin_index and plugin_name.
    """

    name: ClassVar[str] = "collectd_json"

    def recognises(self, record: Record) -> bool:
        value = record.value
        if value is None or _OPENING.match(value) is None:
            return False
        return b'"dsnames"' in value and b'"dstypes"' in value

    def parse(self, record: Record) -> Parsed:
        document = json_document(record.value or b"")
        parsed = Parsed()
        for item, values in enumerate(document if isinstance(document, list) else (document,)):
            try:
                parsed.samples.append(_sample(values))
            except PoisonRecord as poison:
                parsed.rejects.append(Reject(item, poison.reason, poison.detail))
        return parsed


def _sample(event: object) -> Sample:
    if not isinstance(event, dict):
        raise PoisonRecord("wrong_type", f"expected an object, got {type(event).__name__}")
    if event.get("time") is None:
        raise PoisonRecord("missing_field", "time")
    lists = [event.get(name) for name in ("values", "dstypes", "dsnames")]
    if not all(isinstance(given, list) and len(given) == len(lists[0] or ()) for given in lists):
        raise PoisonRecord("wrong_type", "values, dstypes, dsnames: expected arrays of one length")
    values = {}
    for value, kind, name in zip(*(given or () for given in lists), strict=True):
        if not isinstance(kind, str) or kind not in _KINDS:
            raise PoisonRecord("wrong_type", f"dstypes: expected one of {', '.join(sorted(_KINDS))}, got {kind!r:.40}")
        if not isinstance(name, str):
            raise PoisonRecord("wrong_type", f"dsnames: expected text, got {type(name).__name__}")
        # null is collectd's word for NaN, usual for the first value of a rate: whether it matters depends on the name.
        values[_name(event, kind, name)] = NotANumber("null") if value is None else number(value)
    return Sample(_labels(event), instant(event["time"]), values)


def _name(event: dict[str, Any], kind: str, dsname: str) -> str:
    parts = (event.get("type"), event.get("type_instance"), "" if dsname == "value" else dsname)
    name = ".".join(part for part in parts if isinstance(part, str) and part)
    return name if kind == "gauge" else f"{name} (rate)"


def _labels(event: dict[str, Any]) -> dict[str, str]:
    labels = {name: event[name] for name in ("host", "plugin_instance") if isinstance(event.get(name), str)}
    index, dash, name = labels.get("plugin_instance", "").partition("-")
    if dash and index.isdigit():
        labels |= {"plugin_index": index, "plugin_name": name}
    if isinstance(event.get("plugin"), str):
        labels[MEASUREMENT] = event["plugin"]
    return labels
