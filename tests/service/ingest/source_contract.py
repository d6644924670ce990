"""What every Source promises, as functions of a maker: each call of `make` opens the same logs, with two partitions or more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from service.ingest.contract import Record, RecordBatch, Source, TopicPartition

Make = Callable[[], Source]
Batches = dict[TopicPartition, list[RecordBatch]]

PATIENCE_S = 30.0
NONE_PAUSED: frozenset[TopicPartition] = frozenset()


def opened(make: Make) -> Source:
    """Return a source that shows its partitions, none of them sought."""
    source = make()
    deadline_s = time.monotonic() + PATIENCE_S
    while not source.assigned():
        assert not source.poll(0.1, NONE_PAUSED), "read before it was sought"
        assert time.monotonic() < deadline_s, "nothing was assigned"
    return source


def read_to_end(
    source: Source,
    starts: Mapping[TopicPartition, int | None],
    paused: frozenset[TopicPartition] = NONE_PAUSED,
) -> Batches:
    """Seek and read until all unpaused partitions have ended."""
    for partition, offset in starts.items():
        source.seek(partition, offset)
    return read_on(source, starts.keys() - paused, paused)


def read_on(source: Source, wanted: frozenset[TopicPartition] | set[TopicPartition], paused: frozenset[TopicPartition] = NONE_PAUSED) -> Batches:  # fmt: skip
    """Read until `wanted` have ended."""
    found: Batches = {partition: [] for partition in source.assigned()}
    deadline_s = time.monotonic() + PATIENCE_S
    while not all(map(source.ended, wanted)):
        for batch in source.poll(0.1, paused):
            found[TopicPartition(batch.topic, batch.partition)].append(batch)
        assert time.monotonic() < deadline_s, "the end was not reached"
    return found


def records(batches: list[RecordBatch]) -> list[Record]:
    """Return the records of all batches."""
    return [record for batch in batches for record in batch.records]


def from_start(source: Source) -> dict[TopicPartition, int | None]:
    """Return the configured beginning of every partition."""
    return dict.fromkeys(source.assigned())


def everything(make: Make) -> dict[TopicPartition, list[Record]]:
    """Read everything and close."""
    source = opened(make)
    found = {partition: records(batches) for partition, batches in read_to_end(source, from_start(source)).items()}
    source.close()
    return found


def reading_twice_gives_the_same_records(make: Make) -> None:
    first, second = everything(make), everything(make)
    assert first == second
    assert len(first) >= 2
    assert all(first.values())


def reading_from_a_record_gives_that_record_and_all_after_it(make: Make) -> None:
    whole = everything(make)
    source = opened(make)
    middle = {partition: found[len(found) // 2].offset for partition, found in whole.items()}
    tails = read_to_end(source, middle)
    source.close()
    for partition, found in whole.items():
        assert records(tails[partition]) == [record for record in found if record.offset >= middle[partition]]


def a_second_seek_goes_back(make: Make) -> None:
    source = opened(make)
    first = read_to_end(source, from_start(source))
    again = read_to_end(source, from_start(source))
    source.close()
    for partition, batches in first.items():
        assert records(again[partition]) == records(batches)


def batches_chain_without_gap_or_overlap(make: Make) -> None:
    source = opened(make)
    read = read_to_end(source, from_start(source))
    source.close()
    for batches in read.values():
        position = 0
        for batch in batches:
            offsets = [record.offset for record in batch.records]
            assert offsets == sorted(set(offsets))
            assert all(position <= offset < batch.next_offset for offset in offsets)
            assert batch.next_offset >= position
            position = batch.next_offset


def resuming_at_any_next_offset_loses_and_repeats_nothing(make: Make) -> None:
    whole = everything(make)
    source = opened(make)
    read = read_to_end(source, from_start(source))
    source.close()
    resumed = opened(make)
    cuts = {partition: batches[0].next_offset for partition, batches in read.items()}
    tails = read_to_end(resumed, cuts)
    resumed.close()
    for partition, found in whole.items():
        assert records(read[partition][:1]) + records(tails[partition]) == found


def paused_partitions_deliver_nothing_until_they_go_on(make: Make) -> None:
    whole = everything(make)
    source = opened(make)
    waiting = min(source.assigned())
    first = read_to_end(source, from_start(source), frozenset({waiting}))
    assert records(first[waiting]) == []
    assert not source.ended(waiting)
    rest = read_on(source, {waiting})
    source.close()
    assert records(rest[waiting]) == whole[waiting]


def nothing_is_read_before_it_is_sought(make: Make) -> None:
    source = opened(make)
    late = max(source.assigned())
    sought = from_start(source)
    del sought[late]
    read = read_to_end(source, sought)
    assert read[late] == []
    assert not source.ended(late)
    source.close()


def committing_moves_nothing(make: Make) -> None:
    whole = everything(make)
    source = opened(make)
    source.commit(dict.fromkeys(source.assigned(), 3))
    read = read_to_end(source, from_start(source))
    source.commit(dict.fromkeys(source.assigned(), 3))
    source.close()
    assert {partition: records(batches) for partition, batches in read.items()} == whole


def closing_twice_is_closing_once(make: Make) -> None:
    source = opened(make)
    source.close()
    source.close()
    never_polled = make()
    never_polled.close()
    never_polled.close()


PROMISES: tuple[Callable[[Make], None], ...] = (
    reading_twice_gives_the_same_records,
    reading_from_a_record_gives_that_record_and_all_after_it,
    a_second_seek_goes_back,
    batches_chain_without_gap_or_overlap,
    resuming_at_any_next_offset_loses_and_repeats_nothing,
    paused_partitions_deliver_nothing_until_they_go_on,
    nothing_is_read_before_it_is_sought,
    committing_moves_nothing,
    closing_twice_is_closing_once,
)
