"""The arrays that an evaluation works on, read from a data set; images are streamed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.models.evaluation.level_scores import HeldOutSubjects
from image_longitudinal.models.evaluation.pca_regressor import Chunk
from image_longitudinal.storage.dataset.layout import eta_columns
from image_longitudinal.storage.dataset.reader import Dataset

IN_MEMORY = 1 << 30  # bytes of images kept in memory, not read for each batch
ROWS = 2_000  # images at a time: 8 MB at 64x64, 0.5 GB at 512x512

Array = NDArray[np.float64]


def id_ranges(dataset: Dataset, split: str, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of a split's ids, at most ``rows`` long."""
    for shard in dataset.plan:
        for part in shard.splits:
            if part.split == split:
                for start in range(part.start, part.stop, rows):
                    yield start, min(start + rows, part.stop)


def split_ids(dataset: Dataset, split: str) -> NDArray[np.int64]:
    """Ids of a split's subjects, ascending, int64 (n,)."""
    ranges = (np.arange(start, stop) for start, stop in id_ranges(dataset, split, len(dataset)))
    return np.concatenate([np.empty(0, np.int64), *ranges])


def image_chunks(dataset: Dataset, split: str) -> Iterator[Chunk]:
    """Ids (m,), images (m, S, S) and latents (m, D) of a split, some at a time."""
    for start, stop in id_ranges(dataset, split, ROWS):
        yield np.arange(start, stop), dataset.images[start:stop], dataset.latents[start:stop]


class SplitImages:
    """Images of a split by row, as training a network reads them; kept in memory if they are few."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset, self.ids = dataset, split_ids(dataset, split)
        image = dataset.manifest.image
        self.kept: NDArray[np.uint8] | None = None
        if len(self.ids) * image.height * image.width <= IN_MEMORY:
            self.kept = np.concatenate([images for _, images, _ in image_chunks(dataset, split)])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of some rows, (m, S, S) uint8."""
        if self.kept is not None:
            return self.kept[rows]
        return np.stack([self.dataset.images[i] for i in self.ids[rows].tolist()])


def read_effects(dataset: Dataset, split: str, level: float | None = None) -> Array:
    """Random effects behind the outcomes of a level, (n, k); those linked to the image if it is None."""
    names, table = eta_columns(len(dataset.manifest.random_effects)), "random_effects" if level else "subjects"
    rows = dataset.scan(table, level, split).to_table(columns=["id", *names])
    if not np.array_equal(rows["id"].to_numpy(), split_ids(dataset, split)):
        raise StorageError("subjects are not in order", where=f"{table} of split {split}", do="verify the data set")
    return np.stack([rows[name].to_numpy() for name in names], axis=1)


def outcomes(dataset: Dataset, level: float, split: str) -> NDArray[np.float32]:
    """The outcomes of a level and split, (n, T), in order of ids.

    Raises:
        StorageError: an outcome is missing, or the rows are not those of the subjects and visits.
    """
    ids, times = split_ids(dataset, split), len(dataset.manifest.times)
    out = np.empty((len(ids), times), np.float32)
    flat, done = out.reshape(-1), 0
    for batch in dataset.scan("observations", level, split).to_batches(columns=["id", "evid", "dv"], use_threads=False):
        seen = batch["evid"].to_numpy() == 0
        values, owners = batch["dv"].to_numpy(zero_copy_only=False)[seen], batch["id"].to_numpy()[seen]
        expected = ids[np.minimum(np.arange(done, done + len(values)) // times, len(ids) - 1)]
        wrong = np.flatnonzero(~np.isfinite(values) | (owners != expected))
        if len(wrong) or done + len(values) > len(flat):
            first = int(wrong[0]) if len(wrong) else 0
            raise StorageError(
                "outcomes cannot be evaluated", where=f"association {level}, {split}, subject {owners[first]}",
                expected=f"{times} outcomes of each subject", got=f"{values[first]} for subject {owners[first]}",
                do="verify the data set",
            )  # fmt: skip
        flat[done : done + len(values)] = values
        done += len(values)
    if done != len(flat):
        raise StorageError("outcomes are missing", where=f"association {level}, {split}", expected=len(flat), got=done)
    return out


def held_out_subjects(dataset: Dataset, level: float, observed: NDArray[Any], modes: Array) -> HeldOutSubjects:
    """The test subjects of a level, with their outcomes (n, T) and empirical Bayes estimates (n, k)."""
    return HeldOutSubjects(
        level=level,
        ids=split_ids(dataset, "test"),
        eta=read_effects(dataset, "test", level),
        linked=read_effects(dataset, "test"),
        observed=np.asarray(observed, np.float64),
        modes=modes,
        seed=dataset.manifest.seed,
    )
