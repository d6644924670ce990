"""Batches come out of decoding in their order, whenever they are decoded; the loop waits only when it must."""

from __future__ import annotations

import threading

import pytest

from service.ingest.contract import RecordBatch, TopicPartition
from service.pipeline.ahead import POLLS_MAX, DecodingAhead


def batch(partition):
    return RecordBatch("t", partition, 0, [])


class Gate:
    """A decoder that lets a batch through when told to."""

    def __init__(self):
        self.open = [threading.Event() for _ in range(2 * POLLS_MAX)]

    def decode(self, batch):
        assert self.open[batch.partition].wait(10)
        return batch.partition


@pytest.fixture
def ahead():
    made = DecodingAhead(threaded=True)
    yield made
    made.close()


def taken(ahead, everything=False):
    return [decoded for _, decoded in ahead.take(everything)]


def test_what_is_decoded_comes_out_in_order_while_more_is_underway(ahead):
    gate = Gate()
    ahead.put([batch(0), batch(1)], gate.decode)
    assert taken(ahead) == []
    gate.open[0].set()
    ahead.put([batch(2)], gate.decode)
    found = []
    while not found:
        found = taken(ahead)
    assert found == [0]
    assert ahead.partitions() == {TopicPartition("t", 1), TopicPartition("t", 2)}
    for event in gate.open:
        event.set()
    assert taken(ahead, everything=True) == [1, 2]
    assert not ahead.partitions()


def test_the_loop_waits_for_what_came_too_long_ago(ahead):
    gate = Gate()
    for poll in range(POLLS_MAX):
        ahead.put([batch(poll)], gate.decode)
        assert taken(ahead) == []
    opener = threading.Timer(0.05, gate.open[0].set)
    opener.start()
    ahead.put([batch(POLLS_MAX)], gate.decode)
    assert taken(ahead) == [0]
    opener.join()
    for event in gate.open:
        event.set()


def test_the_loop_waits_for_one_batch_when_no_more_came(ahead):
    gate = Gate()
    ahead.put([batch(0), batch(1)], gate.decode)
    opener = threading.Timer(0.05, gate.open[0].set)
    opener.start()
    ahead.put([], gate.decode)
    assert taken(ahead) == [0]
    opener.join()
    for event in gate.open:
        event.set()


def test_without_a_thread_all_is_decoded_at_once():
    ahead = DecodingAhead(threaded=False)
    ahead.put([batch(0), batch(1)], lambda batch: batch.partition)
    assert taken(ahead) == [0, 1]
