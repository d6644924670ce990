"""From settings to a connected Kafka client: addresses, TLS, SASL, and what must be refused before the first byte."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kafka.net.compat import KafkaNetClient

from service.clock import Clock
from service.config import why_not_private
from service.errors import ConfigError, ConfigProblem, Unavailable
from service.loopback import is_loopback
from service.settings import KafkaSasl, KafkaSettings, KafkaTls

Client = TypeVar("Client")

BOOTSTRAP_TIMEOUT_MS = 5_000
RECONNECT_BACKOFF_MAX_MS = 5_000  # the client's own 30 s would prolong every broker restart
BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 30.0
NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")  # of topics and group instances, as the broker checks them


def client_arguments(settings: KafkaSettings, path: str = "source.kafka") -> dict[str, Any]:
    """Return what consumer and producer have in common.

    Raises ConfigError with every problem found; `path` is where the settings stand in config.yaml.
    """
    problems = setting_problems(settings, path)
    arguments: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": "skinflint",
        "security_protocol": settings.security,
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "reconnect_backoff_max_ms": RECONNECT_BACKOFF_MAX_MS,
        "metrics_enabled": False,
    }
    if settings.security.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(settings.tls, f"{path}.tls", problems)
    if settings.security.startswith("SASL"):
        arguments |= _sasl_arguments(settings.sasl, f"{path}.sasl", problems)
    if problems:
        raise ConfigError(problems)
    return arguments


def setting_problems(settings: KafkaSettings, path: str = "source.kafka") -> list[ConfigProblem]:
    """Return what is wrong with the settings wherever they are used: reads no file and needs no secret."""
    return [
        *_address_problems(settings, path),
        *_name_problems(settings, path),
        *_security_problems(settings, path),
        *_sasl_problems(settings, f"{path}.sasl"),
    ]


def name_problems(path: str, name: str) -> list[ConfigProblem]:
    """Return a problem unless the broker would take `name` for a topic or a group instance."""
    if NAME.fullmatch(name) and name not in {".", ".."}:
        return []
    return [ConfigProblem(path, f"{name!r}: expected 1 to 249 of the characters A-Z a-z 0-9 . _ -")]


def built(construct: Callable[..., Client], arguments: dict[str, Any]) -> Client:
    """Construct a consumer or producer, and stop its IO thread when its constructor fails half way.

    kafka-python starts the thread before it bootstraps and leaves it running if that fails, so that each attempt
    to reach a broker that is down would leak one.
    """
    clients: list[KafkaNetClient] = []

    def client(**configs: Any) -> KafkaNetClient:
        fresh = KafkaNetClient(**configs)
        # 3.0.12 accepts allow_auto_create_topics and does not hand it on: a typing mistake would create a topic.
        fresh._manager.cluster.config["allow_auto_create_topics"] = False
        clients.append(fresh)
        return fresh

    try:
        return construct(kafka_client=client, **arguments)
    except BaseException:
        for each in clients:
            each.close()
        raise


class Backoff:
    """How long to leave a broker alone before the next client is built: doubling, and forgotten at the first answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wait_s = BACKOFF_FIRST_S
        self._until_s = clock.monotonic_s()

    def check(self, what: str) -> None:
        """Raise Unavailable while it is too early."""
        left_s = self._until_s - self._clock.monotonic_s()
        if left_s > 0:
            raise Unavailable(f"{what}: waiting before the next attempt", retry_after_s=left_s)

    def grow(self) -> float:
        """Start the next wait and return its length in seconds."""
        wait_s = self._wait_s
        self._until_s = self._clock.monotonic_s() + wait_s
        self._wait_s = min(2 * wait_s, BACKOFF_MAX_S)
        return wait_s

    def reset(self) -> None:
        """Something answered: the next wait is a short one again."""
        self._wait_s = BACKOFF_FIRST_S


def _address_problems(settings: KafkaSettings, path: str) -> list[ConfigProblem]:
    problems = []
    far = []
    for i, server in enumerate(settings.bootstrap_servers):
        host, colon, port = server.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65_536):
            problems.append(ConfigProblem(f"{path}.bootstrap_servers[{i}]", f"{server!r}: expected host:port"))
        elif not is_loopback(host.strip("[]")):
            far.append(server)
    encrypted = settings.security.endswith("SSL")
    if far and not encrypted and not settings.allow_plaintext_beyond_loopback:
        problems.append(
            ConfigProblem(
                f"{path}.security",
                f"{settings.security} to {', '.join(far)} would cross the network unencrypted: expected SSL or "
                "SASL_SSL, or allow_plaintext_beyond_loopback: true",
            )
        )
    return problems


