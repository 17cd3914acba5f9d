"""Images and latents in one Zarr v3 group: metadata once, then one whole shard object per shard and array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset import sharding
from image_longitudinal.storage.dataset.layout import (
    IMAGES,
    LAYOUT_VERSION,
    image_shard_path,
    latent_shard_path,
    zarr_metadata_paths,
)
from image_longitudinal.storage.io.root import FileRecord, Root

LATENT_CHUNK = 256  # rows at most: 128 KiB at 128 entries, so one latent costs little and a shard's few chunks less


@dataclass(frozen=True)
class ArraySpec:
    """What reading or writing the shards of one array takes: ``row`` is the shape of one subject's entry."""

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


def create_image_arrays(
    root: Root, *, n: int, height: int, width: int, latent_dim: int, shard_size: int, licence: str = ""
) -> tuple[FileRecord, ...]:
    """Write the Zarr metadata of ``n`` images (height, width) uint8 and latents (latent_dim,) float32.

    The same arguments give the same bytes every time, so calling it again changes nothing.

    Raises:
        StorageError: if the metadata of another geometry is there already, or the store refuses.
    """
    records = []
    for path, content in _metadata(n, height, width, latent_dim, shard_size, licence).items():
        if root.exists(path) and root.read_bytes(path) != content:
            raise StorageError(
                "the images of another data set are here already",
                where=root.join(path),
                expected=f"{n} images of {height} x {width}, {latent_dim} latent entries, shards of {shard_size}",
                do="choose another output",
            )
        records.append(root.write_bytes(path, content))
    return tuple(records)


def write_image_shard(
    root: Root,
    shard: Shard,
    images: NDArray[np.uint8] | Iterable[NDArray[np.uint8]],
    latents: NDArray[np.float32],
    *,
    shard_size: int,
) -> tuple[FileRecord, ...]:
    """Write the two shard objects of one shard, each whole or not at all.

    Args:
        root: where the data set is.
        shard: which subjects; ``len(shard)`` rows, fewer than ``shard_size`` in a short last shard.
        images: uint8, shape (len(shard), H, W), 0-255, in id order; whole, or in batches that are compressed and
            written as they come, so that memory holds a few of them.
        latents: float32, finite, shape (len(shard), D), in id order.
        shard_size: rows of a full shard, as given to :func:`create_image_arrays`.

    Returns:
        Records of the image and the latent object. The same input gives the same bytes.

    Raises:
        StorageError: if the arrays do not fit the shard, or the store refuses.
    """
    _check(shard, "latents", latents, np.float32, 2)
    if not np.isfinite(latents).all():
        raise StorageError("latents hold numbers that are not finite", where=f"shard {shard.index}")
    batches = _counted(shard, [images] if isinstance(images, np.ndarray) else images)
    pieces = sharding.encode_batches(batches, shard_rows=shard_size)
    return (
        root.write(image_shard_path(shard.index), pieces, rows=len(shard)),
        _write_rows(root, shard, latent_spec(latents.shape[1], shard_size), latents),
    )


