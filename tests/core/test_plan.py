"""The shard plan: every subject exactly once, splits that partition, and nothing that depends on the order."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_longitudinal.core.config import DatasetConfig
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.plan import SPLITS, ShardPlan, parse_shard_ranges, shard_ranges

fractions = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))
plans = st.builds(lambda n, size, parts: ShardPlan(n, size, *parts), st.integers(1, 400), st.integers(1, 60), fractions)


@given(plans)
def test_shards_cover_every_id_exactly_once(plan: ShardPlan) -> None:
    ids = [subject for shard in plan for subject in range(shard.start, shard.stop)]
    assert ids == list(range(plan.n_subjects))
    assert all(len(shard) == plan.shard_size for shard in list(plan)[:-1])


@given(plans)
def test_splits_partition_every_shard_and_add_up(plan: ShardPlan) -> None:
    counts = dict.fromkeys(SPLITS, 0)
    for shard in plan:
        ids = [subject for part in shard.splits for subject in range(part.start, part.stop)]
        assert ids == list(range(shard.start, shard.stop))
        for part in shard.splits:
            assert part.start < part.stop
            counts[part.split] += part.stop - part.start
            assert plan.split_of(part.start) == plan.split_of(part.stop - 1) == part.split
    assert counts == plan.split_counts
    assert sum(counts.values()) == plan.n_subjects


@given(plans, st.randoms(use_true_random=False))
def test_a_shard_does_not_depend_on_the_order_of_asking(plan: ShardPlan, order: random.Random) -> None:
    indices = list(range(plan.n_shards))
    order.shuffle(indices)
    assert {index: plan.shard(index) for index in indices} == dict(enumerate(plan))


@given(plans, st.integers(1, 60))
def test_the_split_of_a_subject_does_not_depend_on_the_shard_size(plan: ShardPlan, size: int) -> None:
    other = ShardPlan(plan.n_subjects, size, plan.validation_fraction, plan.test_fraction)
    assert [plan.split_of(i) for i in range(plan.n_subjects)] == [other.split_of(i) for i in range(plan.n_subjects)]


@pytest.mark.parametrize(
    "arguments", [(0, 1), (1, 0), (-5, 4), (10, 4, -0.1, 0.0), (10, 4, 0.5, 0.5), (10, 4, 0.0, 1.0)]
)
def test_an_impossible_plan_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        ShardPlan(*arguments)  # type: ignore[arg-type]


def test_ids_and_shards_outside_the_plan_are_refused() -> None:
    plan = ShardPlan(10, 4)
    with pytest.raises(IndexError, match="shard 3 of 3"):
        plan.shard(3)
    with pytest.raises(IndexError, match="subject 10 of 10"):
        plan.split_of(10)


def test_the_papers_plan_is_cheap_and_right() -> None:
    plan = ShardPlan(1_100_000, 8192, test_fraction=1 / 11)
    assert plan.n_shards == 135
    assert plan.split_counts == {"train": 1_000_000, "validation": 0, "test": 100_000}
    assert [part.split for part in plan.shard(1_000_000 // 8192).splits] == ["train", "test"]


@given(plans, st.data())
@settings(deadline=None)
def test_a_part_keeps_ids_shards_and_cuts_of_the_whole(plan: ShardPlan, data: st.DataObject) -> None:
    shards = tuple(sorted(data.draw(st.sets(st.integers(0, plan.n_shards - 1)))))
    splits = tuple(data.draw(st.sets(st.sampled_from(SPLITS))))
    part = replace(plan, only_shards=shards, only_splits=splits)
    chosen = [(index, piece) for index in shards for piece in plan.shard(index).splits if piece.split in splits]
    assert [(shard.index, piece) for shard in part for piece in shard.splits] == chosen
    assert part.n_shards == len({index for index, _ in chosen})
    here = {subject: piece.split for _, piece in chosen for subject in range(piece.start, piece.stop)}
    for subject in range(plan.n_subjects):
        if subject in here:
            assert part.split_of(subject) == here[subject]
        else:
            with pytest.raises(IndexError, match="part"):
                part.split_of(subject)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_shard_ranges_are_read_back(indices: set[int]) -> None:
    assert parse_shard_ranges(shard_ranges(sorted(indices))) == tuple(sorted(indices))


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "5-2", "1,,2", "0-1-2"])
def test_shards_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read shard ranges"):
        parse_shard_ranges(text)


@given(plans)
def test_indices_are_those_of_the_shards(plan: ShardPlan) -> None:
    part = replace(plan, only_splits=("train",))
    for one in (plan, part):
        assert list(one.indices) == [shard.index for shard in one]
        assert one.n_shards == len(one.indices)


def test_a_shard_far_larger_than_the_data_set_is_planned_smaller() -> None:
    def shard_size(n: int, size: int) -> int:
        return DatasetConfig(n_subjects=n, shard_size=size).plan.shard_size

    assert shard_size(20, 128) == 128  # as published data sets have it
    assert shard_size(20, 10**8) == 65_536  # an index of 1 MiB, not of 1.6 GB
    assert shard_size(10**6, 10**8) == 10**6
    assert shard_size(10**6, 2000) == 2000
