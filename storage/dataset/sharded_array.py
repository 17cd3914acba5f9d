"""Reading the arrays of ``images.zarr``: rows at random or in runs, from any number of threads."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.storage.dataset import sharding
from image_longitudinal.storage.dataset.layout import image_shard_path, latent_shard_path
from image_longitudinal.storage.io.root import Root

LATENT_CHUNK = 256  # rows at most: 128 KiB for 128 dimensions, so that single latents and whole shards both read fast


@dataclass(frozen=True)
class ArraySpec:
    """Shape, type and chunks of one array: ``row`` is the shape of one subject's entry."""

    name: str
    row: tuple[int, ...]
    dtype: str
    chunk_rows: int
    shard_rows: int

    def shard_path(self, index: int) -> str:
        """The object that holds shard ``index``."""
        return image_shard_path(index) if self.name == "image" else latent_shard_path(index)


def image_spec(height: int, width: int, shard_size: int) -> ArraySpec:
    """``image`` (N, H, W) uint8: one image per chunk."""
    return ArraySpec("image", (height, width), "|u1", 1, shard_size)


def latent_spec(latent_dim: int, shard_size: int) -> ArraySpec:
    """``latent`` (N, D) float32: the largest divisor of the shard up to 256 rows per chunk."""
    rows = next(rows for rows in range(min(LATENT_CHUNK, shard_size), 0, -1) if shard_size % rows == 0)
    return ArraySpec("latent", (latent_dim,), "<f4", rows, shard_size)


class ShardedArray:
    """Rows of one array, read from its shard objects; safe to use from many threads.

    The index of each shard is read once and kept (16 bytes for each chunk).
    """

    def __init__(self, root: Root, spec: ArraySpec, n: int) -> None:
        self.root, self.spec, self.n = root, spec, n
        self.shape = (n, *spec.row)
        self._index = lru_cache(maxsize=1024)(self._read_index)

    def __len__(self) -> int:
        return self.n

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start <= i < stop``, shape (stop - start, ...); 0 ≤ start ≤ stop ≤ n, else IndexError."""
        if not 0 <= start <= stop <= self.n:
            raise IndexError(f"rows {start} to {stop} of {self.n}")
        out = np.empty((stop - start, *self.spec.row), self.spec.dtype)
        while start < stop:
            shard, first = divmod(start, self.spec.shard_rows)
            last = min(first + stop - start, self.spec.shard_rows)
            position = len(out) - (stop - start)
            self._read_from(shard, first, last, out[position : position + last - first])
            start += last - first
        return out

    def take(self, ids: ArrayLike) -> NDArray[Any]:
        """Rows of any ids in any order, shape (len(ids), ...); every chunk is read and decoded once.

        Fastest if few shards are read: shuffle shards, then rows within them. IndexError outside the array.
        """
        wanted = np.asarray(ids, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.n:
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {self.n}")
        out = np.empty((len(wanted), *self.spec.row), self.spec.dtype)
        order = np.argsort(wanted, kind="stable")
        shards = wanted[order] // self.spec.shard_rows
        for group in np.split(order, np.flatnonzero(np.diff(shards)) + 1):
            if len(group):
                self._take_from(int(wanted[group[0]] // self.spec.shard_rows), wanted[group], group, out)
        return out

    def _take_from(self, shard: int, ids: NDArray[np.int64], places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Rows ``ids``, ascending and all of one shard, into ``out[places]``."""
        path, size = self.spec.shard_path(shard), self.spec.chunk_rows
        rows = ids - shard * self.spec.shard_rows
        chunks, which = np.unique(rows // size, return_inverse=True)
        stored = self._index(shard)[chunks]
        present = stored[:, 0] != sharding.MISSING_CHUNK
        pieces = self.root.read_ranges(path, [(int(o), int(o + n)) for o, n in stored[present]])
        fill = np.zeros((size, *self.spec.row), self.spec.dtype)  # the content of chunks that are not stored
        decoded = [fill] * len(chunks)
        where = self.root.join(path)
        for position, piece in zip(np.flatnonzero(present), pieces, strict=True):
            decoded[position] = sharding.decode_chunk(memoryview(piece), fill.shape, self.spec.dtype, where)
        for place, row, position in zip(places, rows % size, which, strict=True):
            out[place] = decoded[position][row]

    def _read_index(self, shard: int) -> NDArray[np.uint64]:
        path = self.spec.shard_path(shard)
        n_chunks = self.spec.shard_rows // self.spec.chunk_rows
        tail = self.root.read_range(path, -sharding.index_bytes(n_chunks))
        return sharding.decode_index(tail, n_chunks, self.root.join(path))

    def _read_from(self, shard: int, first: int, last: int, out: NDArray[Any]) -> None:
        """Fill ``out`` with rows ``first <= i < last`` of one shard, in one read from the store."""
        path, size = self.spec.shard_path(shard), self.spec.chunk_rows
        where = self.root.join(path)
        chunks = range(first // size, (last - 1) // size + 1)
        places = self._index(shard)[chunks.start : chunks.stop]
        stored = places[places[:, 0] != sharding.MISSING_CHUNK].astype(int)
        begin = int(stored[:, 0].min(initial=0 if not len(stored) else stored[0, 0]))
        end = int(stored.sum(axis=1).max(initial=begin))
        data = memoryview(self.root.read_range(path, begin, end))
        for chunk, (offset, length) in zip(chunks, places, strict=True):
            low, high = max(first, chunk * size), min(last, (chunk + 1) * size)
            target = out[low - first : high - first]
            if offset == sharding.MISSING_CHUNK:
                target[...] = 0  # a chunk that is not stored is fill value
                continue
            piece = data[int(offset) - begin : int(offset) + int(length) - begin]
            rows = sharding.decode_chunk(piece, (size, *self.spec.row), self.spec.dtype, where)
            target[...] = rows[low - chunk * size : high - chunk * size]
