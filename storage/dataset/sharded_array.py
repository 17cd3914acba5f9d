"""Reading the arrays of ``images.zarr``, Zarr v3 shards: rows at random or in runs, from any number of threads.

Specification: https://zarr-specs.readthedocs.io, sharding-indexed. :mod:`storage.dataset.images` says why zarr-python
is not used.
"""

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import shard_ranges
from image_longitudinal.storage.dataset.decoding import ZSTD, decode_blosc, decode_zstd, most_compressed
from image_longitudinal.storage.dataset.layout import image_shard_path, latent_shard_path
from image_longitudinal.storage.io.root import Root

MISSING_CHUNK = np.uint64(2**64 - 1)  # offset and length of a chunk that is not stored
CRC_BYTES = 4
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

    Args:
        root: where the array is.
        spec: shape, type and chunks.
        n: rows.
        present: the shards of a part of a data set, None for all. Rows of others are refused with a StorageError: Zarr
            itself would return black images.
    """

    def __init__(self, root: Root, spec: ArraySpec, n: int, present: Sequence[int] | None = None) -> None:
        self.root, self.spec, self.n, self.present = root, spec, n, present
        self.shape, self.dtype = (n, *spec.row), np.dtype(spec.dtype)
        self._index = lru_cache(maxsize=1024)(self._read_index)

    def __len__(self) -> int:
        return self.n

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start <= i < stop``, shape (stop - start, ...); 0 ≤ start ≤ stop ≤ n, else IndexError."""
        start, stop = operator.index(start), operator.index(stop)
        if not 0 <= start <= stop <= self.n:
            raise IndexError(f"rows {start} to {stop} of {self.n}")
        self._check_present(np.arange(start // self.spec.shard_rows, -(-stop // self.spec.shard_rows)))
        out, size = np.empty((stop - start, *self.spec.row), self.spec.dtype), self.spec.chunk_rows
        for shard in range(start // self.spec.shard_rows, -(-stop // self.spec.shard_rows)):
            begin = shard * self.spec.shard_rows
            low, high = max(start, begin), min(stop, begin + self.spec.shard_rows)
            chunks = np.arange((low - begin) // size, -(-(high - begin) // size))
            for first, rows in zip((begin + chunks * size).tolist(), self._chunks(shard, chunks), strict=True):
                left, right = max(low, first), min(high, first + size)
                out[left - start : right - start] = rows[left - first : right - first]
        return out

    def take(self, ids: ArrayLike) -> NDArray[Any]:
        """Rows of any ids in any order, shape (len(ids), ...); every chunk is read and decoded once.

        Fastest if few shards are read: shuffle shards, then rows within them. IndexError outside the array; TypeError
        for ids that are no integers.
        """
        wanted = integers(ids)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.n:
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {self.n}")
        self._check_present(wanted // self.spec.shard_rows)
        out = np.empty((len(wanted), *self.spec.row), self.spec.dtype)
        order = np.argsort(wanted, kind="stable")
        shards = wanted[order] // self.spec.shard_rows
        for group in np.split(order, np.flatnonzero(np.diff(shards)) + 1):
            if len(group):
                shard, rows = int(wanted[group[0]] // self.spec.shard_rows), wanted[group] % self.spec.shard_rows
                chunks, which = np.unique(rows // self.spec.chunk_rows, return_inverse=True)
                decoded = list(self._chunks(shard, chunks))
                for place, row, chunk in zip(group, rows % self.spec.chunk_rows, which, strict=True):
                    out[place] = decoded[chunk][row]
        return out

    def _check_present(self, shards: NDArray[np.int64]) -> None:
        if self.present is not None and (absent := np.setdiff1d(shards, self.present)).size:
            expected = f"images of shards {shard_ranges(self.present)}, {self.spec.shard_rows} each"
            problem = "this part of the data set has no such images"
            raise StorageError(problem, expected=expected, got=f"shard {absent[0]}")

    def _chunks(self, shard: int, numbers: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Chunks of one shard, ascending; those that are neighbours in the file are read as one range."""
        path, shape = self.spec.shard_path(shard), (self.spec.chunk_rows, *self.spec.row)
        places = self._index(shard)[numbers]
        present = places[:, 0] != MISSING_CHUNK
        starts, stops = places[present, 0].astype(np.int64), places[present].sum(axis=1).astype(np.int64)
        first = np.concatenate([[True], starts[1:] != stops[:-1]])[: len(starts)]  # of its range
        last = np.concatenate([first[1:], [True]])[: len(starts)]
        ranges = list(zip(starts[first].tolist(), stops[last].tolist(), strict=True))
        pieces = self.root.read_ranges(path, ranges) if ranges else []
        which, stored = np.cumsum(first) - 1, 0
        for here in present:
            if not here:
                yield np.zeros(shape, self.spec.dtype)  # the fill value
                continue
            begin, piece = ranges[which[stored]][0], memoryview(pieces[which[stored]])
            chunk = piece[int(starts[stored]) - begin : int(stops[stored]) - begin]
            yield _decode(chunk, shape, self.spec.dtype, self.root.join(path))
            stored += 1

    def _read_index(self, shard: int) -> NDArray[np.uint64]:
        """Offset and length of every chunk of a shard, uint64 (chunks, 2)."""
        path, n_chunks = self.spec.shard_path(shard), self.spec.shard_rows // self.spec.chunk_rows
        size = 16 * n_chunks + CRC_BYTES
        data = self.root.read_tail(path, size)
        if len(data) != size or checksum(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
            expected = f"an index of {n_chunks} chunks with a matching checksum at its end"
            raise _damaged("a Zarr shard", self.root.join(path), expected=expected)
        index = np.frombuffer(data[:-CRC_BYTES], "<u8").reshape(n_chunks, 2).astype(np.uint64)
        stored = index[index[:, 0] != MISSING_CHUNK]
        chunk = most_compressed(self.spec.chunk_rows * math.prod(self.spec.row) * np.dtype(self.spec.dtype).itemsize)
        if (stored[:, 1] > chunk).any() or (stored[:, 0] > chunk * n_chunks).any():  # before memory is made for them
            expected = f"chunks of at most {chunk:,} bytes, one after another"
            raise _damaged("a Zarr shard", self.root.join(path), expected=expected)
        return index


def integers(ids: ArrayLike) -> NDArray[np.int64]:
    """Ids as int64; TypeError unless they are integers: rounding 0.5 to 0 would read another subject."""
    given = np.asarray(ids)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, not {given.dtype}")
    return given.astype(np.int64)


def checksum(data: bytes) -> bytes:
    """The 4 bytes that Zarr's codec ``crc32c`` appends."""
    return google_crc32c.value(data).to_bytes(CRC_BYTES, "little")


def _decode(data: memoryview, shape: tuple[int, ...], dtype: str, where: str) -> NDArray[np.generic]:
    """One chunk from its compressed bytes; StorageError if they do not match their checksum or their shape."""
    try:
        if data[: len(ZSTD)] == ZSTD:
            return decode_zstd(bytes(data), shape, dtype)
        packed = bytes(data[:-CRC_BYTES])
        if checksum(packed) != data[-CRC_BYTES:]:
            raise ValueError("its checksum does not match")
        return decode_blosc(packed, shape, dtype)
    except (RuntimeError, ValueError) as error:
        raise _damaged("a chunk of a Zarr shard", where, got=error) from error


def _damaged(what: str, where: str, **details: object) -> StorageError:
    do = "verify the data set and regenerate this shard"
    return StorageError(f"{what} is damaged", where=where, do=do, **details)
