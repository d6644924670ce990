"""The memory that record batches are expanded into: used again as soon as nobody looks at it any more."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.words import PADDING
from service.ingest.kafka_codecs import EXPANDED_BYTES_MAX, BadCompression, expand

BUFFERS_MAX = 8  # kept for use again: one being filled, those of polls underway, some that readers hold on to
USED_BYTES = 8 << 20
_OWN_REFERENCES = 2  # the list's, and the one that asking makes


class Buffers:
    """Fills one buffer after the other; a page of it costs memory only once it was written to.

    Fresh memory for every batch would cost more time in page faults than decompressing does. Whoever holds an array into
    a buffer keeps it from being used again: CPython counts references, and a view counts as one to its owner.
    """

    def __init__(self, size: int = EXPANDED_BYTES_MAX) -> None:
        self._size = size
        self._kept: list[NDArray[np.uint8]] = []
        self._buffer = self._free()
        self._at = 0

    def turn_over_when_large(self) -> None:
        """Go on with another buffer unless this one has hardly been used: a batch may be handed over in several parts."""
        if self._at > USED_BYTES:
            self.turn_over()

    def turn_over(self) -> None:
        """Go on with a buffer that nobody looks at."""
        self._buffer = np.empty(0, np.uint8)
        self._buffer = self._free()
        self._at = 0

    def expand(self, codec: int, packed: memoryview) -> tuple[NDArray[np.uint8], int, int]:
        """Return the buffer that holds the expanded bytes, and where in it they begin and end. Raises BadCompression."""
        try:
            return self._expand(codec, packed)
        except BadCompression:
            if not self._at:
                raise
        self.turn_over()
        return self._expand(codec, packed)

    def _expand(self, codec: int, packed: memoryview) -> tuple[NDArray[np.uint8], int, int]:
        begin = self._at
        end = begin + expand(codec, packed, self._buffer.data[begin : self._size])
        self._at = end
        return self._buffer, begin, end

    def _free(self) -> NDArray[np.uint8]:
        for i in range(len(self._kept)):
            if sys.getrefcount(self._kept[i]) <= _OWN_REFERENCES:
                return self._kept[i]
        fresh: NDArray[Any] = np.empty(self._size + PADDING, np.uint8)
        self._kept = [fresh, *self._kept][:BUFFERS_MAX]
        return fresh
