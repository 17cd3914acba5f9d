"""A view of a data set: the subjects of one split at one association level, as arrays, tables or data frames.

pandas, polars and xarray are imported where they are asked for; the project does not need them otherwise.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.layout import IMAGES

if TYPE_CHECKING:
    from image_longitudinal.storage.dataset.reader import Dataset, Subject


@dataclass(frozen=True)
class View:
    """Subjects of one split (None: all) at one association level (None: images and latents alone), in id order.

    Made by :meth:`storage.dataset.reader.Dataset.view`; nothing is read until it is asked for. Array methods take positions
    ``start <= i < stop`` within the view; without them, the whole view.
    """

    dataset: Dataset
    split: str | None = None
    level: float | None = None

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The subject ids, ascending: a contiguous run, except in a part of a data set."""
        return np.concatenate([np.arange(*run) for run in self.dataset.runs(self.split)])

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
        """Random effects behind the outcomes, float64 (n, k)."""
        return self._read(partial(self.dataset.effects, self._level), start, stop)

    def outcomes(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Outcomes at the observation times, float32 (n, T)."""
        return self._read(partial(self.dataset.outcomes, self._level), start, stop)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One of the three tables, subjects, random_effects or observations, in memory."""
        return self.dataset.scan(name, self._level_of(name), self.split).to_table(columns=columns)

    def pandas(self, name: str, columns: Sequence[str] | None = None) -> Any:
        """A table as a pandas data frame, in memory."""
        _import("pandas")
        return self.table(name, columns).to_pandas()

    def polars(self, name: str) -> Any:
        """A table as a lazy polars frame: filters and column choices reach the files; ``.collect()`` reads."""
        return _import("polars").scan_pyarrow_dataset(self.dataset.scan(name, self._level_of(name), self.split))

    def xarray(self) -> Any:
        """Images and latents as a lazy xarray Dataset with dimensions subject, y, x and latent, and ids as coordinate.

        Index it by slices: a list of single subjects makes Zarr decode far more than it returns.
        """
        xarray, zarr = _import("xarray"), importlib.import_module("zarr")
        root = self.dataset.root
        address = root.join(IMAGES)
        store = address if "://" not in address else zarr.storage.FsspecStore.from_url(address, read_only=True)
        arrays = xarray.open_zarr(store, consolidated=False, chunks=None, mask_and_scale=False)
        ids = self.ids
        chosen = slice(int(ids[0]), int(ids[-1]) + 1) if ids[-1] - ids[0] + 1 == len(ids) else ids
        return arrays.isel(subject=chosen).assign_coords(subject=ids)

    @property
    def _level(self) -> float:
        if self.level is None:
            raise StorageError(
                "this view has no association level",
                expected="one of " + ", ".join(map(str, self.dataset.levels)),
                do="name it: dataset.view(split, level)",
            )
        return self.level

    def _level_of(self, table: str) -> float | None:
        return None if table == "subjects" else self._level

    def _read(self, read: Callable[[int, int], NDArray[Any]], start: int, stop: int | None) -> NDArray[Any]:
        """``read(first id, last id + 1)`` of the positions, run by run where the ids have gaps."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"positions {start} to {stop} of {len(self)}")
        ids = self.ids[start:stop]
        runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
        pieces = [read(int(run[0]), int(run[-1]) + 1) if len(run) else read(0, 0) for run in runs]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StorageError(f"this view needs {name}", got=error, do=f"install it: pip install {name}") from error
