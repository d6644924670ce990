"""What a large fleet brings stays: the garbage collector need not look at it, nor the allocator keep room between it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

STEP = 50_000  # label sets; a collection of what came with so many takes 20 ms
LARGE = 500_000  # label sets, and about as many GPUs

# Of malloc.h. Of a fleet that is LARGE an array of eight bytes a GPU has 4 MiB.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_THRESHOLDS = {_MMAP_THRESHOLD: 4 << 20, _TRIM_THRESHOLD: 16 << 20}


@contextmanager
def undisturbed() -> Iterator[None]:
    """Collect nothing while state is built, and never look at it again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Tenure:
    """Takes what a fleet has brought out of the collector's sight, each time it has brought more than ever before.

    A look through the objects of a million GPUs takes half a second. What is out of sight is still freed once nothing
    refers to it; only cycles would stay, so those of today are collected first, and a flood, of which label sets are
    forgotten again, comes to an end with it.
    """

    def __init__(self, label_sets: int) -> None:
        """Begin with so many, which were built undisturbed."""
        self._most = label_sets
        if label_sets >= LARGE:
            give_back_large_arrays()

    def note(self, label_sets: int) -> None:
        """Say how many label sets are known."""
        if label_sets < self._most + STEP:
            return
        if self._most < LARGE <= label_sets:
            give_back_large_arrays()
        self._most = label_sets
        gc.collect()
        gc.freeze()


def give_back_large_arrays() -> None:
    """Let arrays by GPU go back to the system as soon as they are free, where the C library is one that keeps them.

    glibc keeps arrays of up to 32 MiB for the next ones, and what it cannot use again lies between others: 100 to 150 MiB
    of a million GPUs. A small fleet has none, but fetched records of such a size, for which new pages cost a tenth of W1.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, size in _THRESHOLDS.items():
            mallopt(parameter, size)
