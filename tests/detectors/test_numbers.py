"""Numbers tells what a dict would, also where hashes collide; label sets keep their ids whatever is forgotten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.labels import LabelSet, LabelSets
from detectors.numbers import Numbers


class Colliding(str):
    """A text of which many have the same hash."""

    __slots__ = ()

    def __hash__(self):
        return len(self) % 3


texts = st.lists(st.text("abc", max_size=4).map(Colliding), unique=True, max_size=60)


@given(texts, texts, st.integers(0, 60))
def test_places_are_found_as_a_dict_finds_them(known, asked, told_at_once):
    items = known[:told_at_once]
    numbers = Numbers(items, np.arange(len(items), dtype=np.int32))
    for item in known[told_at_once:]:
        place = len(items)
        assert numbers.claim(item, place) == place
        items.append(item)
    expected = {item: place for place, item in enumerate(known)}
    assert [numbers.find(item) for item in asked] == [expected.get(item, -1) for item in asked]
    assert [numbers.claim(item, 99) for item in known] == list(range(len(known)))
    assert (len(numbers), dict(numbers)) == (len(expected), expected)


@pytest.mark.parametrize("steps", [[3000], [1000, 10, 900, 1, 1089]])
def test_a_table_grows_with_what_is_added(steps):
    items: list[str] = []
    numbers = Numbers(items, np.empty(0, np.int32))
    for count in steps:
        items += [f"GPU-{len(items) + i}" for i in range(count)]
        numbers.add_last(count)
    assert [numbers[item] for item in items] == list(range(3000))
    assert "GPU-3000" not in numbers
    with pytest.raises(KeyError):
        numbers["GPU-3000"]


def test_one_by_one_grows_it_too():
    items: list[str] = []
    numbers = Numbers(items, np.empty(0, np.int32))
    for i in range(3000):
        assert numbers.claim(f"GPU-{i}", i) == i
        items.append(f"GPU-{i}")
    assert [numbers.find(item) for item in items] == list(range(3000))


sets = st.lists(st.integers(0, 12).map(lambda i: LabelSet(uuid=f"GPU-{i}")), max_size=20)


@given(sets, sets, st.sets(st.integers(0, 12)))
def test_forgotten_ids_are_given_again_and_the_others_stay(first, then, used):
    tested = LabelSets()
    ids = {labels: tested.intern(labels) for labels in first}
    kept = {labels: label_set for labels, label_set in ids.items() if label_set in used}
    tested.forget(np.isin(np.arange(len(tested)), list(used)))
    assert tested.known() == len(kept)
    ids = {labels: tested.intern(labels) for labels in then}
    assert all(ids[labels] == label_set for labels, label_set in kept.items() if labels in ids)
    assert [tested[label_set] for label_set in ids.values()] == list(ids)
    assert len({**kept, **ids}) == len(set(ids.values()) | set(kept.values())) == tested.known()


@given(sets, sets)
def test_many_at_once_get_the_ids_that_each_has(known, asked):
    tested = LabelSets()
    for labels in known:
        tested.intern(labels)
    different = list(dict.fromkeys(asked))
    ids = tested.intern_all(different).tolist()
    assert ids == list(map(tested.intern, different))
    assert [tested[label_set] for label_set in ids] == different
