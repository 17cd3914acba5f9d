"""Arrays with one entry for each subject that are read when they are indexed: ``data.images[0:64]``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from image_longitudinal.storage.dataset.sharded_array import integers

IDS_PER_RUN = 8  # shorter runs of neighbours on average: all ids at once instead of one read for each run


class Source(Protocol):
    """What holds the entries: by range of ids, or by any ids in any order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an entry."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Entries ``start <= id < stop``."""

    def take(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Entries of any ids."""


@dataclass(frozen=True)
class TableSource:
    """Number columns of a table; ``runs`` are the ids that exist, as ranges that each lie in one shard."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns: Callable[[int, int], NDArray[Any]]
    runs: Sequence[tuple[int, int]]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Entries ``start <= id < stop``."""
        return self.columns(start, stop).astype(self.dtype, copy=False)

    def take(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Entries of any ids: one read of each shard, because a file is read whole."""
        out, filled = np.empty((len(ids), *self.shape[1:]), self.dtype), 0
        for start, stop in self.runs:
            own = np.flatnonzero((ids >= start) & (ids < stop))
            if len(own):
                low, high = int(ids[own].min()), int(ids[own].max()) + 1
                out[own] = self.columns(low, high)[ids[own] - low]
                filled += len(own)
        if filled < len(ids):
            raise IndexError(f"{len(ids) - filled} of {len(ids)} subjects are not in this part of the data set")
        return out


class Rows:
    """One entry per subject, shape (N, ...), read when it is indexed as a NumPy array is.

    ``rows[17]`` is one entry, ``rows[0:64]`` a range, ``rows[[5, 3, 3]]`` any subjects in any order, ``rows[:]`` or
    ``numpy.asarray(rows)`` all of them. Further indices apply to what was read: ``rows[0:64, ::2, ::2]``.
    Fastest are ranges, and lists within few shards.

    Raises:
        IndexError: a subject that does not exist, or ids in more than one dimension.
        TypeError: ids that are no integers.

    Example:
        >>> data.images
        <images: uint8 (640, 64, 64), read when indexed>
        >>> data.images[-1].shape
        (64, 64)
    """

    def __init__(self, name: str, source: Source, ids: NDArray[np.int64] | None = None) -> None:
        self.name, self._source, self._ids = name, source, ids

    def only(self, ids: NDArray[np.int64]) -> Rows:
        """The entries of these ids alone, counted from 0."""
        return Rows(self.name, self._source, ids)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        held = self._source.shape
        return held if self._ids is None else (len(self._ids), *held[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an entry."""
        return self._source.dtype

    def __repr__(self) -> str:
        return f"<{self.name}: {self.dtype} {self.shape}, read when indexed>"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis or isinstance(first, slice):
            chosen = range(*(slice(None) if first is Ellipsis else first).indices(len(self)))
            found = self._at(np.arange(chosen.start, chosen.stop, chosen.step))
        elif hasattr(first, "__index__") and not np.ndim(first):
            return np.asarray(self._at(self._checked([operator.index(first)]))[0][tuple(rest)])
        else:
            found = self._at(self._checked(first))
        return np.asarray(found[(slice(None), *rest)]) if rest else found

    def _checked(self, given: Any) -> NDArray[np.int64]:
        """Positions from 0, of what a user gives."""
        if isinstance(given, str):
            raise TypeError(f"{self.name} are indexed by numbers, a slice or a list of numbers, not by {given!r}")
        positions, n = integers(given), len(self)
        if positions.ndim != 1:
            raise IndexError(
                f"{self.name} are indexed by a list of numbers, not by an array of shape {positions.shape}"
            )
        wrong = positions[(positions < -n) | (positions >= n)]
        if wrong.size:
            raise IndexError(f"{self.name}: no {wrong[0]}, there are {n}, counted from 0")
        return np.where(positions < 0, positions + n, positions)

    def _at(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Entries at positions: neighbours as one range, or all at once where they are scattered."""
        ids = positions if self._ids is None else self._ids[positions]
        if not len(ids):
            return self._source.read(0, 0)
        runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
        if len(runs) > 1 and len(ids) < IDS_PER_RUN * len(runs):
            return self._source.take(ids)
        pieces = [self._source.read(int(run[0]), int(run[-1]) + 1) for run in runs]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
