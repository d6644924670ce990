"""Reading: what the ways of reading from a consumer have in common, so that KafkaSource need not know which it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from service.ingest.contract import Corrupt, TopicPartition
from service.ingest.kafka_group import at_once
from service.ingest.records import RecordBlock


class Reading(ABC):
    """Polls `consumer`; `positions` tells for every partition that was begun where reading goes on."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.positions: dict[TopicPartition, int] = {}

    def begin(self, partition: TopicPartition, offset: int) -> None:
        """Read `partition` from `offset` on."""
        at_once(self.consumer.seek, partition, offset)
        self.positions[partition] = offset

    def forget(self, partition: TopicPartition) -> None:
        """Drop what is known of a partition that is not ours any more, or will be read from elsewhere."""
        self.positions.pop(partition, None)

    @abstractmethod
    def poll(self, timeout_ms: int) -> Mapping[Any, list[RecordBlock | Corrupt]]:
        """Return what was fetched, and move the positions on."""
