"""What a GPU is and who uses it, as normalised labels: the identity that never changes and the attribution that does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.numbers import Numbers


class LabelSet(NamedTuple):
    """Labels of one sample after aliases are resolved; an empty string means the label is absent.

    Identity: `uuid` and `mig_id`, or `cluster`, `node`, `gpu` and `mig_id` where there is no UUID.
    Placement: cluster, region, node, instance_type, capacity_type (on-demand, spot, reserved), model, mig_profile.
    Attribution: namespace, pod, container, job, team: who holds the GPU at that instant.
    """

    cluster: str = ""
    region: str = ""
    node: str = ""
    gpu: str = ""
    uuid: str = ""
    mig_id: str = ""
    mig_profile: str = ""
    model: str = ""
    instance_type: str = ""
    capacity_type: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    job: str = ""
    team: str = ""

    def entity_key(self) -> str:
        """Return the name under which this GPU or MIG instance is known: UUID, or cluster/node/index; '#id' for MIG."""
        name = self.uuid or f"{self.cluster}/{self.node}/{self.gpu}"
        return f"{name}#{self.mig_id}" if self.mig_id else name

    def is_gpu(self) -> bool:
        """Tell whether these labels name a GPU at all."""
        return bool(self.uuid or (self.node and self.gpu))

    def is_attributed(self) -> bool:
        """Tell whether anyone is named as the holder."""
        return bool(self.pod or self.job or self.namespace)


NOBODY = LabelSet()


class LabelSets:
    """Label sets seen by the decoder, each with an id below `len`. Who came first decides the ids, and those of forgotten
    label sets are given again, so nothing durable may use them.
    """

    def __init__(self) -> None:
        self._sets: list[LabelSet] = []
        self._ids = Numbers(self._sets, np.empty(0, np.int32))
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, label_set: int) -> LabelSet:
        return self._sets[label_set]

    def known(self) -> int:
        """Return how many are remembered."""
        return len(self._ids)

    def intern(self, labels: LabelSet) -> int:
        """Return the id of `labels`, a free one if they are not remembered."""
        fresh = self._free[-1] if self._free else len(self._sets)
        known = self._ids.claim(labels, fresh)
        if known == fresh:
            if self._free:
                self._sets[self._free.pop()] = labels
            else:
                self._sets.append(labels)
        return known

    def intern_all(self, labels: Sequence[LabelSet]) -> NDArray[np.int32]:
        """Return the ids of many that differ from each other, most of them new."""
        ids = np.array(list(map(self._ids.find, labels)) if len(self._ids) else [-1] * len(labels), np.int32)
        new = np.flatnonzero(ids < 0)
        ids[new] = np.arange(len(self._sets), len(self._sets) + len(new))
        self._sets.extend(labels[i] for i in new.tolist())
        self._ids.add_last(len(new))
        return ids

    def forget(self, used: NDArray[np.bool_]) -> None:
        """Forget all but the used ones, bool[label sets]. Those who hold `frozen` still see the others."""
        self._sets = self._sets.copy()
        known = self._ids.places()
        kept = used[known]
        for label_set in known[~kept][::-1].tolist():
            self._sets[label_set] = NOBODY
            self._free.append(label_set)
        self._ids = Numbers(self._sets, known[kept])

    def frozen(self) -> Sequence[LabelSet]:
        """Return all by id; ids of today mean the same there whatever is forgotten later."""
        return self._sets
