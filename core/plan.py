"""The plan of a data set: which subjects belong to which shard and split. Pure arithmetic, no data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from core.errors import ConfigError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitRange:
    """The subjects ``start <= id < stop`` that one shard holds of one split."""

    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """Subjects ``start <= id < stop``; ``splits`` cuts them where one split ends and the next begins."""

    index: int
    start: int
    stop: int
    splits: tuple[SplitRange, ...]

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """The index in five digits, as file names carry it."""
        return f"{self.index:05d}"


@dataclass(frozen=True)
class ShardPlan:
    """``n_subjects`` in shards of ``shard_size`` (the last may be shorter); splits are contiguous runs of ids.

    Ids run from 0 to n_subjects - 1: train first, then validation, then test. The counts of validation and test are
    rounded from their fractions; train takes the rest. The shards are made one at a time, so a plan for a billion
    subjects costs nothing.
    """

    n_subjects: int
    shard_size: int
    validation_fraction: float = 0.0
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("n_subjects", self.n_subjects), ("shard_size", self.shard_size)):
            if value < 1:
                raise ConfigError(f"dataset.{name} is impossible", expected="at least 1", got=value)
        if min(self.validation_fraction, self.test_fraction) < 0 or self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError(
                "dataset.validation_fraction and dataset.test_fraction leave no training subjects",
                expected="each at least 0, together below 1",
                got=f"{self.validation_fraction} and {self.test_fraction}",
            )

    @property
    def n_shards(self) -> int:
        """How many shards the plan has."""
        return -(-self.n_subjects // self.shard_size)

    @property
    def split_counts(self) -> dict[str, int]:
        """Subjects per split, in the order of their ids."""
        validation = round(self.n_subjects * self.validation_fraction)
        test = min(round(self.n_subjects * self.test_fraction), self.n_subjects - validation)
        return {"train": self.n_subjects - validation - test, "validation": validation, "test": test}

    def shard(self, index: int) -> Shard:
        """Shard ``index``, 0 ≤ index < n_shards (IndexError otherwise)."""
        if not 0 <= index < self.n_shards:
            raise IndexError(f"shard {index} of {self.n_shards}")
        start = index * self.shard_size
        stop = min(start + self.shard_size, self.n_subjects)
        ranges, begin = [], 0
        for split, count in self.split_counts.items():
            low, high = max(start, begin), min(stop, begin + count)
            if low < high:
                ranges.append(SplitRange(split, low, high))
            begin += count
        return Shard(index, start, stop, tuple(ranges))

    def __iter__(self) -> Iterator[Shard]:
        return (self.shard(index) for index in range(self.n_shards))

    def split_of(self, subject_id: int) -> str:
        """The split of one subject."""
        begin = 0
        for split, count in self.split_counts.items():
            if begin <= subject_id < begin + count:
                return split
            begin += count
        raise IndexError(f"subject {subject_id} of {self.n_subjects}")
