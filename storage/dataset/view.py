"""The subjects of one split at one association level, of one arm or one site, in id order."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError, naming_missing_extra
from image_longitudinal.core.secrets import revealed
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.arrow_table import ArrowTable
from image_longitudinal.storage.dataset.rows import Rows

if TYPE_CHECKING:
    from image_longitudinal.storage.dataset.reader import Dataset
    from image_longitudinal.storage.dataset.subject import Subject


@dataclass(frozen=True)
class View:
    """Subjects of one split (None: all) at one association level (None: images and latents alone), in id order.

    Returned by :meth:`storage.dataset.reader.Dataset.view`. Its arrays are indexed by positions within the view and
    read when they are: ``view.images[0:64]``, ``view.outcomes[:]``.

    Example:
        >>> view = data.view("train", level=0.1)
        >>> len(view), view.used_eta[0:5].shape, view[0].id
        (512, (5, 3), 0)
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

    @property
    def images(self) -> Rows:
        """Images, uint8 (n, H, W)."""
        return self._of_view(self.dataset.images)

    @property
    def latents(self) -> Rows:
        """Latents, float32 (n, D)."""
        return self._of_view(self.dataset.latents)

    @property
    def linked_eta(self) -> Rows:
        """Random effects linked to the images, float64 (n, k): see :attr:`Dataset.linked_eta`."""
        return self._of_view(self.dataset.linked_eta)

    @property
    def used_eta(self) -> Rows:
        """Random effects that the outcomes were made from, float64 (n, k)."""
        return self._of_view(self.dataset.used_eta(self._level))

    @property
    def outcomes(self) -> Rows:
        """Outcomes at the observation times, float32 (n, T); NaN at a missed visit."""
        return self._of_view(self.dataset.outcomes(self._level))

    def table(self, name: str, columns: Sequence[str] | None = None) -> ArrowTable:
        """One of the tables, subjects, random_effects or observations, in memory.

        Example:
            >>> data.view("test", 0.5).table("observations", columns=["id", "dv"])
            <1,408 rows: id int64, dv float>
        """
        if self.arm is None and self.site is None:
            return self.dataset.table(name, self._level_of(name), self.split, columns)
        rows = self.dataset.table(name, self._level_of(name), self.split).arrow
        rows = rows.filter(pc.is_in(rows["id"], pa.array(self.ids)))
        return ArrowTable(rows if columns is None else rows.select(list(columns)))

    def to_polars(self, name: str) -> Any:
        """A table as a lazy polars frame: filters and column choices reach the files; ``.collect()`` reads."""
        with naming_missing_extra():
            import polars
        lazy = polars.scan_pyarrow_dataset(self.dataset.scan(name, self._level_of(name), self.split))
        every = self.arm is None and self.site is None
        return lazy if every else lazy.filter(polars.col("id").is_in(self.ids.tolist()))

    def to_xarray(self) -> Any:
        """Images and latents as a lazy xarray Dataset with dimensions subject, y, x and latent, and ids as coordinate.

        Its arrays are those of dask, one chunk for each shard, or for the part of a shard that the view has.

        Example:
            >>> data.view("test").to_xarray()["image"].shape
            (64, 64, 64)
        """
        with naming_missing_extra():
            import dask  # noqa: F401
            import xarray
        zarr = importlib.import_module("zarr")
        self.dataset.check_zarr_metadata()
        root = self.dataset.root
        address = f"{revealed(root.url)}/{layout.IMAGES}"
        from_url = partial(zarr.storage.FsspecStore.from_url, storage_options=root.options, read_only=True)
        store = address if "://" not in address else from_url(address)
        try:
            arrays = xarray.open_zarr(store, chunks=None, consolidated=self.dataset.manifest.layout_version > 1)
            arrays = arrays.chunk(subject=self.dataset.plan.shard_size)
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

    def _of_view(self, rows: Rows) -> Rows:
        return rows.only(self.ids)
