"""A checkpoint is there whole or not at all, and a damaged one is never loaded."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest

from detectors.state import pieces_of, text_pieces, texts_of
from service.errors import ConfigError, CorruptState, Unavailable
from service.pipeline.checkpoint import Checkpoint, FileCheckpointStore, StateDirectory
from service.pipeline.snapshot_file import decode, encode


def checkpoint(value: int) -> Checkpoint:
    return Checkpoint({"a": np.full(3, value), "text": np.array(["x", "yy"])}, {"n": value})


@pytest.fixture
def directory(tmp_path):
    found = StateDirectory(tmp_path / "state")
    yield found
    found.release()


def files(directory):
    return sorted(directory.path.glob("snapshot-*"))


def test_what_was_saved_is_loaded(directory):
    FileCheckpointStore(directory).save(checkpoint(1))
    store = FileCheckpointStore(directory)
    store.save(checkpoint(2))
    loaded = store.load()
    assert loaded.extras == {"n": 2}
    assert loaded.arrays["a"].tolist() == [2, 2, 2]
    assert loaded.arrays["text"].tolist() == ["x", "yy"]


def test_nothing_saved_is_none(directory):
    assert FileCheckpointStore(directory).load() is None


def test_only_the_last_two_are_kept(directory):
    store = FileCheckpointStore(directory)
    for i in range(5):
        store.save(checkpoint(i))
    assert len(files(directory)) == 2


def test_what_is_written_in_pieces_is_loaded_as_one_array():
    parts = [np.arange(3), np.empty(0, np.int64), np.arange(3, 5)]
    late = {"z": pieces_of(np.int64, parts), "b": text_pieces([["é", ""]] * 600), "none": text_pieces([])}
    content = b"".join(encode({"a": np.arange(2)}, {}, late=lambda: late))
    arrays, _ = decode(io.BytesIO(content), "x")
    assert arrays["z"].tolist() == [0, 1, 2, 3, 4]
    assert (texts_of(arrays["b"]), texts_of(arrays["none"])) == ([["é", ""]] * 600, [])
    assert arrays["a"].tolist() == [0, 1]


def test_every_truncation_and_every_flipped_byte_is_noticed():
    content = b"".join(encode({"a": np.arange(4)}, {"n": 1}))
    for end in range(len(content)):
        with pytest.raises(CorruptState):
            decode(io.BytesIO(content[:end]), "cut")
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 1
        with pytest.raises(CorruptState):
            decode(io.BytesIO(damaged), "flipped")


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(directory):
    store = FileCheckpointStore(directory)
    store.save(checkpoint(1))
    store.save(checkpoint(2))
    files(directory)[-1].write_bytes(b"torn")
    assert store.load().extras == {"n": 1}


def test_when_none_is_whole_the_service_refuses_to_start(directory):
    store = FileCheckpointStore(directory)
    store.save(checkpoint(1))
    files(directory)[0].unlink()
    with pytest.raises(CorruptState, match="no checkpoint can be loaded"):
        store.load()


def test_a_file_that_no_manifest_names_is_not_loaded_and_swept(directory):
    store = FileCheckpointStore(directory)
    stray = directory.path / "snapshot-000000000099.skf"
    stray.write_bytes(b"".join(encode({}, {"n": 99})))
    assert store.load() is None
    store.save(checkpoint(1))
    assert not stray.exists()


def test_a_full_disk_leaves_the_last_checkpoint(directory, monkeypatch):
    store = FileCheckpointStore(directory)
    store.save(checkpoint(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unavailable, match="No space left"):
        store.save(checkpoint(2))
    monkeypatch.undo()
    assert store.load().extras == {"n": 1}


def test_two_processes_cannot_share_a_folder(directory):
    with pytest.raises(ConfigError, match="another process"):
        StateDirectory(directory.path)


def test_the_folder_is_private(directory):
    assert directory.path.stat().st_mode & 0o777 == 0o700