class ShardedArray:
    """Rows of one array, read from its shard objects: random or in runs, from any number of threads.

    The index of each shard is read once and kept (16 bytes a chunk).
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

        Cheapest when few shards are touched: shuffle shards, then rows within them. IndexError outside the array.
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
        present = stored[:, 0] != sharding.MISSING
        pieces = self.root.read_ranges(path, [(int(o), int(o + n)) for o, n in stored[present]])
        decoded = [np.zeros((size, *self.spec.row), self.spec.dtype)] * len(chunks)  # what is left out is fill value
        where = self.root.join(path)
        for position, piece in zip(np.flatnonzero(present), pieces, strict=True):
            decoded[position] = sharding.decode_chunk(memoryview(piece), decoded[0].shape, self.spec.dtype, where)
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
        stored = places[places[:, 0] != sharding.MISSING].astype(int)
        begin = int(stored[:, 0].min(initial=0 if not len(stored) else stored[0, 0]))
        end = int(stored.sum(axis=1).max(initial=begin))
        data = memoryview(self.root.read_range(path, begin, end))
        for chunk, (offset, length) in zip(chunks, places, strict=True):
            low, high = max(first, chunk * size), min(last, (chunk + 1) * size)
            target = out[low - first : high - first]
            if offset == sharding.MISSING:
                target[...] = 0  # a rewritten array may leave chunks of fill value out
                continue
            piece = data[int(offset) - begin : int(offset) + int(length) - begin]
            rows = sharding.decode_chunk(piece, (size, *self.spec.row), self.spec.dtype, where)
            target[...] = rows[low - chunk * size : high - chunk * size]


def _write_rows(root: Root, shard: Shard, spec: ArraySpec, rows: NDArray[Any]) -> FileRecord:
    pieces = sharding.encode_shard(rows, chunk_rows=spec.chunk_rows, shard_rows=spec.shard_rows)
    return root.write(spec.shard_path(shard.index), pieces, rows=len(shard))


def _counted(shard: Shard, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The same batches, refused where they are no images of one size, or not as many as the shard has subjects."""
    count, side = 0, None
    for batch in batches:
        count += len(batch)
        side = side or batch.shape[1:]
        if batch.dtype != np.uint8 or batch.ndim != 3 or batch.shape[1:] != side or count > len(shard):
            raise _misfit(shard, "images", np.uint8, 3, f"{batch.dtype} {(count, *batch.shape[1:])}")
        yield batch
    if count != len(shard):
        raise _misfit(shard, "images", np.uint8, 3, f"{count} rows")


def _check(shard: Shard, what: str, array: NDArray[Any], dtype: type, ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim or len(array) != len(shard):
        raise _misfit(shard, what, dtype, ndim, f"{array.dtype} {array.shape}")


def _misfit(shard: Shard, what: str, dtype: type, ndim: int, got: str) -> StorageError:
    return StorageError(
        f"{what} do not fit their shard",
        where=f"shard {shard.index}",
        expected=f"{len(shard)} rows of {np.dtype(dtype).name} in {ndim} dimensions",
        got=got,
    )


def _codec(spec: ArraySpec) -> BloscCodec:
    typesize = np.dtype(spec.dtype).itemsize
    return BloscCodec(typesize=typesize, cname=sharding.LZ4, clevel=sharding.LEVEL, shuffle="bitshuffle", blocksize=0)


def _metadata(n: int, height: int, width: int, latent_dim: int, shard_size: int, licence: str) -> dict[str, bytes]:
    """The three metadata documents as zarr-python writes them."""
    store = MemoryStore()
    stated = {"licence": licence} if licence else {}
    group = zarr.create_group(store, attributes={"layout_version": LAYOUT_VERSION, **stated})
    described: dict[str, tuple[ArraySpec, tuple[str, ...], dict[str, Any]]] = {
        "image": (
            image_spec(height, width, shard_size),
            ("subject", "y", "x"),
            {"description": "grey image of each subject", "units": "grey level", "value_range": [0, 255]},
        ),
        "latent": (
            latent_spec(latent_dim, shard_size),
            ("subject", "latent"),
            {"description": "latent vector behind each image", "units": "1", "distribution": "standard normal"},
        ),
    }
    for name, (spec, dimensions, attributes) in described.items():
        group.create_array(
            name,
            shape=(n, *spec.row),
            dtype=spec.dtype,
            chunks=(spec.chunk_rows, *spec.row),
            shards=(spec.shard_rows, *spec.row),
            compressors=(_codec(spec), Crc32cCodec()),
            fill_value=0,
            dimension_names=dimensions,
            attributes=attributes,
        )
    stored = {key: value.to_bytes() for key, value in store._store_dict.items()}
    return {path: stored[path.removeprefix(f"{IMAGES}/")] for path in zarr_metadata_paths()}
