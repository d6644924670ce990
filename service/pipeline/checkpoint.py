"""Checkpoints on the local disk: a snapshot file that a manifest in SQLite points to, the last two kept."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from detectors.state import Array
from service.errors import ConfigError, ConfigProblem, CorruptState, Unavailable
from service.pipeline.snapshot_file import Late, Read, decode, encode, whole, write_durably

KEPT = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a restart needs: the worker's arrays, and what belongs to the loop (tallies, dead-letter position)."""

    arrays: Mapping[str, Array]
    extras: Mapping[str, Any]
    read: Read = whole  # how the bytes of an array are to be had
    late: Callable[[], Late] = dict  # more arrays, made when the others were read


class CheckpointStore(Protocol):
    """Keeps checkpoints. `save` returns once the checkpoint is durable; `load` returns the newest whole one."""

    def load(self) -> Checkpoint | None:
        """Return the newest checkpoint that passes its checks, None if there never was one, CorruptState if none does."""
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint durable, or raise Unavailable and leave the last one as it was."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class StateDirectory:
    """The folder that holds everything that survives: mode 0700, one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError([ConfigProblem("state.directory", f"{path}: {error.strerror}")]) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            message = f"{path}: another process works with this folder; expected it to be free"
            raise ConfigError([ConfigProblem("state.directory", message)]) from error

    @property
    def database(self) -> Path:
        """The SQLite file with the manifest and the outbox."""
        return self.path / "skinflint.db"

    @property
    def dead_letters(self) -> Path:
        """The dead-letter file."""
        return self.path / "dead_letters.ndjson"

    def release(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)


class FileCheckpointStore:
    """Snapshot files beside the manifest. The file is durable before the manifest names it."""

    def __init__(self, directory: StateDirectory) -> None:
        self._folder = directory.path
        self._database = sqlite3.connect(
            directory.database,
            isolation_level=None,
            timeout=3,
            check_same_thread=False,  # opened here, used by the saver
        )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS checkpoints (sequence INTEGER PRIMARY KEY, file TEXT NOT NULL)"
        )

    def _manifest(self) -> list[tuple[int, str]]:
        rows = self._database.execute("SELECT sequence, file FROM checkpoints ORDER BY sequence DESC")
        return [(int(sequence), str(file)) for sequence, file in rows]

    def load(self) -> Checkpoint | None:
        """Return the newest whole checkpoint; an older one only costs replay."""
        troubles: list[str] = []
        manifest = self._manifest()
        for _, file in manifest:
            path = self._folder / file
            try:
                with path.open("rb") as content:
                    return Checkpoint(*decode(content, str(path)))
            except (CorruptState, OSError) as error:
                troubles.append(str(error))
        if manifest:
            raise CorruptState(
                "no checkpoint can be loaded: " + "; ".join(troubles) + ". Move the state folder away to start anew."
            )
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write file, then manifest, then drop what is older than the last two."""
        try:
            sequence = next((known + 1 for known, _ in self._manifest()), 1)
            file = f"snapshot-{sequence:012d}.skf"
            pieces = encode(checkpoint.arrays, checkpoint.extras, checkpoint.read, checkpoint.late)
            write_durably(self._folder / file, pieces)
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT INTO checkpoints VALUES (?, ?)", (sequence, file))
            self._database.execute("DELETE FROM checkpoints WHERE sequence <= ?", (sequence - KEPT,))
            self._database.execute("COMMIT")
            self._sweep()
        except (OSError, sqlite3.OperationalError) as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise Unavailable(f"checkpoint in {self._folder}: {error}") from error

    def _sweep(self) -> None:
        """Remove snapshot files that the manifest does not name; a crash may have left some."""
        named = {file for _, file in self._manifest()}
        for path in self._folder.glob("snapshot-*"):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the database."""
        self._database.close()
