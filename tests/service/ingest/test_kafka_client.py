"""What is refused before the first byte goes out, and how a client is built."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from service.errors import ConfigError, Unavailable
from service.ingest.contract import TopicPartition
from service.ingest.kafka_client import Backoff, client_arguments
from service.ingest.kafka_group import Membership, group_arguments
from service.settings import KafkaSasl, KafkaSettings, KafkaTls
from tests.fakes.clock import ManualClock

FAR = ["kafka.example:9092"]


def problems(settings: KafkaSettings) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        client_arguments(settings)
    return {problem.path: problem.message for problem in refused.value.problems}


@pytest.mark.parametrize("server", ["127.0.0.1:9092", "localhost:9092", "[::1]:9092", "127.9.9.9:1"])
def test_plaintext_on_loopback_is_accepted(server: str) -> None:
    assert client_arguments(KafkaSettings(bootstrap_servers=[server]))["security_protocol"] == "PLAINTEXT"


@pytest.mark.parametrize("security", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_plaintext_beyond_loopback_is_refused_unless_it_is_allowed(security: str) -> None:
    sasl = KafkaSasl(mechanism="PLAIN", username="u", password="p")  # type: ignore[arg-type]
    settings = KafkaSettings(
        bootstrap_servers=FAR,
        security=security,
        sasl=sasl if security != "PLAINTEXT" else KafkaSasl(),
    )  # type: ignore[arg-type]
    assert "kafka.example:9092 would cross the network unencrypted" in problems(settings)["source.kafka.security"]
    client_arguments(settings.model_copy(update={"allow_plaintext_beyond_loopback": True}))
    encrypted = security.replace("PLAINTEXT", "SSL").replace("SASL_SASL", "SASL")
    client_arguments(settings.model_copy(update={"security": encrypted}))


def test_a_name_that_only_looks_like_loopback_is_not_loopback() -> None:
    assert problems(KafkaSettings(bootstrap_servers=["127.0.0.1.example:9092"])).keys() == {"source.kafka.security"}


def test_every_problem_is_reported_at_once_with_its_path(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    found = problems(
        KafkaSettings(
            bootstrap_servers=["kafka:0", "nonsense"],
            topics=["ok", "not ok"],
            group_instance_id="a/b",
            group_id="",
            security="SASL_SSL",
            tls=KafkaTls(ca_file=missing, key_file=missing),
            sasl=KafkaSasl(password_file=missing),
        )
    )
    assert found.keys() == {
        "source.kafka.bootstrap_servers[0]",
        "source.kafka.bootstrap_servers[1]",
        "source.kafka.topics[1]",
        "source.kafka.group_instance_id",
        "source.kafka.group_id",
        "source.kafka.tls.ca_file",
        "source.kafka.tls.cert_file",
        "source.kafka.sasl.mechanism",
        "source.kafka.sasl.username",
        "source.kafka.sasl.password_file",
    }
    assert found["source.kafka.tls.ca_file"].startswith(f"cannot read {missing}: No such file or directory")


def test_settings_that_the_security_leaves_unused_are_an_error() -> None:
    unused = KafkaSettings(
        tls=KafkaTls(ca_file="ca.pem"),
        sasl=KafkaSasl(mechanism="PLAIN", username="u", password="p"),  # type: ignore[arg-type]
    )
    assert problems(unused).keys() == {"source.kafka.tls", "source.kafka.sasl"}


def test_the_password_comes_from_its_file_without_the_newline_and_never_shows(
    tmp_path: Path,
) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret \n")
    sasl = KafkaSasl(mechanism="SCRAM-SHA-512", username="u", password_file=str(file))
    arguments = client_arguments(KafkaSettings(security="SASL_PLAINTEXT", sasl=sasl))
    assert arguments["sasl_plain_password"] == "s3cret "
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    file.write_text("\n")
    found = problems(KafkaSettings(security="SASL_PLAINTEXT", sasl=sasl))
    assert found.keys() == {"source.kafka.sasl.password_file"}
    both = sasl.model_copy(update={"password": KafkaSasl(password="other").password})  # type: ignore[arg-type]
    assert "other" not in str(problems(KafkaSettings(security="SASL_PLAINTEXT", sasl=both)))


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("pem")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=test", "-days", "2", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(certificate), str(key)


def test_tls_checks_chain_and_name_and_trusts_only_the_named_authority(
    pem: tuple[str, str],
) -> None:
    certificate, key = pem
    tls = KafkaTls(ca_file=certificate, cert_file=certificate, key_file=key)
    settings = KafkaSettings(bootstrap_servers=FAR, security="SSL", tls=tls)
    context = client_arguments(settings)["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert [each["subject"] for each in context.get_ca_certs()] == [((("commonName", "test"),),)]


def test_without_an_authority_the_systems_are_trusted() -> None:
    context = client_arguments(KafkaSettings(bootstrap_servers=FAR, security="SSL"))["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_key_that_is_missing_or_no_key_is_named(pem: tuple[str, str], tmp_path: Path) -> None:
    certificate, _ = pem
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")

    def found(**tls: str) -> set[str]:
        return set(problems(KafkaSettings(bootstrap_servers=FAR, security="SSL", tls=KafkaTls(**tls))))

    assert found(cert_file=certificate, key_file=str(tmp_path / "none")) == {"source.kafka.tls.key_file"}
    assert found(cert_file=certificate, key_file=str(nonsense)) == {"source.kafka.tls.key_file"}
    assert found(cert_file=str(nonsense), key_file=certificate) == {"source.kafka.tls.cert_file"}
    assert found(cert_file=str(tmp_path / "none")) == {"source.kafka.tls.cert_file"}
    assert found(ca_file=str(nonsense)) == {"source.kafka.tls.ca_file"}


@pytest.mark.parametrize("mode, refused", [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_key_that_every_user_may_read_is_refused(
    pem: tuple[str, str], tmp_path: Path, mode: int, refused: bool
) -> None:
    certificate, key = pem
    own, both = tmp_path / "key.pem", tmp_path / "both.pem"
    for file in (own, both):
        file.write_text(Path(key).read_text() + Path(certificate).read_text())
        file.chmod(mode)
    for tls in (KafkaTls(cert_file=certificate, key_file=str(own)), KafkaTls(cert_file=str(both))):
        settings = KafkaSettings(bootstrap_servers=FAR, security="SSL", tls=tls)
        if refused:
            (message,) = problems(settings).values()
            assert "is open to every user" in message
        else:
            assert client_arguments(settings)["security_protocol"] == "SSL"


def test_the_consumer_commits_nothing_by_itself_and_never_chooses_a_position() -> None:
    arguments = group_arguments(KafkaSettings(session_timeout_ms=6000, group_instance_id="one"))
    assert arguments["enable_auto_commit"] is False
    assert arguments["auto_offset_reset"] == "none"
    assert arguments["isolation_level"] == "read_committed"
    assert arguments["heartbeat_interval_ms"] == 2000
    assert arguments["group_instance_id"] == "one"
    assert group_arguments(KafkaSettings())["group_instance_id"] is None


def test_waits_between_attempts_double_up_to_a_limit_and_are_forgotten() -> None:
    clock = ManualClock()
    backoff = Backoff(clock)
    backoff.check("broker")
    assert [backoff.grow() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    with pytest.raises(Unavailable) as refused:
        backoff.check("broker")
    assert refused.value.retry_after_s == 30
    clock.advance(30)
    backoff.check("broker")
    backoff.reset()
    assert backoff.grow() == 1


class _Consumer:
    """Stands in where only local fields are set."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, TopicPartition]] = []

    def pause(self, partition: TopicPartition) -> None:
        self.calls.append(("pause", partition))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.calls.append(("seek", partition))


