"""Gaps: offsets that the log does not hold any more, found when a fetch is refused, and where reading can go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.ingest.contract import Gap, TopicPartition

ASK_TIMEOUT_MS = 1_000


def out_of_range(consumer: Any, refused: Mapping[Any, int]) -> list[Gap]:
    """Return the gaps behind offsets that a broker called out of range.

    None for an offset that is within the range after all: the answer came from a replica that lags.
    """
    firsts = consumer.beginning_offsets(list(refused), timeout_ms=ASK_TIMEOUT_MS)
    ends = consumer.end_offsets(list(refused), timeout_ms=ASK_TIMEOUT_MS)
    gaps = []
    for partition, offset in refused.items():
        reachable = max(firsts[partition], min(offset, ends[partition]))
        if reachable != offset:
            reason = "retention" if reachable > offset else "truncation"
            gaps.append(Gap(partition.topic, partition.partition, offset, reachable, reason))
    return gaps


def truncated(consumer: Any, divergent: Mapping[Any, Any], positions: Mapping[TopicPartition, int]) -> list[Gap]:
    """Return the gaps behind a leader that does not know what we have read; `divergent` holds where it parts, or None."""
    ends = consumer.end_offsets(list(divergent), timeout_ms=ASK_TIMEOUT_MS)
    gaps = []
    for partition, known in divergent.items():
        position = positions.get(partition)
        if position is not None:
            end = ends[partition] if known is None else known.offset
            gaps.append(Gap(partition.topic, partition.partition, position, min(position, end), "truncation"))
    return gaps
