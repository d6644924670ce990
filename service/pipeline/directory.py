"""What the configuration knows of a GPU's labels: its owner, its price, and the power figures of its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.labels import LabelSet
from service.pipeline.gpu_models import gpu_model
from service.pipeline.prices import PriceBook

UNALLOCATED_OWNER = "unallocated"
KNOWN_MAX = 100_000  # entries remembered; jobs and namespaces come and go for months


class Entry(NamedTuple):
    """Owner by name; usd_per_hour, idle_watts, limit_watts NaN where unknown. MIG instances have no power of their own."""

    owner: str
    usd_per_hour: float
    idle_watts: float
    limit_watts: float


# All that an entry can depend on; see look_up for what of it does.
_SAID: Callable[[LabelSet], tuple[str, ...]] = attrgetter(
    "cluster", "region", "mig_id", "mig_profile", "model", "instance_type", "capacity_type", "namespace", "job", "team"
)
NO_ENTRY = Entry(UNALLOCATED_OWNER, np.nan, np.nan, np.nan)


class Directory:
    """Looks labels up; the same labels always give the same entry."""

    def __init__(self, prices: PriceBook, teams: Mapping[str, str]) -> None:
        self._price: Callable[[LabelSet], float] = prices.usd_per_gpu_hour
        self._teams = dict(teams)
        self._known: dict[tuple[str, ...], Entry] = {}

    def look_up(self, labels: LabelSet) -> Entry:
        """Return the entry of one entity's labels."""
        # What does not change the answer must not fill the cache: pods, jobs and nodes come and go.
        job = "" if labels.team or labels.namespace else labels.job
        part = "1" if labels.mig_id else ""
        key = (*labels[:2], part, *labels[6:11], job, labels.team)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            bare = labels._replace(pod="", container="", job=job, uuid="", node="", gpu="", mig_id=part)
            known = self._known[key] = self._find(bare)
        return known

    def look_up_all(self, labels: Iterable[LabelSet]) -> tuple[list[Entry], NDArray[np.int64]]:
        """Return the entries that there are for these labels, and int64[n] which of them is whose."""
        number: dict[tuple[str, ...], int] = {}
        entries: list[Entry] = []
        code = []
        for of_entity in labels:
            said = _SAID(of_entity)
            known = number.get(said)
            if known is None:
                known = number[said] = len(entries)
                entries.append(self.look_up(of_entity))
            code.append(known)
        return entries, np.array(code, np.int64)

    def _find(self, labels: LabelSet) -> Entry:
        model = None if labels.mig_id else gpu_model(labels.model)
        return Entry(
            owner=self._owner(labels),
            usd_per_hour=self._price(labels),
            idle_watts=model.idle_watts if model else np.nan,
            limit_watts=model.tdp_watts if model else np.nan,
        )

    def _owner(self, labels: LabelSet) -> str:
        """Return who pays: the team, else the team of the namespace, else namespace or job."""
        if labels.team:
            return labels.team
        for pattern, team in self._teams.items():
            if labels.namespace and fnmatchcase(labels.namespace, pattern):
                return team
        return labels.namespace or labels.job or UNALLOCATED_OWNER
