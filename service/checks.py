"""Every rule of the configuration beyond its types, in one place: what `check-config` calls valid, `run` accepts.

Left to the start is what another process can change any moment (a port, the state folder), and what only reading the
input tells (two captures of one name); such a problem is told with its line too.

What is written wrongly is a problem whoever reads it; files, folders and secrets count only where they will be used, so
that a simulation runs with the configuration of a service whose certificates lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

from detectors import DETECTORS
from service import config
from service.alerting.notifiers import NOTIFIERS
from service.app import configuration_type
from service.clock import Clock
from service.config import Configuration, Draft, ReceiverSettings
from service.config.routes import check_receivers, check_route
from service.errors import ConfigError, ConfigProblem
from service.http.server import resolved
from service.http.server import setting_problems as http_problems
from service.ingest.file_source import setting_problems as file_problems
from service.ingest.kafka_client import client_arguments, name_problems
from service.ingest.kafka_client import setting_problems as kafka_problems
from service.writable import why_no_file, why_not_writable

Problems = Iterator[ConfigProblem]


class Use(Enum):
    """What a command will do with the configuration, and so what must be there."""

    NOTHING = "nothing"
    KAFKA = "kafka"
    SERVICE = "service"


def load(config_file: Path | None, environ: Mapping[str, str], use: Use, clock: Clock) -> Configuration:
    """Return the checked configuration, or raise ConfigError with every problem at its file and line."""
    checks: list[config.Check] = [
        lambda draft: _kafka(draft, use),
        _dead_letters,
        _http,
        _routes,
    ]
    if use is Use.SERVICE:
        checks += [_address, _input, _truth, _state, lambda draft: _receivers(draft, clock)]
    return config.load(config_file, environ, configuration_type(), checks)


def _kafka(draft: Draft, use: Use) -> Problems:
    kafka = draft.part("source", "kafka")
    if kafka is None:
        return
    if use is Use.NOTHING or (use is Use.SERVICE and not _uses_kafka(draft)):
        yield from kafka_problems(kafka)
        return
    secrets = config.secret_problems(kafka, ("source", "kafka"))
    yield from secrets
    try:
        client_arguments(kafka)
    except ConfigError as error:
        yield from _further(error.problems, secrets)


def _uses_kafka(draft: Draft) -> bool:
    return "kafka" in {draft.part("source", "kind"), draft.part("ingest", "dead_letter", "kind")}


def _further(problems: list[ConfigProblem], known: list[ConfigProblem]) -> Problems:
    """Yield the problems at places of which nothing was said yet: one reason why a file cannot be read is enough."""
    said = {problem.path for problem in known}
    return (problem for problem in problems if problem.path not in said)


def _dead_letters(draft: Draft) -> Problems:
    letters, kafka = draft.part("ingest", "dead_letter"), draft.part("source", "kafka")
    if letters is None:
        return
    path = "ingest.dead_letter.topic"
    yield from name_problems(path, letters.topic)
    if letters.kind == "kafka" and kafka is not None and letters.topic in kafka.topics:
        yield ConfigProblem(path, f"{letters.topic!r} is also in source.kafka.topics: expected a topic of its own")


def _http(draft: Draft) -> Problems:
    http = draft.part("http")
    if http is not None:
        yield from http_problems(http)


def _address(draft: Draft) -> Problems:
    http = draft.part("http")
    if http is None or http_problems(http):
        return
    try:
        resolved(http)
    except ConfigError as error:
        yield from error.problems


def _routes(draft: Draft) -> Problems:
    receivers = draft.items("alerting", "receivers")
    names = _receiver_names(draft, receivers or [])
    yield from check_receivers(names)
    # Where a receiver has no name that can be read, nobody knows which route meant it.
    certain = receivers is not None and len(names) == len(receivers)
    kinds = [kind.name for detector in DETECTORS.values() for kind in detector.kinds]
    for i, route in enumerate(draft.items("alerting", "routes") or []):
        if route is not None:
            yield from check_route(i, route, names if certain else route.receivers, kinds)


def _receiver_names(draft: Draft, receivers: list[ReceiverSettings | None]) -> list[str]:
    names = []
    for i, receiver in enumerate(receivers):
        name = receiver.name if receiver else draft.raw("alerting", "receivers", i, "name")
        if isinstance(name, str):
            names.append(name)
    return names


def _receivers(draft: Draft, clock: Clock) -> Problems:
    for i, receiver in enumerate(draft.items("alerting", "receivers") or []):
        if receiver is None:
            continue
        secrets = config.secret_problems(receiver, ("alerting", "receivers", i))
        yield from secrets
        try:
            NOTIFIERS[receiver.type].from_params(receiver, clock, "")
        except ConfigError as error:
            yield from _further([_at_its_key(p, i, receiver) for p in error.problems], secrets)


def _at_its_key(problem: ConfigProblem, i: int, receiver: ReceiverSettings) -> ConfigProblem:
    """Return a notifier's problem at the parameter that it names, as every other problem is."""
    path = f"alerting.receivers[{i}]"
    key, found, message = problem.message.partition(": ")
    if not found or key not in type(receiver).model_fields:
        return ConfigProblem(path, problem.message)
    return ConfigProblem(f"{path}.{key}", message)


def _input(draft: Draft) -> Problems:
    files = draft.part("source", "file")
    if files is not None and draft.part("source", "kind") == "file":
        yield from file_problems(files)


def _truth(draft: Draft) -> Problems:
    fleet = draft.part("source", "simulate")
    if fleet is None or not fleet.truth_file or draft.part("source", "kind") != "simulate":
        return
    if why := why_no_file(Path(fleet.truth_file)):
        yield ConfigProblem("source.simulate.truth_file", f"{fleet.truth_file} cannot be written: {why}")


def _state(draft: Draft) -> Problems:
    state = draft.part("state")
    if state is not None and (why := why_not_writable(Path(state.directory))):
        expected = "expected a folder that this user may write to"
        yield ConfigProblem("state.directory", f"{state.directory} cannot be used: {why}; {expected}")
