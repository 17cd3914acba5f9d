"""Writing images and latents as one Zarr v3 group: metadata once, then one shard object per shard and array."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
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
from image_longitudinal.storage.dataset.sharded_array import ArraySpec, image_spec, latent_spec
from image_longitudinal.storage.io.root import FileRecord, Root


def create_image_arrays(
    root: Root, *, n: int, height: int, width: int, latent_dim: int, shard_size: int, licence: str = ""
) -> tuple[FileRecord, ...]:
    """Write the Zarr metadata of ``n`` images (height, width) uint8 and latents (latent_dim,) float32.

    The same arguments give the same bytes every time, so repeating the call changes nothing.

    Raises:
        StorageError: the root holds arrays of another shape already, or a file cannot be written.
    """
    records = []
    for path, content in _metadata(n, height, width, latent_dim, shard_size, licence).items():
        if root.exists(path) and root.read_bytes(path) != content:
            raise StorageError(
                "the output already holds images of another data set",
                where=root.join(path),
                expected=f"{n} images of {height} x {width}, {latent_dim} latent dimensions, shards of {shard_size}",
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
        shard: the subjects: ``len(shard)`` rows, fewer than ``shard_size`` in a short last shard.
        images: uint8, shape (len(shard), H, W), 0-255, in id order; one array, or batches that are compressed and
            written one after another, so that memory holds only a few of them.
        latents: float32, finite, shape (len(shard), D), in id order.
        shard_size: rows of a full shard, as given to :func:`create_image_arrays`.

    Returns:
        Records of the image and the latent object. The same input gives the same bytes.

    Raises:
        StorageError: the arrays do not fit the shard, or a file cannot be written.
    """
    _check(shard, "latents", latents, np.float32, 2)
    if not np.isfinite(latents).all():
        raise StorageError("latents hold numbers that are not finite", where=f"shard {shard.index}")
    rows = latent_spec(latents.shape[1], shard_size).chunk_rows
    latent_pieces = sharding.encode_shard(latents, chunk_rows=rows, shard_rows=shard_size)
    batches = _counted(shard, [images] if isinstance(images, np.ndarray) else images)
    pieces = sharding.encode_batches(batches, shard_rows=shard_size)
    return (
        root.write(image_shard_path(shard.index), pieces, rows=len(shard)),
        root.write(latent_shard_path(shard.index), latent_pieces, rows=len(shard)),
    )


def _counted(shard: Shard, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The same batches; StorageError unless they are images of one size, as many as the shard has subjects."""
    count, shape = 0, None
    for batch in batches:
        count += len(batch)
        shape = shape or batch.shape[1:]
        if batch.dtype != np.uint8 or batch.ndim != 3 or batch.shape[1:] != shape or count > len(shard):
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
    """The three metadata documents: those of the arrays as zarr-python writes them, that of the group consolidated.

    Consolidated metadata spares readers a request for each array; without it xarray warns.
    """
    store = MemoryStore()
    licensed = {"licence": licence} if licence else {}
    group = zarr.create_group(store, attributes={"layout_version": LAYOUT_VERSION, **licensed})
    arrays: dict[str, tuple[ArraySpec, tuple[str, ...], dict[str, Any]]] = {
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
    for name, (spec, dimensions, attributes) in arrays.items():
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
    documents = {path: store._store_dict[path.removeprefix(f"{IMAGES}/")].to_bytes() for path in zarr_metadata_paths()}
    members = {name: json.loads(documents[f"{IMAGES}/{name}/zarr.json"]) for name in arrays}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": members}
    root = json.loads(documents[f"{IMAGES}/zarr.json"]) | {"consolidated_metadata": consolidated}
    return documents | {f"{IMAGES}/zarr.json": json.dumps(root, indent=2).encode()}
