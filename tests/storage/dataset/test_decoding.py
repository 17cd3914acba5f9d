"""Chunks under right checksums whose headers lie: refused before anything is allocated or decoded."""

import struct
from pathlib import Path

import numpy as np
import pytest
from numcodecs import blosc, zstd

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.decoding import decode_blosc, decode_zstd, most_compressed
from image_longitudinal.storage.dataset.images import encode_shard
from image_longitudinal.storage.dataset.sharded_array import ShardedArray, checksum, image_spec
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root

SHAPES = [((1, 64, 64), "|u1"), ((256, 6), "<f4"), ((1, 1, 1), "|u1")]
SPEC = image_spec(64, 64, 2)


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=shape) * 40).astype(dtype)


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
@pytest.mark.parametrize("zeros", [False, True])
def test_what_the_codecs_write_is_decoded_and_fits_the_bound(shape: tuple[int, ...], dtype: str, zeros: bool) -> None:
    array = np.zeros(shape, dtype) if zeros else values(shape, dtype)
    for level in (1, 9):
        for codec in (b"lz4", b"zstd"):
            packed = bytes(blosc.compress(array, codec, level, blosc.BITSHUFFLE))
            np.testing.assert_array_equal(decode_blosc(packed, shape, dtype), array)
            assert len(packed) + 4 <= most_compressed(array.nbytes)
        frame = bytes(zstd.compress(array, level))
        np.testing.assert_array_equal(decode_zstd(frame, shape, dtype), array)
        assert len(frame) <= most_compressed(array.nbytes)


def shard_of(root: Root, chunk: bytes, index: list[list[int]] | None = None) -> ShardedArray:
    """An array whose first shard holds this chunk, under a right index and right checksums."""
    table = np.array(index or [[0, len(chunk)], [0, len(chunk)]], "<u8").tobytes()
    root.write_bytes(SPEC.shard_path(0), chunk + table + checksum(table))
    return ShardedArray(root, SPEC, 2)


@pytest.mark.parametrize(
    ("offset", "form", "claim", "named"),
    [
        (4, "<I", 2**31 - 1, "decoded size"), (4, "<I", 0, "decoded size"), (8, "<I", 2**31, "block size"),
        (8, "<I", 0, "block size"), (12, "<I", 2**31, "compressed size"), (3, "<B", 255, "size of a number"),
        (0, "<B", 3, "blosc format"), (2, "<B", 0b01100001, "codec"),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_blosc_header_that_lies_is_named(tmp_path: Path, offset: int, form: str, claim: int, named: str) -> None:
    chunk = bytearray(blosc.compress(values((1, 64, 64), "|u1"), b"lz4", 5, blosc.BITSHUFFLE))
    struct.pack_into(form, chunk, offset, claim)
    data = bytes(chunk)
    array = shard_of(open_root(tmp_path), data + checksum(data))
    with pytest.raises(StorageError, match=f"damaged .*its header claims an impossible {named}"):
        array.read(0, 2)


def test_a_chunk_that_unpacks_to_gigabytes_is_refused_unpacked(tmp_path: Path) -> None:
    """30 kB of blosc that are 64 MB, and 2 kB of zstd that are as much: valid, and of another shape."""
    large = np.zeros(64 << 20, np.uint8)
    packed = bytes(blosc.compress(large, b"lz4", 9, blosc.BITSHUFFLE))
    for chunk in (packed + checksum(packed), bytes(zstd.compress(large, 3))):
        with pytest.raises(StorageError, match=r"chunks of at most|an impossible decoded size, 67108864"):
            shard_of(open_root(tmp_path), chunk).read(0, 2)


@pytest.mark.parametrize("place", [(2**40, 100), (0, 2**40), (2**63, 2**63), (0, 2**64 - 1)])
def test_an_index_that_lies_makes_no_memory(tmp_path: Path, place: tuple[int, int]) -> None:
    array = shard_of(open_root(tmp_path), b"", [list(place), [2**64 - 1, 2**64 - 1]])
    with pytest.raises(StorageError, match="chunks of at most"):
        array.read(0, 2)


def test_a_good_shard_is_read(tmp_path: Path) -> None:
    images, root = values((2, 64, 64), "|u1"), open_root(tmp_path)
    root.write(SPEC.shard_path(0), encode_shard([images], shard_rows=2))
    np.testing.assert_array_equal(ShardedArray(root, SPEC, 2).read(0, 2), images)
