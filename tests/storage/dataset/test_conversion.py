"""Layout version 1 is read and verified, and converted to version 2 with equal values."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import (
    is_published,
    read_root_manifest,
    read_shard_manifest,
    write_root_manifest,
)
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.run_claim import begin_run
from image_longitudinal.storage.dataset.transfer import Selection, convert_dataset, copy_dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import IDENTITY, LEVELS, PLAN, arrays, digests, write_dataset

WRITTEN_BY_0_1_0 = Path(__file__).parent / "layout_v1.tar.xz"  # write_dataset of the tests of that version


# Python 3.11.4 and later; earlier ones have no filters, and the archive is ours.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.fixture
def old(tmp_path: Path) -> Root:
    with tarfile.open(WRITTEN_BY_0_1_0) as archive:
        archive.extractall(tmp_path / "old", **SAFELY)
    root = open_root(tmp_path / "old")
    manifest = read_root_manifest(root)  # those tests invented the digest of the configuration
    write_root_manifest(root, manifest.model_copy(update={"config_digest": digest_of(manifest.config)}))
    return root


@pytest.fixture
def target(tmp_path: Path) -> Root:
    return open_root(tmp_path / "new")


def test_version_1_is_read_and_verified(old: Root) -> None:
    dataset, data = open_dataset(old), arrays()
    assert dataset.manifest.layout_version == 1
    np.testing.assert_array_equal(dataset.images[0:22], data.images)
    np.testing.assert_array_equal(dataset.linked_eta[0:22], data.eta)
    for level in LEVELS:
        np.testing.assert_array_equal(dataset.used_eta(level)[0:22], data.used[level])
        np.testing.assert_array_equal(dataset.outcomes(level)[0:22], data.dv[level].astype(np.float32))
        assert dataset.random_effects(level, "test").column_names == ["id", "eta_1", "eta_2", "Ka"]
    assert dataset.subject(13).seed == data.seeds[13]
    assert dataset.view("test").to_xarray().sizes["subject"] == 7
    report = verify_dataset(old)
    assert report.ok, str(report)
    path = dataset.manifest.table_path("observations", 0, "train", 1.0)
    old.remove(path)
    assert [(problem.path, problem.what) for problem in verify_dataset(old).problems] == [(path, "missing")]


def test_a_converted_data_set_holds_the_files_that_version_2_writes(old: Root, target: Root, tmp_path: Path) -> None:
    before = digests(old)
    seen: list[tuple[int, int]] = []
    manifest = convert_dataset(old, target, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert read_root_manifest(target) == manifest
    assert verify_dataset(target).ok
    fresh = LocalRoot(tmp_path / "fresh")
    write_dataset(fresh)
    same = {path for path in fresh.files() if path.startswith(("images.zarr", *layout.TABLES))}
    assert len(same) == 34
    for path in {*same, "croissant.json"}:
        assert target.sha256(path) == fresh.sha256(path), path
    cards = [
        root.read_bytes("README.md").decode().replace(read_root_manifest(root).config_digest[:12], "")
        for root in (target, fresh)
    ]
    assert cards[0] == cards[1], "but for the configuration, which was another one then"
    assert set(target.files()) == set(fresh.files())
    for shard in PLAN:
        converted, original = read_shard_manifest(target, shard.index), read_shard_manifest(old, shard.index)
        assert converted is not None
        assert original is not None
        assert converted.parts["image"] == original.parts["image"], "its images can be reused"
        assert converted.parts["outcomes"].key != original.parts["outcomes"].key
    again = digests(target)
    convert_dataset(old, target)
    assert (digests(target), digests(old)) == (again, before)


def test_an_interrupted_conversion_continues(old: Root, target: Root) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_dataset(old, target, progress=interrupt)
    assert not is_published(target)
    convert_dataset(old, target)
    assert verify_dataset(target).ok


def test_what_cannot_be_converted_is_refused(old: Root, target: Root, tmp_path: Path) -> None:
    other = open_root(tmp_path / "other")
    other.write_bytes("thesis.txt", b"years of work")
    with pytest.raises(StorageError, match="already holds other files"):
        convert_dataset(old, other)
    with pytest.raises(StorageError, match="this data set in another layout"):
        convert_dataset(old, old)
    with pytest.raises(StorageError, match=r"another layout .*image-longitudinal convert"):
        begin_run(old, IDENTITY, {})
    path = layout.latent_shard_path(1)
    good = old.read_bytes(path)
    Path(old.join(path)).write_bytes(good[:-1] + b"!")
    with pytest.raises(StorageError, match=rf"not as recorded.*{path}"):
        convert_dataset(old, target)
    assert not is_published(target)
    Path(old.join(path)).write_bytes(good)
    convert_dataset(old, target)
    with pytest.raises(StorageError, match="nothing to convert"):
        convert_dataset(target, open_root(tmp_path / "newer"))


def test_version_1_is_copied_whole_but_not_in_part(old: Root, target: Root) -> None:
    with pytest.raises(StorageError, match=r"part can be copied only from layout version 2.*convert OLD NEW"):
        copy_dataset(old, target, Selection(splits=("test",)))
    copy_dataset(old, target)
    assert verify_dataset(target).ok
    assert digests(target) == digests(old)


def test_the_command_converts(old: Root, target: Root) -> None:
    from image_longitudinal.cli.app import app

    result = CliRunner().invoke(app, ["convert", old.url, target.url], catch_exceptions=False)
    assert result.exit_code == 0
    assert "22 subjects in 3 shards, verified" in result.output
    assert is_published(target)
