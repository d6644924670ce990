"""What a GPU is and who uses it, as normalised labels: the identity that never changes and the attribution that does."""

from __future__ import annotations

from typing import NamedTuple


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


class LabelSets:
    """Label sets seen by the decoder, each with a dense id. Arrival order decides the ids, so nothing durable may use them."""

    def __init__(self) -> None:
        self._sets: list[LabelSet] = []
        self._ids: dict[LabelSet, int] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, label_set: int) -> LabelSet:
        return self._sets[label_set]

    def intern(self, labels: LabelSet) -> int:
        """Return the id of `labels`, a new one if they were never seen."""
        known = self._ids.get(labels)
        if known is not None:
            return known
        fresh = len(self._sets)
        self._ids[labels] = fresh
        self._sets.append(labels)
        return fresh