def _name_problems(settings: KafkaSettings, path: str) -> list[ConfigProblem]:
    problems = [p for i, topic in enumerate(settings.topics) for p in name_problems(f"{path}.topics[{i}]", topic)]
    if settings.group_instance_id:
        problems += name_problems(f"{path}.group_instance_id", settings.group_instance_id)
    if not settings.group_id:
        problems.append(ConfigProblem(f"{path}.group_id", "is empty: expected the name of a group"))
    return problems


def _security_problems(settings: KafkaSettings, path: str) -> list[ConfigProblem]:
    """Find settings that contradict `security`: ignoring them would leave the operator with a false belief."""
    problems = []
    if settings.tls != KafkaTls() and not settings.security.endswith("SSL"):
        problems.append(ConfigProblem(f"{path}.tls", f"is not used with {settings.security}: expected SSL or SASL_SSL"))
    if settings.sasl.mechanism and not settings.security.startswith("SASL"):
        problems.append(
            ConfigProblem(
                f"{path}.sasl",
                f"is not used with {settings.security}: expected SASL_SSL or SASL_PLAINTEXT",
            )
        )
    return problems


def _sasl_problems(settings: KafkaSettings, path: str) -> list[ConfigProblem]:
    sasl = settings.sasl
    if not settings.security.startswith("SASL"):
        return []
    problems = []
    if not sasl.mechanism:
        problems.append(ConfigProblem(f"{path}.mechanism", "is empty: expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"))
    if not sasl.username:
        problems.append(ConfigProblem(f"{path}.username", "is empty: expected a user name"))
    if sasl.password.get_secret_value() and sasl.password_file:
        problems.append(ConfigProblem(f"{path}.password_file", "stands beside password: expected one of them"))
    return problems


def _ssl_context(tls: KafkaTls, path: str, problems: list[ConfigProblem]) -> ssl.SSLContext:
    """Return a context that checks chain and name; of our own, since the client ignores its `ssl_ciphers`."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca_file:
        # The system's authorities are not trusted beside the ones named here.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cafile=tls.ca_file)
        except OSError as error:
            problems.append(_unreadable(f"{path}.ca_file", tls.ca_file, "PEM certificates", error))
    if tls.key_file and not tls.cert_file:
        problems.append(ConfigProblem(f"{path}.cert_file", "is empty: expected the certificate of key_file"))
    if tls.cert_file:
        try:
            # A password prompt would hang a service, so an encrypted key must fail instead.
            context.load_cert_chain(tls.cert_file, tls.key_file or None, password=lambda: b"")
            key, name = ("key_file", tls.key_file) if tls.key_file else ("cert_file", tls.cert_file)
            if why := why_not_private(Path(name).stat().st_mode, name):
                problems.append(ConfigProblem(f"{path}.{key}", why))
        except OSError as error:
            key, name = "cert_file", tls.cert_file
            if tls.key_file and _holds_certificates(tls.cert_file):
                key, name = "key_file", tls.key_file
            expected = "a PEM certificate with its unencrypted key"
            problems.append(_unreadable(f"{path}.{key}", name, expected, error))
    return context


def _sasl_arguments(sasl: KafkaSasl, path: str, problems: list[ConfigProblem]) -> dict[str, Any]:
    password = sasl.password.get_secret_value()
    if sasl.password_file:
        try:
            password = Path(sasl.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(_unreadable(f"{path}.password_file", sasl.password_file, "a password", error))
            return {}
    if not password:
        # The client itself does not refuse an empty password: its check builds the error and never raises it.
        problems.append(
            ConfigProblem(f"{path}.password_file", "no password: expected password_file, or the environment's")
        )
    return {
        "sasl_mechanism": sasl.mechanism,
        "sasl_plain_username": sasl.username,
        "sasl_plain_password": password,
    }


def _holds_certificates(name: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=name)
    except OSError:
        return False
    return True


def _unreadable(path: str, name: str, expected: str, error: Exception) -> ConfigProblem:
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
    return ConfigProblem(path, f"cannot read {name}: {reason}: expected {expected}")
