"""Membership of a consumer group: what the coordinator gave and took, brought from the client's thread to ours."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import TopicPartition as KafkaPartition

from service.ingest.contract import TopicPartition
from service.settings import KafkaSettings

FETCH_WAIT_MS = 200  # a question to a broker waits behind its pending fetch for so long
HEARTBEAT_MS = 3_000
METADATA_AGE_MAX_MS = 60_000  # how long a partition that was added to a topic goes unnoticed
JOIN_WAIT_MS = 1_000

_log = structlog.get_logger(__name__)


class FencedMember(Exception):
    """Another process took our group_instance_id: this one must end, or both go on reading the same partitions."""


def group_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Return what a group consumer needs beyond the connection."""
    return {
        "group_id": settings.group_id,
        "group_instance_id": settings.group_instance_id or None,
        "partition_assignment_strategy": [CooperativeStickyAssignor],
        "session_timeout_ms": settings.session_timeout_ms,
        "heartbeat_interval_ms": min(HEARTBEAT_MS, settings.session_timeout_ms // 3),
        "max_poll_interval_ms": settings.poll_interval_max_ms,
        "metadata_max_age_ms": METADATA_AGE_MAX_MS,
        **fetch_arguments(settings),
    }


def fetch_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Return what every consumer of ours fetches by: committed records, checked, from where we say and nowhere else."""
    return {
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "check_crcs": True,
        "fetch_max_wait_ms": FETCH_WAIT_MS,
        "fetch_max_bytes": settings.fetch_bytes_max,
        "max_partition_fetch_bytes": settings.partition_fetch_bytes_max,
        "max_poll_records": settings.poll_records_max,
    }


def joined(consumer: Any) -> bool:
    """Tell whether the consumer is a member in good standing, after a wait for a join that is under way.

    3.0.12 forgets a join that outlasts the poll it began in: completed on the IO thread, it is repeated by the next
    poll, or, if its cause was a change of the topics' partitions, never taken note of. The member then sends no
    heartbeat and loses its partitions without a word. Nothing flows during a join, so waiting for it costs nothing.
    """
    coordinator = consumer._coordinator
    if coordinator.rebalance_in_progress() and not coordinator.need_rejoin():
        coordinator.request_rejoin()
    return not coordinator.need_rejoin() or bool(coordinator.poll(timeout_ms=JOIN_WAIT_MS))


def at_once(action: Callable[..., None], partition: TopicPartition, *arguments: int) -> None:
    """Seek, pause or resume a partition, unless the client's own thread has just lost it: the notice is on its way."""
    try:
        action(KafkaPartition(*partition), *arguments)
    except (KeyError, ValueError):
        _log.debug("partition was taken away meanwhile", topic=partition.topic, partition=partition.partition)


class Membership:
    """The partitions that are ours. `current` and its methods belong to the polling thread."""

    def __init__(self) -> None:
        self.current: set[TopicPartition] = set()
        self._unreported: set[TopicPartition] = set()
        self._told: set[TopicPartition] = set()
        # A join that outlasts a poll completes on the client's IO thread whenever it likes; a deque needs no lock.
        self._changes: deque[tuple[bool, frozenset[TopicPartition]]] = deque()

    def listener(self, consumer: Any) -> ConsumerRebalanceListener:
        """Return a listener that writes down the changes."""
        return _Listener(consumer, self._changes)

    def update(self) -> set[TopicPartition]:
        """Take in the changes, and return the partitions that were taken away since the last call."""
        taken: set[TopicPartition] = set()
        while self._changes:
            given, partitions = self._changes.popleft()
            if given:
                self.current |= partitions
            else:
                self.current -= partitions
                taken |= partitions
        self._unreported |= taken
        self._told -= taken
        return taken

    def report(self) -> frozenset[TopicPartition]:
        """Return what is ours, less what was taken away lately: its loss must be seen before its return."""
        self._told |= self._unreported
        return frozenset(self.current - self._unreported)

    def begin_poll(self) -> None:
        """Let what was reported as lost be shown again.

        Not before: several ask between two polls, and the one that seeks need not be the first.
        """
        self._unreported -= self._told
        self._told.clear()

    def lose_all(self) -> set[TopicPartition]:
        """Count everything as lost: the client that was the member is gone."""
        self._changes.append((False, frozenset(self.current)))
        return self.update()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Called on the client's IO thread, where any blocking call fails: it sets local fields and takes notes."""

    def __init__(self, consumer: Any, changes: deque[tuple[bool, frozenset[TopicPartition]]]) -> None:
        self._consumer = consumer
        self._changes = changes

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        for partition in assigned:
            self._consumer.pause(partition)
            # Any position at all keeps the client from looking for a committed one, and from failing without.
            self._consumer.seek(partition, 0)
        self._note(True, assigned)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._note(False, revoked)

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self._note(False, lost)

    def _note(self, given: bool, partitions: Iterable[Any]) -> None:
        self._changes.append((given, frozenset(TopicPartition(*each) for each in partitions)))
