"""Batches of shards for workers: how many shards they hold, and that their names say which."""

import pytest

from image_longitudinal.tasks.shards.work_pool import BATCH_SECONDS, MAX_BATCH, batch_length, in_words


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        ([7], "shard 7"),
        ([0, 1, 2], "shards 0 to 2"),
        ([3, 4], "shards 3 to 4"),
        ([12, 130, 131, 132, 133], "shards 12, 130 to 133"),  # left over from a lost worker, and the next ones
        ([4, 3], "shards 4, 3"),
        ([1, 3, 5, 7, 9, 10], "shards 1, 3, 5, 2 more ranges"),
    ],
)
def test_shards_are_named_as_they_are_made(indices: list[int], said: str) -> None:
    assert in_words(indices) == said


@pytest.mark.parametrize(
    ("shards", "seconds", "length"),
    [
        (8, 12.0, 32),  # small shards: four times as many at most
        (32, 20.0, 128),
        (MAX_BATCH, 60.0, MAX_BATCH),
        (8, 480.0, 5),  # a minute each
        (1, 3 * BATCH_SECONDS, 1),
    ],
)
def test_a_batch_takes_five_minutes(shards: int, seconds: float, length: int) -> None:
    assert batch_length(shards, seconds) == length
