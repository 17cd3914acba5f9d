"""Writing images and latents as one Zarr v3 group: metadata once, then one shard object per shard and array.

A shard is its compressed chunks in order, then their index (``sharding_indexed``, index at the end). A chunk is LZ4
over shuffled bits (codec ``blosc``) and its checksum (codec ``crc32c``). Shuffling puts the high bits of neighbouring
pixels side by side: OCT scans then become smaller with LZ4 than with zstd over plain pixels, in a fraction of the time
(``python -m benchmarks.storage`` prints the table).

Our code replaces a Zarr codec pipeline for three reasons: the same rows always give the same bytes (the zarrs pipeline
packs chunks in the order in which its threads finish); chunks equal to the fill value are stored like any other; and
nothing depends on Zarr's process-wide configuration, so many threads can write and read at once. The bytes are those of
zarr-python with the same codecs.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset.layout import (
    IMAGES,
    LAYOUT_VERSION,
    image_shard_path,
    latent_shard_path,
    zarr_metadata_paths,
)
from image_longitudinal.storage.dataset.sharded_array import (
    CRC_BYTES,
    MISSING_CHUNK,
    ArraySpec,
    checksum,
    image_spec,
    latent_spec,
)
from image_longitudinal.storage.io.root import FileRecord, Root

LZ4, LEVEL = "lz4", 5  # levels 1 to 9 differ by 2 % of the bytes
ROWS_PER_JOB = 32  # rows that a thread compresses at a time, while earlier ones are hashed and written

blosc.use_threads = False  # as in Zarr: with threads, the order of a chunk's blocks depends on which finishes first


def create_image_arrays(
    root: Root, *, n: int, height: int, width: int, latent_dim: int, shard_size: int, licence: str = ""
) -> tuple[FileRecord, ...]:
    """Write the Zarr metadata of ``n`` images (height, width) uint8 and latents (latent_dim,) float32.

    The same arguments give the same bytes every time: repeating the call changes nothing, and mends what is damaged.
    The claim of the run (:mod:`storage.dataset.run_claim`) decides whose arrays may be in the root.

    Raises:
        StorageError: a file cannot be written.
    """
    documents = _metadata(n, height, width, latent_dim, shard_size, licence)
    return tuple(root.write_bytes(path, content) for path, content in documents.items())


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
    if latents.dtype != np.float32 or latents.ndim != 2 or len(latents) != len(shard):
        raise _misfit(shard, "latents", np.float32, 2, f"{latents.dtype} {latents.shape}")
    if not np.isfinite(latents).all():
        raise StorageError("latents hold numbers that are not finite", where=f"shard {shard.index}")
    rows = latent_spec(latents.shape[1], shard_size).chunk_rows
    latent_pieces = encode_shard([latents], chunk_rows=rows, shard_rows=shard_size)
    batches = _counted(shard, [images] if isinstance(images, np.ndarray) else images)
    pieces = encode_shard(batches, shard_rows=shard_size)
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


def _misfit(shard: Shard, what: str, dtype: type, ndim: int, got: str) -> StorageError:
    expected = f"{len(shard)} rows of {np.dtype(dtype).name} in {ndim} dimensions"
    return StorageError(f"{what} do not fit their shard", where=f"shard {shard.index}", expected=expected, got=got)


def encode_shard(
    batches: Iterable[NDArray[np.generic]], *, chunk_rows: int = 1, shard_rows: int, threads: int = 2
) -> Iterator[bytes]:
    """The pieces of one shard object, in order: compressed chunks, then their index with its checksum.

    Threads compress rows while the caller hashes and writes earlier ones and waits for the next batch. A few jobs per
    thread are held in memory. The division into batches does not change the bytes.

    Args:
        batches: rows, each batch of shape (n, ...), together at most ``shard_rows``, without the unused chunks of a
            short last shard; little-endian on every machine Zarr runs on. Each but the last holds whole chunks.
        chunk_rows: rows per chunk; divides ``shard_rows``.
        shard_rows: rows of a full shard.
        threads: how many compress.
    """
    lengths: list[int] = []
    for compressed, data in _compressed(batches, chunk_rows, threads):
        lengths += compressed
        yield data
    index = np.full((shard_rows // chunk_rows, 2), MISSING_CHUNK)
    index[: len(lengths), 1] = lengths
    index[: len(lengths), 0] = np.cumsum([0, *lengths])[:-1]
    packed = index.astype("<u8").tobytes()
    yield packed + checksum(packed)


def _compressed(
    batches: Iterable[NDArray[np.generic]], chunk_rows: int, threads: int
) -> Iterator[tuple[list[int], bytes]]:
    """Lengths and bytes of consecutive chunks: a few MB are hashed and written faster than many kB."""
    ahead: deque[Future[tuple[list[int], bytes]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
        for batch in batches:
            rows = min(ROWS_PER_JOB, -(-len(batch) // threads))
            rows = max(chunk_rows, rows - rows % chunk_rows)
            for start in range(0, len(batch), rows):
                ahead.append(pool.submit(_compress, batch[start : start + rows], chunk_rows))
                while len(ahead) > 2 * threads or (ahead and ahead[0].done()):
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _compress(rows: NDArray[np.generic], chunk_rows: int) -> tuple[list[int], bytes]:
    pieces = []
    for start in range(0, len(rows), chunk_rows):
        block = rows[start : start + chunk_rows]
        if len(block) < chunk_rows:  # Zarr pads the last chunk with the fill value, 0
            block = np.concatenate([block, np.zeros((chunk_rows - len(block), *rows.shape[1:]), rows.dtype)])
        packed = bytes(blosc.compress(np.ascontiguousarray(block), LZ4.encode(), LEVEL, blosc.BITSHUFFLE))
        pieces += [packed, checksum(packed)]
    return [len(packed) + CRC_BYTES for packed in pieces[::2]], b"".join(pieces)


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
        size = np.dtype(spec.dtype).itemsize
        codec = BloscCodec(typesize=size, cname=LZ4, clevel=LEVEL, shuffle="bitshuffle", blocksize=0)
        group.create_array(
            name,
            shape=(n, *spec.row),
            dtype=spec.dtype,
            chunks=(spec.chunk_rows, *spec.row),
            shards=(spec.shard_rows, *spec.row),
            compressors=(codec, Crc32cCodec()),
            fill_value=0,
            dimension_names=dimensions,
            attributes=attributes,
        )
    documents = {path: store._store_dict[path.removeprefix(f"{IMAGES}/")].to_bytes() for path in zarr_metadata_paths()}
    members = {name: json.loads(documents[f"{IMAGES}/{name}/zarr.json"]) for name in arrays}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": members}
    root = json.loads(documents[f"{IMAGES}/zarr.json"]) | {"consolidated_metadata": consolidated}
    return documents | {f"{IMAGES}/zarr.json": json.dumps(root, indent=2).encode()}