A, B = TopicPartition("topic", 0), TopicPartition("topic", 1)


def test_a_new_partition_is_paused_before_anything_else() -> None:
    consumer = _Consumer()
    membership = Membership()
    membership.listener(consumer).on_partitions_assigned({A})
    assert consumer.calls == [("pause", A), ("seek", A)]
    assert membership.update() == set()
    assert membership.report() == {A}


def test_a_partition_that_was_lost_and_came_back_is_missing_for_all_who_ask_before_the_next_poll() -> None:
    """The first to ask may only count; the one that seeks would never learn, and the partition would stay paused."""
    membership = Membership()
    listener = membership.listener(_Consumer())
    listener.on_partitions_assigned({A, B})
    membership.update()
    assert membership.report() == {A, B}
    listener.on_partitions_lost({A})
    listener.on_partitions_assigned({A})
    membership.begin_poll()  # one that is repeated before anybody asked
    assert membership.update() == {A}
    assert (membership.report(), membership.report()) == ({B}, {B})
    membership.begin_poll()
    assert membership.update() == set()
    assert membership.report() == {A, B}


def test_revoked_partitions_are_gone_and_a_lost_client_loses_all() -> None:
    membership = Membership()
    listener = membership.listener(_Consumer())
    listener.on_partitions_assigned({A, B})
    listener.on_partitions_revoked({A})
    assert membership.update() == {A}
    assert membership.report() == {B}
    assert membership.lose_all() == {B}
    assert membership.report() == frozenset()
