"""A new version of a published data set: other levels, splits and outcomes over the same images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_longitudinal.cli.describe import describe_dataset
from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import StorageError
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.verify_dataset import verify
from image_longitudinal.storage.dataset.manifest import content_digest
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.transfer import Selection, copy_dataset
from image_longitudinal.storage.io.open import open_root
from tests.e2e.conftest import digests

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]

PHANTOM = ("generator.backend=phantom", "generator.image_size=32", "probe.n_images=64", "seed=271828")


@pytest.fixture(scope="module")
def make(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Config], prefect_server: None
) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("versions")

    def make(name: str, *overrides: str, **arguments: Any) -> Path:
        config = tiny(*PHANTOM, *overrides)
        generate_dataset(str(folder / name), config=config, workspace=str(folder / "workspace"), **arguments)
        return folder / name

    return make


@pytest.fixture(scope="module")
def old(make: Callable[..., Path]) -> Path:
    return make("old", "dataset.association=[1.0]")


def images(folder: Path) -> dict[str, int]:
    """Inode of every shard object of images and latents, by path."""
    found = [path for path in folder.glob("images.zarr/*/c/**/0") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_ino for path in found}


def never(*arguments: object, **named: object) -> None:
    raise AssertionError("images were made that are there already")


def test_levels_splits_and_population_change_over_the_same_images(
    old: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = ("dataset.association=[1.0, 0.3]", "dataset.test_fraction=0.3", "outcomes.times=[0, 1, 2]")
    with monkeypatch.context() as patch:
        patch.setattr("image_longitudinal.tasks.shards.parts.render_here", never)
        new = make("new", *changed, reuse=str(old))
    assert images(new) == images(old), "hard links, not copies"
    assert verify(str(new)).ok
    before, manifest = open_dataset(old).manifest, open_dataset(new).manifest
    assert manifest.derived_from is not None
    assert (manifest.derived_from.name, manifest.derived_from.identity) == (before.name, before.identity)
    assert manifest.derived_from.manifest == content_digest(before)
    assert manifest.derived_from.reused == {"image": 4}
    assert "derived from      image-longitudinal-demo" in describe_dataset(open_dataset(new))
    assert "**Derived** from the data set" in (new / "README.md").read_text()

    # Damage to the new version is repaired without the old one, and its lineage stays.
    (new / "subjects/train/00000.parquet").unlink()
    whole = digests(make("straight", *changed))
    verify(str(new), repair=True, workspace=str(new.parent / "workspace"))
    assert open_dataset(new).manifest == manifest
    repaired = digests(new)
    assert {path for path in whole if whole[path] != repaired[path]} == {".run.json", "README.md", "dataset.json"}


def test_the_shards_of_a_fetched_part_are_reused(old: Path, make: Callable[..., Path], tmp_path: Path) -> None:
    copy_dataset(open_root(old), open_root("memory://reuse/part"), Selection(shards=(1, 2)))
    new = make("grown", "dataset.association=[0.5]", "dataset.n_subjects=90", reuse="memory://reuse/part")
    manifest = open_dataset(new).manifest
    assert manifest.derived_from is not None
    assert manifest.derived_from.reused == {"image": 2}
    mine, theirs = digests(new), digests(old)
    assert all(mine[path] == theirs[path] for path in images(old) if "/3/" not in path)
    assert verify(str(new)).ok


def test_damaged_files_are_generated_again_and_not_shared(old: Path, make: Callable[..., Path], tmp_path: Path) -> None:
    lender = open_root(tmp_path / "lender")
    copy_dataset(open_root(old), lender)
    shard = tmp_path / "lender/images.zarr/image/c/2/0/0"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    new = make("repaired", "dataset.association=[0.4]", reuse=lender.url)
    assert digests(new)["images.zarr/image/c/2/0/0"] == digests(old)["images.zarr/image/c/2/0/0"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=5", r"another seed \(271828, here 5\)"),
        ("generator.image_size=48", "another image model"),
        ("dataset.shard_size=20", r"another shard size \(16, here 20\)"),
    ],
)
def test_other_images_are_refused_before_anything_is_written(
    old: Path, make: Callable[..., Path], override: str, said: str
) -> None:
    with pytest.raises(StorageError, match=f"no image of that data set can be reused.*{said}"):
        make("refused", override, reuse=str(old))
    assert not (old.parent / "refused").exists()
