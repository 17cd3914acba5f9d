import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.storage.scans.splits import SplitRule, assign_splits

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
patients = st.lists(st.text(min_size=1, max_size=8), min_size=3, max_size=80, unique=True)
shares = st.lists(st.floats(0.05, 1), min_size=2, max_size=4).map(
    lambda parts: {f"split {i}": part / sum(parts) for i, part in enumerate(parts)}
)


@given(patients, shares, st.integers(0, 2**63))
@settings(max_examples=100, deadline=None)
def test_counts_are_the_fractions_to_rounding_and_no_split_is_empty(ids, fractions, seed):
    splits = assign_splits(ids, fractions, seed)
    assert set(splits) == set(ids)
    if len(ids) >= len(fractions):
        assert set(splits.values()) == set(fractions)
    for name, share in fractions.items():
        count = sum(split == name for split in splits.values())
        assert abs(count - share * len(ids)) < len(fractions)


@given(patients, st.integers(0, 2**63), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_split_depends_on_who_is_there_not_on_their_order(ids, seed, random):
    shuffled = ids * 2
    random.shuffle(shuffled)
    assert assign_splits(shuffled, FRACTIONS, seed) == assign_splits(ids, FRACTIONS, seed)


@given(patients, st.text(min_size=1, max_size=8), st.integers(0, 2**63))
@settings(max_examples=200, deadline=None)
def test_a_new_patient_moves_at_most_one_across_each_cut(ids, new, seed):
    before = assign_splits([i for i in ids if i != new] + ["always"], FRACTIONS, seed)
    after = assign_splits([*before, new], FRACTIONS, seed)
    if len(before) >= len(FRACTIONS):
        assert sum(before[i] != after[i] for i in before) <= len(FRACTIONS) - 1


def test_seeds_give_different_splits():
    ids = [str(i) for i in range(100)]
    assert assign_splits(ids, FRACTIONS, 0) != assign_splits(ids, FRACTIONS, 1)


def test_the_split_is_the_same_on_every_machine_and_in_every_version():
    splits = assign_splits([str(i) for i in range(10)], FRACTIONS, 0)
    assert "".join(splits[str(i)][:2] for i in range(10)) == "trtrtrtrtrtrtevatrtr"


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.2, "test": -0.2}, {"train": 0.9, "test": 0.2}])
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(ConfigError):
        assign_splits(["a"], fractions, 0)


def test_a_split_of_no_share_gets_nobody_and_few_patients_fill_the_first_splits():
    assert set(assign_splits("abc", {"train": 1.0, "test": 0.0}, 0).values()) == {"train"}
    assert len(assign_splits(["a"], FRACTIONS, 0)) == 1
    assert assign_splits([], FRACTIONS, 0) == {}


def test_patients_with_a_known_split_keep_it_and_all_others_are_for_training():
    assert SplitRule(FRACTIONS, 0, {"a": "test"}).assign(["a", "b"]) == {"a": "test", "b": "train"}
