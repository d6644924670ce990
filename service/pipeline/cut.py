"""A cut through the worker's state: all of one instant, read by a writer while the loop goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from detectors.state import Array, Pieces
from service.pipeline.snapshot_file import Late

Bytes = NDArray[np.uint8]

BLOCK_BYTES = 8 << 20  # copied in 2 ms, written in 10 ms
COPIED_BYTES_MAX = 16 << 20  # in a round: some 10 ms, most of it for pages that are new

HELD_BYTES_MAX = 64 << 20  # copied and not yet written; the state of 60,000 GPUs


class Cut:
    """The state between two ticks, by name. Only the end of a tick changes its arrays.

    So until a tick is due they are read where they lie: a million GPUs have 1 GB of them, and a copy would take 0.3 s
    in one piece and the memory twice. When a tick is due before the writer is through, `release` copies what is left, a
    part in each round, from the far end; rounds go on taking rows in meanwhile, and the tick waits for some of them. A
    forked child would see all of one instant too, but locks that other threads hold stay locked in it for ever.
    What changes at any time, like the rows that wait, was put aside when the cut was made; `texts` turns it into arrays,
    which takes longest and is done last. At most HELD_BYTES_MAX are copied at a time: beyond, a tick waits for the writer.
    """

    def __init__(self, arrays: Mapping[str, Array], texts: Callable[[], Late]) -> None:
        self.state = dict(arrays)
        self.texts = texts
        self._blocks = [block for name in sorted(arrays) for block in _blocks(name, arrays[name])]
        self._lock = Lock()
        self._copies: dict[int, bytes] = {}
        self._held_bytes = 0
        self._position = 0  # the block that the writer reads, if any; it is through with those before
        self._in_place = False  # whether it reads that one where it lies
        self._copied_from = len(self._blocks)  # this block and all after it are copied

    def arrays(self) -> dict[str, Array]:
        """Return everything as arrays, those of the state where they lie; their bytes are to be had from `read`."""
        texts = self.texts().items()
        return self.state | {name: text.joined() if isinstance(text, Pieces) else text for name, text in texts}

    def read(self, name: str, array: Array) -> Iterator[memoryview]:
        """Yield the bytes of an array; names in order, each once. The last piece is done with when the next is taken."""
        if name not in self.state:
            yield _bytes(array).data
            return
        while self._position < len(self._blocks) and self._blocks[self._position][0] == name:
            with self._lock:
                copy = self._copies.pop(self._position, None)
                self._in_place = copy is None
                self._held_bytes -= len(copy or b"")
            yield self._blocks[self._position][1].data if copy is None else memoryview(copy)
            with self._lock:
                self._position += 1
                self._in_place = False

    def release(self) -> bool:
        """Copy some of what was not read yet; return whether the state may change now."""
        left = COPIED_BYTES_MAX
        while left > 0:
            with self._lock:
                number = self._copied_from - 1
                if number < self._position + self._in_place:
                    return not self._in_place
                if self._held_bytes >= HELD_BYTES_MAX:
                    return False
                # Unlike NumPy's copy this keeps the interpreter lock, and need not queue for it again after each block.
                self._copies[number] = bytes(self._blocks[number][1].data)
                self._held_bytes += len(self._copies[number])
                self._copied_from = number
            left -= BLOCK_BYTES
        return False

    def close(self) -> None:
        """Let the state go: the writer reads no more, perhaps since the disk is full."""
        with self._lock:
            self._position = len(self._blocks)
            self._in_place = False
            self._copies.clear()


def _bytes(array: Array) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _blocks(name: str, array: Array) -> Iterator[tuple[str, Bytes]]:
    flat = _bytes(array)
    for start in range(0, len(flat), BLOCK_BYTES):
        yield name, flat[start : start + BLOCK_BYTES]
