"""Detectors: rules over features that decide what is wasted. They know arrays and labels, and nothing of the world.

A detector is one file, one line in DETECTORS, one test; the contract suite runs on whatever the dict holds.
"""

from __future__ import annotations

from detectors.contract import Detector
from detectors.idle_waste import IdleWaste

DETECTORS: dict[str, type[Detector]] = {
    "idle_waste": IdleWaste,
}
