"""Reading a published data set: arrays by slice, tables lazily, one subject at a time, views of a split and level.

For PyTorch see ``image_longitudinal.storage.dataset.loaders``; for pandas, polars and xarray see :meth:`Dataset.view`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import shard_ranges
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.images import ShardedArray, image_spec, latent_spec
from image_longitudinal.storage.dataset.manifest import RootManifest, read_root_manifest
from image_longitudinal.storage.dataset.tables import observation_pattern
from image_longitudinal.storage.dataset.views import View
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root, storage_error


@dataclass(frozen=True)
class Subject:
    """All there is about one subject.

    Attributes:
        id: subject identity.
        split: train, validation or test.
        seed: the subject's own seed.
        image: uint8, shape (H, W).
        latent: float32, shape (D,).
        eta: float64, shape (k,): random effects linked to the image.
        random_effects: by association level, one row: the random effects used and the individual parameters.
        observations: by association level, the subject's rows, sorted by time.
    """

    id: int
    split: str
    seed: int
    image: NDArray[np.uint8]
    latent: NDArray[np.float32]
    eta: NDArray[np.float64]
    random_effects: Mapping[float, pa.Table]
    observations: Mapping[float, pa.Table]


class Dataset:
    """A published data set, opened by :func:`open_dataset`: only the root manifest has been read.

    Safe to use from many threads; pickles as its address.
    """

    def __init__(self, root: Root, manifest: RootManifest) -> None:
        self.root, self.manifest = root, manifest
        self.plan = manifest.plan
        image, n, size = manifest.image, self.plan.n_subjects, manifest.shard_size
        self._images = ShardedArray(root, image_spec(image.height, image.width, size), n)
        self._latents = ShardedArray(root, latent_spec(image.latent_dim, size), n)

    def __len__(self) -> int:
        return self.manifest.n_subjects

    def __repr__(self) -> str:
        return f"Dataset({self.root.url!r}, {len(self)} subjects, levels {list(self.levels)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (self.root.url,)

    @property
    def levels(self) -> tuple[float, ...]:
        """The association levels."""
        return self.manifest.levels

    def images(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Images ``start <= i < stop``: uint8, shape (stop - start, H, W). IndexError outside the data set."""
        self._check_here(start, stop)
        return self._images.read(start, stop)

    def latents(self, start: int, stop: int) -> NDArray[np.float32]:
        """Latents ``start <= i < stop``: float32, shape (stop - start, D). IndexError outside the data set."""
        self._check_here(start, stop)
        return self._latents.read(start, stop)

    def take_images(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Images of any ids in any order: uint8, shape (len(ids), H, W); fastest when few shards are touched."""
        self._check_all_here(ids)
        return self._images.take(ids)

    def take_latents(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Latents of any ids in any order: float32, shape (len(ids), D)."""
        self._check_all_here(ids)
        return self._latents.take(ids)

    def eta(self, start: int, stop: int) -> NDArray[np.float64]:
        """Random effects linked to the image of subjects ``start <= id < stop``: float64, shape (stop - start, k)."""
        return self._columns("subjects", None, start, stop, layout.eta_columns(len(self.manifest.random_effects)))

    def effects(self, level: float, start: int, stop: int) -> NDArray[np.float64]:
        """Random effects behind the outcomes of one association level: float64, shape (stop - start, k)."""
        names = layout.eta_columns(len(self.manifest.random_effects))
        return self._columns("random_effects", level, start, stop, names)

    def outcomes(self, level: float, start: int, stop: int) -> NDArray[np.float32]:
        """Outcomes at ``manifest.times``, which ascend: float32, shape (stop - start, T); NaN for a missed visit."""
        pattern = observation_pattern(self.manifest.times, self.manifest.doses)
        dv = self._columns("observations", level, start, stop, ("dv",), rows=len(pattern["evid"]))
        return dv.reshape(stop - start, -1)[:, pattern["evid"] == 0].astype(np.float32)

    def view(self, split: str | None = None, level: float | None = None) -> View:
        """The subjects of one split, or all, at one association level, or none; see :class:`storage.dataset.views.View`.

        Raises:
            StorageError: for a split or level that the data set has not.
        """
        if split is not None:
            _check_is_one_of("split", split, self.manifest.present_splits)
        if level is not None:
            _check_is_one_of("association level", level, self.levels)
        return View(self, split, level)

    def runs(self, split: str | None = None) -> list[tuple[int, int]]:
        """The ids of one split, or of all subjects, as runs ``start <= id < stop`` within one shard, ascending."""
        splits = self.manifest.present_splits if split is None else (split,)
        _check_is_one_of("split", splits[0], self.manifest.present_splits)
        runs: list[tuple[int, int]] = []
        for shard in self.plan:
            for part in shard.splits:
                if part.split not in splits:
                    continue
                if runs and runs[-1][1] == part.start > shard.start:  # the next split of the same shard
                    runs[-1] = (runs[-1][0], part.stop)
                else:
                    runs.append((part.start, part.stop))
        return runs

    def subjects(self, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The subjects of one split, or of all, sorted by id within each split."""
        return self.scan("subjects", split=split).to_table(columns=columns)

    def random_effects(self, level: float, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The random effects behind the outcomes of one association level, sorted by id within each split."""
        return self.scan("random_effects", level, split).to_table(columns=columns)

    def observations(self, level: float, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The observations of one association level, sorted by id and time within each split.

        All of it in memory: for more than fits there, use :meth:`scan` and take batches.
        """
        return self.scan("observations", level, split).to_table(columns=columns)

    def scan(self, table: str, level: float | None = None, split: str | None = None) -> pads.Dataset:
        """A table as a lazy pyarrow dataset: nothing is read until it is asked for batches, counts or a table.

        Args:
            table: subjects, random_effects or observations.
            level: an association level of the data set; None for ``subjects``.
            split: one split, or all.

        Raises:
            StorageError: for a table, level or split that the data set has not.
        """
        splits = self.manifest.present_splits if split is None else (split,)
        _check_is_one_of("split", splits[0], self.manifest.present_splits)
        ranges = [(part.split, shard.index) for shard in self.plan for part in shard.splits if part.split in splits]
        return self._files(table, [self._path(table, level, index, name) for name, index in ranges])

    def subject(self, subject_id: int) -> Subject:
        """Everything about one subject. IndexError for an id outside the data set."""
        split, shard = self.plan.split_of(subject_id), subject_id // self.plan.shard_size

        def rows(table: str, level: float | None = None) -> pa.Table:
            file = self._files(table, [self._path(table, level, shard, split)])
            return file.to_table(filter=pads.field("id") == subject_id)

        row = rows("subjects")
        names = layout.eta_columns(len(self.manifest.random_effects))
        return Subject(
            id=subject_id,
            split=split,
            seed=row["seed"][0].as_py(),
            image=self.images(subject_id, subject_id + 1)[0],
            latent=self.latents(subject_id, subject_id + 1)[0],
            eta=np.array([row[name][0].as_py() for name in names]),
            random_effects={level: rows("random_effects", level) for level in self.levels},
            observations={level: rows("observations", level) for level in self.levels},
        )

    def schema(self, table: str) -> pa.Schema:
        """The columns of a table, with units in the metadata of each field."""
        manifest, n_eta = self.manifest, len(self.manifest.random_effects)
        _check_is_one_of("table", table, layout.TABLES)
        if table == "subjects":
            return layout.subjects_schema(n_eta, licence=manifest.licence)
        if table == "random_effects":
            return layout.random_effects_schema(n_eta, manifest.parameters, manifest.units, licence=manifest.licence)
        infusions = any(dose.rate for dose in manifest.doses)
        return layout.observations_schema(manifest.units, licence=manifest.licence, infusions=infusions)

    def _columns(
        self, table: str, level: float | None, start: int, stop: int, names: Sequence[str], rows: int = 1
    ) -> NDArray[Any]:
        """Number columns of subjects ``start <= id < stop``, float64 (rows of each subject · subjects, columns)."""
        if not 0 <= start <= stop <= self.plan.n_subjects:
            raise IndexError(f"subjects {start} to {stop} of {self.plan.n_subjects}")
        out, filled, size = np.empty(((stop - start) * rows, len(names))), 0, self.plan.shard_size
        for index in range(start // size, -(-stop // size)):
            for part in self.plan.shard(index).splits:
                low, high = max(part.start, start), min(part.stop, stop)
                if low >= high:
                    continue
                path = self._path(table, level, index, part.split)
                found = self._read_columns(path, names)
                if len(found) != rows * (part.stop - part.start):
                    raise StorageError(
                        "a table has another number of rows than its subjects need",
                        where=self.root.join(path),
                        expected=rows * (part.stop - part.start),
                        got=len(found),
                        do="verify the data set",
                    )
                target = slice((low - start) * rows, (high - start) * rows)
                out[target] = found[(low - part.start) * rows : (high - part.start) * rows]
                filled += high - low
        if filled < stop - start:
            raise IndexError(f"subjects {start} to {stop}: {stop - start - filled} of them are not in this part")
        return out

    def _read_columns(self, path: str, names: Sequence[str]) -> NDArray[Any]:
        """Columns of one file as float64 (rows, columns), null as NaN; one thread, for there are workers around us."""
        try:
            file = pq.ParquetFile(pa.BufferReader(self.root.read_bytes(path)))
            table = file.read(columns=list(names), use_threads=False)
            return np.stack([table[name].to_numpy().astype(np.float64, copy=False) for name in names], axis=1)
        except (pa.ArrowException, KeyError, OSError) as error:
            raise storage_error("cannot read a table", self.root.join(path), error) from error

    def _path(self, table: str, level: float | None, shard: int, split: str) -> str:
        _check_is_one_of("table", table, layout.TABLES)
        if table == "subjects":
            return layout.subjects_path(shard, split)
        _check_is_one_of("association level", level, self.levels)
        path = layout.random_effects_path if table == "random_effects" else layout.observations_path
        return path(float(level or 0.0), shard, split)

    def _files(self, table: str, paths: list[str]) -> pads.Dataset:
        filesystem, prefix = self.root.filesystem
        # Decoding "split" as the dictionary it is stored as, then casting, halves its cost, the highest of all columns;
        # reading ahead of the columns pays where each read is a request
        form = pads.ParquetFileFormat(dictionary_columns=["split"], pre_buffer=filesystem is not None)
        return pads.dataset(
            [f"{prefix}/{path}" for path in paths], schema=self.schema(table), format=form, filesystem=filesystem
        )

    def _check_here(self, start: int, stop: int) -> None:
        """Refuse images of shards that are not in this part of a data set: Zarr itself would call them black."""
        if (here := self.plan.only_shards) is None:
            return
        for shard in range(start // self.plan.shard_size, -(-stop // self.plan.shard_size)):
            if shard not in here:
                expected = f"images of shards {shard_ranges(here)}, {self.plan.shard_size} each"
                got = f"images {start} to {stop - 1}, of shard {shard}"
                raise StorageError("this part of the data set has no such images", expected=expected, got=got)

    def _check_all_here(self, ids: ArrayLike) -> None:
        if self.plan.only_shards is not None:
            for shard in np.unique(np.asarray(ids, np.int64) // self.plan.shard_size).tolist():
                self._check_here(shard * self.plan.shard_size, shard * self.plan.shard_size + 1)


def open_dataset(url: str | Path | Root) -> Dataset:
    """Open a published data set at a local path or fsspec URL; reads its root manifest alone.

    Raises:
        StorageError: if nothing is published there, it has another layout version, or its manifest is damaged.
    """
    root = url if isinstance(url, Root) else open_root(url)
    return Dataset(root, read_root_manifest(root))


def _check_is_one_of(what: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        raise StorageError(
            f"no such {what} in this data set", expected="one of " + ", ".join(map(str, known)), got=value
        )
