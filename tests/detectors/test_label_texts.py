"""Label sets come back as they were saved, with equal texts as one object."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.label_texts import BLOCK, label_pieces, labels_of
from detectors.labels import LabelSet

label_sets = st.builds(
    LabelSet, **dict.fromkeys(LabelSet._fields, st.sampled_from(["", "a", "é\n\u2028", '"', "\x85"]))
)


@given(st.lists(label_sets, max_size=30))
def test_what_was_saved_comes_back(labels):
    assert labels_of(label_pieces(labels).joined()) == labels


def test_many_blocks_share_their_texts():
    labels = [LabelSet(uuid=f"GPU-{i}", node=f"node-{i // 8}", gpu=str(i % 8)) for i in range(2 * BLOCK + 3)]
    found = labels_of(label_pieces(labels).joined())
    assert found == labels
    assert len({id(of_gpu.gpu) for of_gpu in found}) == 8
    assert all(isinstance(of_gpu, LabelSet) for of_gpu in found)
