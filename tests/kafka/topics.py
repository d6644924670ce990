"""What tests do to a broker: make topics, write records, transactions included, and delete old ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.structs import TopicPartition as KafkaPartition

from tests.kafka.broker import PASSWORD, USER, Broker

_numbers = itertools.count()


class Message(NamedTuple):
    """A record to write."""

    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes]] = []
    timestamp_ms: int = 1_767_960_000_000


def client(broker: Broker) -> dict[str, Any]:
    """Return the arguments of a kafka-python client of this broker."""
    sasl = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": USER,
        "sasl_plain_password": PASSWORD,
    }
    return {"bootstrap_servers": broker.address} | (sasl if broker.sasl else {})


def new_topic(broker: Broker, partitions: int = 1, **settings: str) -> str:
    """Create a topic of a name of its own and return the name."""
    name = f"topic-{next(_numbers)}"
    admin = KafkaAdminClient(**client(broker))
    admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
    admin.close()
    return name


def topics(broker: Broker) -> set[str]:
    """Return the names of all topics."""
    admin = KafkaAdminClient(**client(broker))
    found = set(admin.list_topics())
    admin.close()
    return found


def delete_before(broker: Broker, topic: str, offset: int, partition: int = 0) -> None:
    """Delete the records below `offset`, as retention does."""
    admin = KafkaAdminClient(**client(broker))
    admin.delete_records({KafkaPartition(topic, partition): offset})
    admin.close()


def flip(broker: Broker, topic: str, needle: bytes) -> None:
    """Change one byte of a record in the broker's own file; brokers do not check what they send."""
    path = broker.folder / "data" / f"{topic}-0" / "00000000000000000000.log"
    at = path.read_bytes().index(needle)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"K")


def write(broker: Broker, topic: str, messages: Iterable[Message], partition: int = 0, **settings: Any) -> None:
    """Write the messages, as one batch if they fit, and wait until they are there."""
    with _producer(broker, **settings) as producer:
        _send(producer, topic, messages, partition)


def write_transaction(
    broker: Broker, topic: str, messages: Iterable[Message], *, commit: bool, partition: int = 0
) -> None:
    """Write the messages in a transaction that is committed or aborted; its marker takes an offset of its own."""
    with _producer(broker, transactional_id=f"transaction-{next(_numbers)}") as producer:
        producer.init_transactions()
        producer.begin_transaction()
        _send(producer, topic, messages, partition)
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()


def numbered(first: int, next_: int) -> list[Message]:
    """Return messages whose values are their numbers."""
    return [Message(b"%d" % number, b"key-%d" % number) for number in range(first, next_)]


@contextmanager
def _producer(broker: Broker, **settings: Any) -> Iterator[Any]:
    producer = KafkaProducer(**client(broker), linger_ms=200, batch_size=1 << 20, **settings)
    try:
        yield producer
    finally:
        producer.close(timeout=10)


def _send(producer: Any, topic: str, messages: Iterable[Message], partition: int) -> None:
    futures = [
        producer.send(
            topic, value=m.value, key=m.key, headers=m.headers, partition=partition, timestamp_ms=m.timestamp_ms
        )
        for m in messages
    ]
    producer.flush(timeout=20)
    for future in futures:
        future.get(timeout=0)
