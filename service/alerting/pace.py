"""How long to wait before trying again: exponential, with jitter, and never longer than stated."""

from __future__ import annotations

import random

BACKOFF_S_FIRST = 1.0
BACKOFF_S_MAX = 300.0
# 2**9 seconds are beyond BACKOFF_S_MAX already; bounds the power.
_DOUBLINGS_MAX = 9


def backoff_s(failures: int, rng: random.Random) -> float:
    """Return the wait after so many failures in a row (≥ 1): half of it fixed, half random, so that waits spread."""
    doublings = min(failures - 1, _DOUBLINGS_MAX)
    whole_s = min(BACKOFF_S_MAX, BACKOFF_S_FIRST * 2.0**doublings)
    return whole_s * (0.5 + 0.5 * rng.random())
