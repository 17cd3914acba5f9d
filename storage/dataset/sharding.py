"""One Zarr v3 shard as bytes: compressed chunks in order, then their index (``sharding_indexed``, index at the end).

A chunk is LZ4 over shuffled bits (codec ``blosc``) and its checksum (codec ``crc32c``). Shuffling puts the high bits of
neighbouring pixels side by side: OCT scans then become smaller with LZ4 than with zstd over plain pixels, in a fraction
of the time (``python -m benchmarks.storage`` prints the table).

This module replaces a Zarr codec pipeline for three reasons: the same rows always give the same bytes (the zarrs
pipeline packs chunks in the order in which its threads finish); chunks equal to the fill value are stored like any
other; and nothing depends on Zarr's process-wide configuration, so many threads can write and read at once. The bytes
are those of zarr-python with the same codecs. Specification: https://zarr-specs.readthedocs.io, sharding-indexed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import google_crc32c
import numpy as np
from numcodecs import blosc, zstd
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError

LZ4, LEVEL = "lz4", 5  # levels 1 to 9 differ by 2 % of the bytes
ZSTD = b"\x28\xb5\x2f\xfd"  # first bytes of a zstd frame: older data sets have such chunks
MISSING_CHUNK = np.uint64(2**64 - 1)  # offset and length of a chunk that is not stored
CRC_BYTES = 4
ROWS_PER_JOB = 32  # rows that a thread compresses at a time, while earlier ones are hashed and written

blosc.use_threads = False  # as in Zarr: with threads, the order of a chunk's blocks depends on which finishes first


def encode_shard(rows: NDArray[np.generic], *, chunk_rows: int, shard_rows: int) -> Iterator[bytes]:
    """The pieces of one shard object, in order.

    Args:
        rows: shape (n, ...), n ≤ shard_rows; little-endian on every machine Zarr runs on.
        chunk_rows: rows per chunk; divides shard_rows.
        shard_rows: rows of a full shard. A shorter last shard leaves its unused chunks out.

    Returns:
        The compressed chunks one after another, then the index with its checksum.
    """

    def blocks() -> Iterator[NDArray[np.generic]]:
        for start in range(0, len(rows), chunk_rows):
            block = rows[start : start + chunk_rows]
            if len(block) < chunk_rows:  # Zarr pads the last chunk with the fill value, 0
                block = np.concatenate([block, np.zeros((chunk_rows - len(block), *rows.shape[1:]), rows.dtype)])
            yield block

    return _with_index([_compress(blocks())], shard_rows // chunk_rows)


def encode_batches(batches: Iterable[NDArray[np.generic]], *, shard_rows: int, threads: int = 2) -> Iterator[bytes]:
    """:func:`encode_shard` of rows that come in batches, one row per chunk: the same bytes.

    Threads compress rows while the caller hashes and writes earlier ones and waits for the next batch. A few jobs per
    thread are held in memory.
    """

    def runs() -> Iterator[_Run]:
        ahead: deque[Future[_Run]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
            for batch in batches:
                rows = min(ROWS_PER_JOB, max(1, -(-len(batch) // threads)))
                for start in range(0, len(batch), rows):
                    ahead.append(pool.submit(_compress, batch[start : start + rows]))
                    while len(ahead) > 2 * threads or (ahead and ahead[0].done()):
                        yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    return _with_index(runs(), shard_rows)


class _Run(NamedTuple):
    """Consecutive compressed chunks as one piece: a few MB are hashed and written faster than many kB."""

    lengths: list[int]
    data: bytes


def _compress(blocks: Iterable[NDArray[np.generic]]) -> _Run:
    pieces = []
    for block in blocks:
        packed = bytes(blosc.compress(np.ascontiguousarray(block), LZ4.encode(), LEVEL, blosc.BITSHUFFLE))
        pieces += [packed, _checksum(packed)]
    lengths = [len(packed) + CRC_BYTES for packed in pieces[::2]]
    return _Run(lengths, b"".join(pieces))


def _checksum(data: bytes) -> bytes:
    return google_crc32c.value(data).to_bytes(CRC_BYTES, "little")


def _with_index(runs: Iterable[_Run], n_chunks: int) -> Iterator[bytes]:
    """Compressed chunks, then their index with its checksum; chunks beyond the last are not stored."""
    lengths: list[int] = []
    for run in runs:
        lengths += run.lengths
        yield run.data
    index = np.full((n_chunks, 2), MISSING_CHUNK)
    index[: len(lengths), 1] = lengths
    index[: len(lengths), 0] = np.cumsum([0, *lengths])[:-1]
    packed = index.astype("<u8").tobytes()
    yield packed + _checksum(packed)


def index_bytes(n_chunks: int) -> int:
    """Size of the index at the end of a shard."""
    return 16 * n_chunks + CRC_BYTES


def decode_index(data: bytes, n_chunks: int, where: str) -> NDArray[np.uint64]:
    """Offset and length of every chunk, uint64 (n_chunks, 2), from the last :func:`index_bytes` bytes of a shard.

    Raises:
        StorageError: they are not an index with a matching checksum.
    """
    packed, checksum = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if len(data) != index_bytes(n_chunks) or _checksum(packed) != checksum:
        raise StorageError(
            "a Zarr shard is damaged",
            where=where,
            expected=f"an index of {n_chunks} chunks with a matching checksum at its end",
            do="verify the data set and regenerate this shard",
        )
    return np.frombuffer(packed, "<u8").reshape(n_chunks, 2).astype(np.uint64)


def decode_chunk(data: memoryview, shape: tuple[int, ...], dtype: str, where: str) -> NDArray[np.generic]:
    """One chunk of the given shape from its compressed bytes.

    Raises:
        StorageError: the bytes do not match their checksum.
    """
    try:
        if data[: len(ZSTD)] == ZSTD:
            return np.frombuffer(zstd.decompress(data), dtype).reshape(shape)
        packed, checksum = bytes(data[:-CRC_BYTES]), data[-CRC_BYTES:]
        if _checksum(packed) != checksum:
            raise ValueError("its checksum does not match")
        return np.frombuffer(blosc.decompress(packed), dtype).reshape(shape)
    except (RuntimeError, ValueError) as error:
        raise StorageError(
            "a chunk of a Zarr shard is damaged",
            where=where,
            got=error,
            do="verify the data set and regenerate this shard",
        ) from error
