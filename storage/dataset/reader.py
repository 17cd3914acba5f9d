"""Reading a published data set: arrays by slice, tables lazily, one subject at a time, views of a split and level.

For PyTorch see :mod:`storage.dataset.loaders`.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import shard_ranges
from image_longitudinal.core.secrets import revealed
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import RootManifest, read_root_manifest
from image_longitudinal.storage.dataset.sharded_array import ShardedArray, image_spec, integers, latent_spec
from image_longitudinal.storage.dataset.table_reader import TableReader, check_is_one_of, chosen_splits, table_errors
from image_longitudinal.storage.dataset.tables import observation_pattern
from image_longitudinal.storage.dataset.zarr_metadata import check_metadata
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root

if TYPE_CHECKING:
    import pyarrow.dataset as pads


@dataclass(frozen=True)
class Subject:
    """Everything about one subject.

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
        self._tables = TableReader(root, manifest)
        self._eta_columns = layout.eta_columns(len(manifest.random_effects))

    def __len__(self) -> int:
        return self.manifest.n_subjects

    def __repr__(self) -> str:
        return f"Dataset({self.root.url!r}, {len(self)} subjects, levels {list(self.levels)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (revealed(self.root.url),)

    @property
    def levels(self) -> tuple[float, ...]:
        """The association levels."""
        return self.manifest.levels

    def images(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Images ``start <= i < stop``: uint8, shape (stop - start, H, W). IndexError outside the data set.

        TypeError, here as for all ids, if they are no integers.
        """
        self._check_in_part(range(start, stop))
        return self._images.read(start, stop)

    def latents(self, start: int, stop: int) -> NDArray[np.float32]:
        """Latents ``start <= i < stop``: float32, shape (stop - start, D). IndexError outside the data set."""
        self._check_in_part(range(start, stop))
        return self._latents.read(start, stop)

    def take_images(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Images of any ids in any order: uint8, shape (len(ids), H, W); fastest if few shards are read."""
        self._check_in_part(ids)
        return self._images.take(ids)

    def take_latents(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Latents of any ids in any order: float32, shape (len(ids), D)."""
        self._check_in_part(ids)
        return self._latents.take(ids)

    def eta(self, start: int, stop: int) -> NDArray[np.float64]:
        """Random effects linked to the image of subjects ``start <= id < stop``: float64, shape (stop - start, k)."""
        return self._tables.columns("subjects", None, start, stop, self._eta_columns)

    def effects(self, level: float, start: int, stop: int) -> NDArray[np.float64]:
        """Random effects used for the outcomes of one association level: float64, shape (stop - start, k)."""
        return self._tables.columns("random_effects", level, start, stop, self._eta_columns)

    def outcomes(self, level: float, start: int, stop: int) -> NDArray[np.float32]:
        """Outcomes at ``manifest.times``, which ascend: float32, shape (stop - start, T); NaN at a missed visit."""
        pattern = observation_pattern(self.manifest.times, self.manifest.dose_slots.slots)
        dv = self._tables.columns("observations", level, start, stop, ("dv",), rows=len(pattern["evid"]))
        return dv.reshape(stop - start, -1)[:, pattern["evid"] == 0].astype(np.float32)

    def view(
        self, split: str | None = None, level: float | None = None, *, arm: str | None = None, site: str | None = None
    ) -> View:
        """The subjects of one split (None: all) at one association level (None: images and latents only).

        ``arm``, ``site``: of a study design, only those in this arm and at this site.

        Raises:
            StorageError: the data set has no such split, level, arm or site.
        """
        chosen_splits(self.manifest, split)
        if level is not None:
            check_is_one_of("association level", level, self.levels)
        if arm is not None:
            check_is_one_of("arm", arm, self.arms)
        if site is not None:
            check_is_one_of("site", site, self.sites)
        return View(self, split, level, arm, site)

    def runs(self, split: str | None = None) -> list[tuple[int, int]]:
        """The ids of one split, or of all subjects, as runs ``start <= id < stop`` within one shard, ascending."""
        splits = chosen_splits(self.manifest, split)
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
        return self._table("subjects", None, split, columns)

    def random_effects(self, level: float, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The random effects used at one association level, sorted by id within each split."""
        return self._table("random_effects", level, split, columns)

    def observations(self, level: float, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The observations of one association level in memory, sorted by id and time within each split.

        For more rows than memory holds, take batches of :meth:`scan`.
        """
        return self._table("observations", level, split, columns)

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, by number; empty without a study design that has some."""
        return self.manifest.study_columns.arms

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, by number; empty without a study design that has some."""
        return tuple(site.name for site in self.manifest.study.sites) if self.manifest.study else ()

    def truth(
        self, table: str, level: float | None = None, split: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """A table of what only a scorer may see: ``potential_outcomes``, ``effects`` or ``propensity`` (no level).

        Raises:
            StorageError: the data set has no such table.
        """
        return self._table(f"truth/{table}", level, split, columns)

    def _table(self, table: str, level: float | None, split: str | None, columns: Sequence[str] | None) -> pa.Table:
        with table_errors("cannot read a table", self.root.join(table)):
            return self.scan(table, level, split).to_table(columns=columns)

    def scan(self, table: str, level: float | None = None, split: str | None = None) -> pads.Dataset:
        """A table as a lazy pyarrow dataset: rows are read when batches, counts or a table are requested.

        The footer of every file is read and checked now, and kept.

        Args:
            table: subjects, random_effects or observations, or one of ``manifest.tables`` in ``truth/``.
            level: an association level of the data set; None for tables without.
            split: one split, or all.

        Raises:
            DamagedError: a file lacks a column, or holds other subjects.
            StorageError: the data set has no such table, level or split, or a file cannot be opened.
        """
        return self._tables.scan(table, level, split)

    def subject(self, subject_id: int) -> Subject:
        """Everything about one subject. IndexError for an id outside the data set."""
        subject_id = operator.index(subject_id)
        rows = self._tables.subject_rows
        row = rows("subjects", None, subject_id)
        return Subject(
            id=subject_id,
            split=self.plan.split_of(subject_id),
            seed=row["seed"][0].as_py(),
            image=self.images(subject_id, subject_id + 1)[0],
            latent=self.latents(subject_id, subject_id + 1)[0],
            eta=np.array([row[name][0].as_py() for name in self._eta_columns]),
            random_effects={level: rows("random_effects", level, subject_id) for level in self.levels},
            observations={level: rows("observations", level, subject_id) for level in self.levels},
        )

    def columns(
        self, table: str, level: float | None, start: int, stop: int, names: Sequence[str], rows: int = 1
    ) -> NDArray[np.float64]:
        """Number columns of subjects ``start <= id < stop``, ``rows`` of each: (rows · (stop - start), names)."""
        return self._tables.columns(table, level, start, stop, names, rows)

    def rows(self, table: str, level: float | None, subject_id: int) -> pa.Table:
        """The rows of one subject in a table. IndexError for an id outside the data set."""
        return self._tables.subject_rows(table, level, operator.index(subject_id))

    def check_zarr_metadata(self) -> None:
        """StorageError unless the Zarr metadata describes the manifest's arrays; our own reader does not need it."""
        check_metadata(self.root, (self._images.spec, self._latents.spec), self.plan.n_subjects)

    def schema(self, table: str) -> pa.Schema:
        """The columns of a table, with units in the metadata of each field."""
        check_is_one_of("table", table, self.manifest.tables)
        return self.manifest.table_schema(table)

    def _check_in_part(self, ids: ArrayLike | range) -> None:
        """Refuse images of shards that a part of a data set does not have: Zarr itself would return black images."""
        if (present := self.plan.only_shards) is None:
            return
        absent = np.setdiff1d(integers(ids) // self.plan.shard_size, present)
        if absent.size:
            expected = f"images of shards {shard_ranges(present)}, {self.plan.shard_size} each"
            problem = "this part of the data set has no such images"
            raise StorageError(problem, expected=expected, got=f"shard {absent[0]}")


@dataclass(frozen=True)
class View:
    """Subjects of one split (None: all) at one association level (None: images and latents alone), in id order.

    Returned by :meth:`Dataset.view`; each method reads when it is called. Array methods take positions
    ``start <= i < stop`` within the view; by default the whole view.
    """

    dataset: Dataset
    split: str | None = None
    level: float | None = None
    arm: str | None = None
    site: str | None = None

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The subject ids, ascending: a contiguous run, except in a part of a data set, or in an arm or at a site."""
        ids = np.concatenate([np.arange(*run) for run in self.dataset.runs(self.split)])
        chosen = {"arm": (self.arm, self.dataset.arms), "site": (self.site, self.dataset.sites)}
        for column, (name, names) in chosen.items():
            if name is not None:
                runs = self.dataset.runs(self.split)
                numbers = [self.dataset.columns("subjects", None, *run, [column])[:, 0] for run in runs]
                keep = np.concatenate(numbers) == names.index(name)
                ids = ids[np.isin(ids, np.concatenate([np.arange(*run) for run in runs])[keep])]
        return ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Subject:
        """Everything about the subject at a position, from 0 to len - 1 (IndexError beyond)."""
        return self.dataset.subject(int(self.ids[position]))

    def images(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Images, uint8 (n, H, W)."""
        return self._read(self.dataset.images, start, stop)

    def latents(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Latents, float32 (n, D)."""
        return self._read(self.dataset.latents, start, stop)

    def eta(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Random effects linked to the images, float64 (n, k)."""
        return self._read(self.dataset.eta, start, stop)

    def effects(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Random effects used for the outcomes, float64 (n, k)."""
        return self._read(partial(self.dataset.effects, self._level), start, stop)

    def outcomes(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Outcomes at the observation times, float32 (n, T)."""
        return self._read(partial(self.dataset.outcomes, self._level), start, stop)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One of the three tables, subjects, random_effects or observations, in memory."""
        if self.arm is None and self.site is None:
            return self.dataset._table(name, self._level_of(name), self.split, columns)
        rows = self.dataset._table(name, self._level_of(name), self.split, None)
        rows = rows.filter(pc.is_in(rows["id"], pa.array(self.ids)))
        return rows if columns is None else rows.select(list(columns))

    def pandas(self, name: str, columns: Sequence[str] | None = None) -> Any:
        """A table as a pandas data frame, in memory."""
        _import("pandas")
        return self.table(name, columns).to_pandas()

    def polars(self, name: str) -> Any:
        """A table as a lazy polars frame: filters and column choices reach the files; ``.collect()`` reads."""
        polars = _import("polars")
        lazy = polars.scan_pyarrow_dataset(self.dataset.scan(name, self._level_of(name), self.split))
        every = self.arm is None and self.site is None
        return lazy if every else lazy.filter(polars.col("id").is_in(self.ids.tolist()))

    def xarray(self) -> Any:
        """Images and latents as a lazy xarray Dataset with dimensions subject, y, x and latent, and ids as coordinate.

        Index it by slices: Zarr decodes far more than it returns for a list of subjects. For dask arrays with one chunk
        per shard, use ``.chunk(subject=dataset.plan.shard_size)``.
        """
        xarray, zarr = _import("xarray"), importlib.import_module("zarr")
        self.dataset.check_zarr_metadata()
        root = self.dataset.root
        address = f"{revealed(root.url)}/{layout.IMAGES}"
        store = address if "://" not in address else zarr.storage.FsspecStore.from_url(address, read_only=True)
        try:
            arrays = xarray.open_zarr(store, chunks=None, consolidated=self.dataset.manifest.layout_version > 1)
        except Exception as error:  # zarr and xarray raise errors of any type for metadata that they do not know
            do = "verify the data set"
            raise StorageError("cannot open the arrays with xarray", where=root.url, got=error, do=do) from error
        ids = self.ids
        chosen = slice(int(ids[0]), int(ids[-1]) + 1) if ids[-1] - ids[0] + 1 == len(ids) else ids
        return arrays.isel(subject=chosen).assign_coords(subject=ids)

    @property
    def _level(self) -> float:
        if self.level is None:
            expected, do = "one of " + ", ".join(map(str, self.dataset.levels)), "give one: dataset.view(split, level)"
            raise StorageError("this view has no association level", expected=expected, do=do)
        return self.level

    def _level_of(self, table: str) -> float | None:
        return self._level if layout.has_levels(table) else None

    def _read(self, read: Callable[[int, int], NDArray[Any]], start: int, stop: int | None) -> NDArray[Any]:
        """``read(first id, last id + 1)`` of the positions, run by run where the ids have gaps."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"positions {start} to {stop} of {len(self)}")
        ids = self.ids[start:stop]
        if self.arm is None and self.site is None:
            runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
            pieces = [read(int(run[0]), int(run[-1]) + 1) if len(run) else read(0, 0) for run in runs]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        pieces = []
        for low, high in self.dataset.runs(self.split):  # each as one range: others lie between
            own = ids[np.searchsorted(ids, low) : np.searchsorted(ids, high)]
            if len(own):
                pieces.append(read(int(own[0]), int(own[-1]) + 1)[own - own[0]])
        return np.concatenate(pieces) if pieces else read(0, 0)


def open_dataset(url: str | Path | Root) -> Dataset:
    """Open a published data set at a local path or fsspec URL; reads only its root manifest.

    Raises:
        StorageError: nothing is published there, its layout version is unknown, or its manifest is damaged.
    """
    root = url if isinstance(url, Root) else open_root(url)
    return Dataset(root, read_root_manifest(root))


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StorageError(f"this method needs {name}", got=error, do=f"install it: pip install {name}") from error
