"""Attribution: when a holder whose labels are gone no longer has the GPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.features import ACTIVITY, Features
from detectors.state import StateArrays

_EMPTY_FB_BYTES = 64 * 2**20  # what a driver alone may hold: below it a GPU without labels is visibly free


def holders_gone(state: StateArrays, features: Features, end_ns: int, tick_ns: int, ttl_ns: int) -> NDArray[np.int64]:
    """Return the entities whose holder is gone: unnamed for longer than ttl_ns, or at once where the GPU is visibly empty.

    Labels vanish for minutes while a kubelet is busy; memory in use or work being done shows that the holder stays.
    `state` has last_seen_ns and attributed_ns of every entity, int64[m].
    """
    attributed_ns = state["attributed_ns"]
    silent_ns = end_ns - attributed_ns
    expired = silent_ns > ttl_ns
    unnamed = (silent_ns > 2 * tick_ns) & (state["last_seen_ns"] > attributed_ns)
    silent = (expired | unnamed) & (attributed_ns > 0)
    if not silent.any():
        return np.empty(0, np.int64)
    fb = features.latest("fb_used_bytes", end_ns)
    activity = features.latest(ACTIVITY, end_ns)
    empty = (fb < _EMPTY_FB_BYTES) & (activity <= 0.0)
    return np.flatnonzero(silent & (expired | empty))
