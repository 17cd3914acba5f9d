"""The order of an epoch: every subject once, a function of seed and epoch alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_longitudinal.storage.dataset.order import EpochOrder


def runs(ids: range, shard_size: int) -> list[tuple[int, int]]:
    """A contiguous run of ids cut where shards end."""
    cuts = sorted({ids.start, ids.stop, *(i for i in ids if i % shard_size == 0)})
    return list(pairwise(cuts))


RUNS = runs(range(1000), 50)


sizes = st.tuples(st.integers(1, 60), st.integers(1, 50), st.integers(1, 5), st.integers(1, 3))


@given(ends=st.tuples(st.integers(0, 400), st.integers(0, 400)), sizes=sizes, drop_last=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_subject_comes_once_in_full_batches(
    ends: tuple[int, int], sizes: tuple[int, int, int, int], drop_last: bool, data: st.DataObject
) -> None:
    ids, (shard_size, batch_size, streams, mix) = range(min(ends), max(ends)), sizes
    order = EpochOrder(runs(ids, shard_size), batch_size=batch_size, streams=streams, mix=mix, drop_last=drop_last)
    batches = [order[i] for i in range(len(order))]
    visited = np.concatenate([np.zeros(0, int), *batches])
    assert all(len(batch) == batch_size for batch in (batches if drop_last else batches[:-1]))
    assert len(set(visited.tolist())) == len(visited)
    if drop_last:
        assert set(visited.tolist()) <= set(ids)
        assert len(ids) - len(visited) < batch_size
    else:
        assert sorted(visited.tolist()) == list(ids)
    for index in data.draw(st.permutations(range(len(order))))[:5]:  # any batch by itself, in any order
        np.testing.assert_array_equal(order[index], batches[index])


def test_seed_and_epoch_decide_and_without_shuffling_ids_ascend() -> None:
    def visited(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        order = EpochOrder(RUNS, batch_size=7, seed=seed, epoch=epoch, shuffle=shuffle)
        return np.concatenate([order[i] for i in range(len(order))]).tolist()

    assert visited(1, 0) == visited(1, 0)
    assert len({tuple(visited(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert visited(1, 0, shuffle=False) == list(range(1000))


def test_a_multiple_of_the_workers_gives_each_shard_to_one() -> None:
    order = EpochOrder(RUNS, batch_size=10, streams=4)
    for workers in (2, 4):
        seen: list[set[int]] = [set() for _ in range(workers)]
        for index in range(len(order)):
            seen[index % workers] |= set((order[index] // 50).tolist())
        assert all(not a & b for a, b in pairwise(seen))


def test_neighbours_in_a_batch_are_mixed() -> None:
    """Ids of a batch are as good as a random choice from its two shards: no run of them follows the file."""
    order = EpochOrder(RUNS, batch_size=50, streams=4, seed=3)
    steps = np.concatenate([np.diff(order[i]) for i in range(len(order))])
    assert (steps == 1).mean() < 0.05  # 1 % by chance


def test_a_batch_beyond_the_last_is_refused() -> None:
    with pytest.raises(IndexError, match="batch 100 of 100"):
        EpochOrder(RUNS, batch_size=10)[100]
    assert len(EpochOrder([], batch_size=10)) == 0
