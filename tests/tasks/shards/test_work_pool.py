"""Batches of shards for workers: their names say which shards they hold."""

import pytest

from image_longitudinal.tasks.shards.work_pool import in_words


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
