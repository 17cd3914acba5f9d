"""One Zarr v3 shard as bytes: zstd chunks in order, then their index (codec ``sharding_indexed``, index at the end).

Written here rather than by a Zarr codec pipeline for three reasons: the same rows always give the same bytes (the
zarrs pipeline packs chunks in the order in which its threads finish); chunks equal to the fill value are stored like
any other; and nothing depends on Zarr's process-wide configuration, so many threads may write and read at once. The
bytes are those of zarr-python with the same codecs. Specification: https://zarr-specs.readthedocs.io, sharding-indexed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import google_crc32c
import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

from core.errors import StorageError

ZSTD_LEVEL = 3  # zstd's own default; level 1 saves a third of the time for a few per cent more bytes
MISSING = np.uint64(2**64 - 1)  # offset and length of a chunk that is not stored
CRC_BYTES = 4
SHARE = 32  # rows that a thread compresses at a time: what is done is hashed and written while the rest is at work


def encode_shard(rows: NDArray[np.generic], *, chunk_rows: int, shard_rows: int) -> Iterator[bytes]:
    """The pieces of one shard object, in order.

    Args:
        rows: shape (n, ...), n ≤ shard_rows; little-endian on every machine Zarr runs on.
        chunk_rows: rows per chunk; divides shard_rows.
        shard_rows: rows of a full shard. A shorter last shard leaves its unused chunks out.

    Returns:
        One compressed chunk after another, then the index with its checksum.
    """

    def blocks() -> Iterator[NDArray[np.generic]]:
        for start in range(0, len(rows), chunk_rows):
            block = rows[start : start + chunk_rows]
            if len(block) < chunk_rows:  # Zarr pads the last chunk with the fill value, 0
                block = np.concatenate([block, np.zeros((chunk_rows - len(block), *rows.shape[1:]), rows.dtype)])
            yield block

    return _with_index(map(_compress, blocks()), shard_rows // chunk_rows)


def encode_batches(batches: Iterable[NDArray[np.generic]], *, shard_rows: int, threads: int = 2) -> Iterator[bytes]:
    """:func:`encode_shard` of rows that come in batches, one row per chunk: the same bytes.

    Batches are compressed on threads of their own while the next one is waited for; at most two per thread are held.
    """

    def pieces() -> Iterator[bytes]:
        ahead: deque[Future[list[bytes]]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
            for batch in batches:
                share = min(SHARE, max(1, -(-len(batch) // threads)))
                for start in range(0, len(batch), share):
                    ahead.append(pool.submit(lambda rows: [*map(_compress, rows)], batch[start : start + share]))
                while len(ahead) > 2 * threads or (ahead and ahead[0].done()):
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()

    return _with_index(pieces(), shard_rows)


def _compress(block: NDArray[np.generic]) -> bytes:
    return bytes(zstd.compress(np.ascontiguousarray(block), ZSTD_LEVEL, True))


def _with_index(pieces: Iterable[bytes], n_chunks: int) -> Iterator[bytes]:
    """Compressed chunks, then their index with its checksum; chunks beyond the last are not stored."""
    index = np.full((n_chunks, 2), MISSING)
    offset = 0
    for chunk, piece in enumerate(pieces):
        index[chunk] = offset, len(piece)
        offset += len(piece)
        yield piece
    packed = index.astype("<u8").tobytes()
    yield packed + google_crc32c.value(packed).to_bytes(CRC_BYTES, "little")


def index_bytes(n_chunks: int) -> int:
    """Size of the index at the end of a shard."""
    return 16 * n_chunks + CRC_BYTES


def decode_index(data: bytes, n_chunks: int, where: str) -> NDArray[np.uint64]:
    """Offset and length of every chunk, uint64 (n_chunks, 2), from the last :func:`index_bytes` bytes of a shard.

    Raises:
        StorageError: if they are not an index with a right checksum.
    """
    packed, checksum = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if len(data) != index_bytes(n_chunks) or google_crc32c.value(packed) != int.from_bytes(checksum, "little"):
        raise StorageError(
            "a Zarr shard is damaged",
            where=where,
            expected=f"an index of {n_chunks} chunks with a right checksum at its end",
            do="verify the data set and regenerate this shard",
        )
    return np.frombuffer(packed, "<u8").reshape(n_chunks, 2).astype(np.uint64)


def decode_chunk(data: memoryview, shape: tuple[int, ...], dtype: str, where: str) -> NDArray[np.generic]:
    """One chunk of the given shape from its compressed bytes.

    Raises:
        StorageError: if the bytes are not what was written (every zstd frame carries a checksum).
    """
    try:
        return np.frombuffer(zstd.decompress(data), dtype).reshape(shape)
    except (RuntimeError, ValueError) as error:
        raise StorageError(
            "a chunk of a Zarr shard is damaged",
            where=where,
            got=error,
            do="verify the data set and regenerate this shard",
        ) from error
