"""The plan of a data set: which subjects belong to which shard and split. Pure arithmetic, no data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from image_longitudinal.core.errors import ConfigError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitRange:
    """The subjects ``start <= id < stop`` that one shard holds of one split."""

    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """Subjects ``start <= id < stop``; ``splits`` are the parts of this range that belong to each split."""

    index: int
    start: int
    stop: int
    splits: tuple[SplitRange, ...]

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """The index in five digits, as in file names."""
        return f"{self.index:05d}"


@dataclass(frozen=True)
class ShardPlan:
    """``n_subjects`` in shards of ``shard_size`` (the last may be shorter); splits are contiguous runs of ids.

    Ids run from 0 to n_subjects - 1: train first, then validation, then test. The counts of validation and test are
    rounded from their fractions; train gets the rest. Shards are computed one at a time during iteration, so a plan for
    a billion subjects costs nothing.

    ``only_shards`` and ``only_splits`` give the plan of a part of a data set: ids, shards and splits are numbered as in
    the whole, and only the chosen ones are included.
    """

    n_subjects: int
    shard_size: int
    validation_fraction: float = 0.0
    test_fraction: float = 0.0
    only_shards: tuple[int, ...] | None = None
    only_splits: tuple[str, ...] | None = None

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
        """Number of shards."""
        return len(self.indices)

    @property
    def indices(self) -> Sequence[int]:
        """Indices of the shards, ascending; of a whole data set without any work for each."""
        return [shard.index for shard in self] if self.is_part else range(self._all_shards)

    @property
    def is_part(self) -> bool:
        """Whether some shards or splits of the whole are not included."""
        return self.only_shards is not None or self.only_splits is not None

    @property
    def _all_shards(self) -> int:
        return -(-self.n_subjects // self.shard_size)

    @cached_property
    def _chosen(self) -> frozenset[int]:
        return frozenset(self.only_shards or ())

    @property
    def split_counts(self) -> dict[str, int]:
        """Subjects per split of the whole data set, in id order."""
        validation = round(self.n_subjects * self.validation_fraction)
        test = min(round(self.n_subjects * self.test_fraction), self.n_subjects - validation)
        return {"train": self.n_subjects - validation - test, "validation": validation, "test": test}

    def shard(self, index: int) -> Shard:
        """Shard ``index``; IndexError if the plan does not have it."""
        if not 0 <= index < self._all_shards or (self.only_shards is not None and index not in self._chosen):
            raise IndexError(f"shard {index} of {self._all_shards}{' in this part' * self.is_part}")
        start = index * self.shard_size
        stop = min(start + self.shard_size, self.n_subjects)
        ranges, begin = [], 0
        for split, count in self.split_counts.items():
            low, high = max(start, begin), min(stop, begin + count)
            if low < high and (self.only_splits is None or split in self.only_splits):
                ranges.append(SplitRange(split, low, high))
            begin += count
        return Shard(index, start, stop, tuple(ranges))

    def __iter__(self) -> Iterator[Shard]:
        shards = map(self.shard, range(self._all_shards) if self.only_shards is None else self.only_shards)
        return (shard for shard in shards if shard.splits)

    def split_of(self, subject_id: int) -> str:
        """The split of one subject; IndexError if the plan does not have it."""
        index = subject_id // self.shard_size
        if 0 <= subject_id < self.n_subjects and (self.only_shards is None or index in self.only_shards):
            for part in self.shard(index).splits:
                if part.start <= subject_id < part.stop:
                    return part.split
        raise IndexError(f"subject {subject_id} of {self.n_subjects}{' is not in this part' * self.is_part}")


def shard_ranges(indices: Sequence[int]) -> str:
    """Ascending shard indices as text for people: 0-9, 12."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def parse_shard_ranges(text: str) -> tuple[int, ...]:
    """Ascending indices from text such as ``0-9,12``.

    Raises:
        ConfigError: for any other text.
    """
    chosen: set[int] = set()
    for piece in text.split(","):
        low, dash, high = piece.strip().partition("-")
        if not (low.isdigit() and (high.isdigit() or not dash)) or int(high or low) < int(low):
            raise ConfigError("cannot read shard ranges", expected="ranges such as 0-9,12", got=text)
        chosen.update(range(int(low), int(high or low) + 1))
    return tuple(sorted(chosen))
