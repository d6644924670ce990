"""Garbage collection, kept away from what stays: a look through the objects of a million GPUs takes half a second."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

STEP = 50_000  # label sets; a collection of what came with so many takes 20 ms


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

    What is out of sight is still freed once nothing refers to it; only cycles would stay, so those of today are collected
    first, and a flood, of which label sets are forgotten again, comes to an end with it.
    """

    def __init__(self) -> None:
        self._most = 0

    def note(self, label_sets: int) -> None:
        """Say how many label sets are known."""
        if label_sets >= self._most + STEP:
            self._most = label_sets
            gc.collect()
            gc.freeze()
