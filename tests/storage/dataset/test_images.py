"""Zarr shards: whole, deterministic, and what any Zarr reader expects."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import ZstdCodec

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import Shard, ShardPlan
from image_longitudinal.storage.dataset.images import create_image_arrays, write_image_shard
from image_longitudinal.storage.dataset.sharded_array import ShardedArray, image_spec, latent_spec
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import digests


def make(n: int, side: int = 6, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.integers(0, 256, (n, side, side), dtype=np.uint8), rng.normal(size=(n, dim)).astype(np.float32)


def write(root: Root, plan: ShardPlan, images: np.ndarray, latents: np.ndarray, workers: int = 1) -> None:
    (_, height, width), dim, size = images.shape, latents.shape[1], plan.shard_size
    create_image_arrays(root, n=plan.n_subjects, height=height, width=width, latent_dim=dim, shard_size=size)

    def write_one(shard: Shard) -> None:
        rows = slice(shard.start, shard.stop)
        write_image_shard(root, shard, images[rows], latents[rows], shard_size=size)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(write_one, plan))


@pytest.mark.parametrize(("n", "size"), [(12, 4), (10, 4), (3, 8), (1, 1), (7, 7), (600, 512)])
def test_plain_zarr_reads_back_what_was_written(tmp_path: Path, n: int, size: int) -> None:
    images, latents = make(n)
    write(open_root(tmp_path), ShardPlan(n, size), images, latents)
    group = zarr.open_group(tmp_path / "images.zarr", mode="r")
    np.testing.assert_array_equal(group["image"][:], images)
    np.testing.assert_array_equal(group["latent"][:], latents)
    assert (group["image"].chunks, group["image"].shards) == ((1, 6, 6), (size, 6, 6))
    assert group["latent"].shards == (size, 5)
    assert group["image"].metadata.dimension_names == ("subject", "y", "x")
    assert group["latent"].metadata.dimension_names == ("subject", "latent")
    assert group["image"].attrs["value_range"] == [0, 255]
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(tmp_path / "images.zarr", mode="r")
        np.testing.assert_array_equal(group["image"][:], images)
        np.testing.assert_array_equal(group["latent"][2:9], latents[2:9])


@pytest.mark.parametrize("sizes", [[4, 4, 2], [1] * 10, [10], [3, 7]])
def test_images_that_come_in_batches_give_the_same_bytes(tmp_path: Path, sizes: list[int]) -> None:
    images, latents = make(10)
    shard = ShardPlan(10, 16).shard(0)
    whole = write_image_shard(open_root(tmp_path / "whole"), shard, images, latents, shard_size=16)
    batches = np.split(images, np.cumsum(sizes)[:-1])
    assert write_image_shard(open_root(tmp_path / "parts"), shard, iter(batches), latents, shard_size=16) == whole


def test_the_bytes_are_those_of_zarr_python(tmp_path: Path) -> None:
    """An outside check of the encoder; the plan has a short last shard and a chunk that needs padding."""
    images, latents = make(700)
    ours, theirs = LocalRoot(tmp_path / "ours"), LocalRoot(tmp_path / "theirs")
    write(ours, ShardPlan(700, 300), images, latents)
    create_image_arrays(theirs, n=700, height=6, width=6, latent_dim=5, shard_size=300)
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(theirs.folder / "images.zarr", mode="r+")
        group["image"][:], group["latent"][:] = images, latents
    assert digests(ours) == digests(theirs)


def test_chunks_of_zstd_from_before_are_read_too(tmp_path: Path) -> None:
    images, _ = make(10)
    zarr.create_array(tmp_path / "images.zarr/image", shape=images.shape, dtype="u1", chunks=(1, 6, 6),
                      shards=(4, 6, 6), compressors=ZstdCodec(level=3, checksum=True))[:] = images  # fmt: skip
    array = ShardedArray(open_root(tmp_path), image_spec(6, 6, 4), 10)
    np.testing.assert_array_equal(array.read(0, 10), images)
    np.testing.assert_array_equal(array.take([7, 0]), images[[7, 0]])


def test_the_bytes_do_not_depend_on_threads_or_repetition(tmp_path: Path) -> None:
    images, latents = make(64)
    roots = [open_root(tmp_path / str(workers)) for workers in (1, 4)]
    for root, workers in zip(roots, (1, 4), strict=True):
        for _ in range(2):
            write(root, ShardPlan(64, 8), images, latents, workers)
    assert (digests(roots[0]), len(digests(roots[0]))) == (digests(roots[1]), 3 + 2 * 8)


def test_black_images_and_zero_latents_are_stored_like_any_other(tmp_path: Path) -> None:
    images, latents = np.zeros((6, 4, 4), np.uint8), np.zeros((6, 3), np.float32)
    root = open_root(tmp_path)
    write(root, ShardPlan(6, 4), images, latents)
    for index in range(2):
        assert root.exists(f"images.zarr/image/c/{index}/0/0")
        assert root.exists(f"images.zarr/latent/c/{index}/0")
    assert not zarr.open_group(tmp_path / "images.zarr", mode="r")["image"][:].any()
    assert not ShardedArray(root, image_spec(4, 4, 4), 6).read(0, 6).any()


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 12), data=st.data())
def test_any_run_of_rows_is_read_back(n: int, size: int, data: st.DataObject) -> None:
    images, latents = make(n, side=2, dim=2)
    root = open_root(f"memory://runs/{n}-{size}")
    write(root, ShardPlan(n, size), images, latents)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    np.testing.assert_array_equal(ShardedArray(root, image_spec(2, 2, size), n).read(start, stop), images[start:stop])
    np.testing.assert_array_equal(ShardedArray(root, latent_spec(2, size), n).read(start, stop), latents[start:stop])


@pytest.mark.parametrize("place", [10, -10])
def test_a_flipped_bit_is_found_on_reading(tmp_path: Path, place: int) -> None:
    images, latents = make(4)
    root = LocalRoot(tmp_path)
    write(root, ShardPlan(4, 4), images, latents)
    file = root.folder / "images.zarr/image/c/0/0/0"
    damaged = bytearray(file.read_bytes())
    damaged[place] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(StorageError, match=r"damaged .*image/c/0/0/0"):
        ShardedArray(root, image_spec(6, 6, 4), 4).read(0, 4)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images, latents = make(4)
    root, shard = open_root(tmp_path), ShardPlan(4, 4).shard(0)
    bad = latents.copy()
    bad[2, 1] = np.nan
    short, many = iter([images[:2]]), iter([images, images[:1]])
    for wrong in (images[:3], images.astype(float), short, many, iter([])):
        with pytest.raises(StorageError, match=r"images do not fit their shard .*expected 4 rows"):
            write_image_shard(root, shard, wrong, latents, shard_size=4)
    for wrong, message in ((latents.astype(float), "latents do not fit"), (bad, "not finite")):
        with pytest.raises(StorageError, match=message):
            write_image_shard(root, shard, images, wrong, shard_size=4)
    assert root.files() == []


def test_damaged_metadata_are_written_again(tmp_path: Path) -> None:
    root, shape = open_root(tmp_path), {"n": 8, "height": 4, "width": 4, "latent_dim": 2, "shard_size": 4}
    records = create_image_arrays(root, **shape)
    for record in records:
        root.write_bytes(record.path, root.read_bytes(record.path).replace(b"4", b"5"))
        assert create_image_arrays(root, **shape) == records
        assert root.sha256(record.path) == record.sha256
