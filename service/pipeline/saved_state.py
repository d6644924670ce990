"""Saved state: what a snapshot of the worker says of itself, and whether today's program can go on from it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from detectors.contract import Detector
from detectors.state import Snapshot
from service.errors import CorruptState
from service.logs import get_logger

log = get_logger(__name__)

STATE_VERSION = 5


def meta_of(resume: Snapshot | None) -> dict[str, Any]:
    """Return what a snapshot says of itself; one of another layout is refused, since guessing would be worse."""
    if resume is None:
        return {}
    meta: dict[str, Any] = json.loads(resume["meta"].tobytes())
    if meta["version"] != STATE_VERSION:
        raise CorruptState(f"state of version {meta['version']}; this program reads version {STATE_VERSION}")
    return meta


def usable_by(name: str, cls: type[Detector], meta: dict[str, Any], resume: Snapshot | None) -> Snapshot | None:
    """Return the snapshot if it holds this detector's state in the meaning of today; else the detector starts cold."""
    if resume is None or meta["state_versions"].get(name) == cls.state_version:
        return resume
    log.warning("detector starts without its state", detector=name, saved=meta["state_versions"].get(name))
    return None


def state_hash(snapshot: Snapshot) -> str:
    """Return a digest of a snapshot: equal states, equal digests."""
    digest = hashlib.sha256()
    for name in sorted(snapshot):
        array = np.ascontiguousarray(snapshot[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
