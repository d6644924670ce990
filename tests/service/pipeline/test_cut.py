"""A cut is of one instant, whatever the writer and the loop do in whatever order."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline import cut as module
from service.pipeline.cut import Cut
from service.pipeline.snapshot_file import decode, encode


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 16)
    monkeypatch.setattr(module, "COPIED_BYTES_MAX", 32)


def state() -> dict[str, np.ndarray]:
    return {
        "b": np.arange(11, dtype=np.int64),
        "a": np.linspace(0, 1, 12).reshape(4, 3),
        "c": np.empty((0, 5)),
        "d": np.arange(40, dtype=np.int8),
    }


def texts() -> dict[str, np.ndarray]:
    return {"aa": np.frombuffer(b"some text", np.uint8), "z": np.arange(3)}


@given(st.lists(st.booleans(), max_size=60))
def test_what_is_written_is_the_state_of_the_cut_however_ticks_come_between(steps):
    arrays = state()
    cut = Cut(arrays, texts)
    pieces = encode(cut.state, {"n": 1}, cut.read, cut.texts)
    expected = b"".join(encode(state(), {"n": 1}, late=texts))
    written = b""
    for release in steps:
        if release:
            if cut.release():
                for array in arrays.values():
                    array[...] = 7
        else:
            written += b"".join(bytes(piece) for piece in [next(pieces, b"")])
    written += b"".join(bytes(piece) for piece in pieces)
    assert written == expected
    assert decode(io.BytesIO(written), "x")[1] == {"n": 1}


def test_nothing_is_copied_while_no_tick_is_due():
    cut = Cut(state(), texts)
    pieces = list(cut.read("a", cut.arrays()["a"]))
    assert sum(map(len, pieces)) == 12 * 8
    assert not cut._copies


def test_a_round_copies_no_more_than_its_share():
    cut = Cut(state(), texts)
    rounds = 1
    while not cut.release():
        assert len(cut._copies) == 2 * rounds
        rounds += 1
    assert rounds == 8


def test_a_cut_holds_no_more_copies_than_its_limit(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES_MAX", 48)
    cut = Cut(state(), texts)
    for _ in range(20):
        assert not cut.release()
    assert sum(map(len, cut._copies.values())) <= 48 + 16
    writer = encode(cut.state, {}, cut.read, cut.texts)
    released = [cut.release() for _ in writer]
    assert released.index(True) < len(released) - 4  # before the texts, the index and the end
    assert released == sorted(released)


def test_a_block_that_is_being_written_is_waited_for():
    cut = Cut({"a": np.arange(2)}, dict)
    reading = cut.read("a", np.arange(2))
    next(reading)
    assert not cut.release()
    assert next(reading, None) is None
    assert cut.release()


def test_a_cut_whose_writer_failed_holds_nothing_back():
    cut = Cut(state(), texts)
    next(cut.read("a", state()["a"]))
    cut.close()
    assert cut.release()
