"""What a GPU is and who uses it, as normalised labels: the identity that never changes and the attribution that does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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
        self._ids: dict[LabelSet, int] = {}
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
        known = self._ids.get(labels)
        if known is not None:
            return known
        if self._free:
            fresh = self._free.pop()
            self._sets[fresh] = labels
        else:
            fresh = len(self._sets)
            self._sets.append(labels)
        self._ids[labels] = fresh
        return fresh

    def forget(self, used: NDArray[np.bool_]) -> None:
        """Forget all but the used ones, bool[label sets]. Those who hold `frozen` still see the others."""
        self._sets = self._sets.copy()
        for label_set in np.flatnonzero(~used)[::-1].tolist():
            if self._ids.get(self._sets[label_set]) == label_set:
                del self._ids[self._sets[label_set]]
                self._sets[label_set] = NOBODY
                self._free.append(label_set)

    def frozen(self) -> Sequence[LabelSet]:
        """Return all by id; ids of today mean the same there whatever is forgotten later."""
        return self._sets
