"""Damage between two runs: the same command makes exactly what is damaged again, and ends in the same digests."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.digest import sealed_json, unsealed_json
from image_longitudinal.core.errors import StorageError
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.train_models import train_models
from image_longitudinal.flows.verify_dataset import verify
from image_longitudinal.storage.dataset.layout import image_shard_path, shard_manifest_path, table_path
from tests.e2e.conftest import digests

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]

CLAIM, MANIFEST = ".run.json", "dataset.json"
MADE_OF = ("seed=23", "dataset.n_subjects=24", "dataset.shard_size=8")


class Home(NamedTuple):
    """A workspace with a data set, and what is in them before any damage."""

    workspace: Path
    data: Path
    config: Config
    version: str
    whole: dict[str, str]

    def train(self) -> str:
        return train_models(config=self.config, workspace=str(self.workspace)).version

    def generate(self) -> None:
        generate_dataset(str(self.data), config=self.config, workspace=str(self.workspace))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Config], prefect_server: None) -> Home:
    folder, config = tmp_path_factory.mktemp("home"), tiny(*MADE_OF)
    version = train_models(config=config, workspace=str(folder / "workspace")).version
    made = Home(folder / "workspace", folder / "data", config, version, {})
    made.generate()
    return made._replace(whole=digests(made.data))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2 * len(content) // 3] ^= 4
    path.write_bytes(content)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("files", "harm", "also_gone"),
    [
        ("training/*/vae.safetensors", flip, "models"),
        ("training/*/diffusion.safetensors", flip, "models"),
        ("training/*/vae.json", empty, "models"),
        ("training/*/diffusion.json", tear, "models"),
        ("training/*/diffusion.safetensors", Path.unlink, "models"),
        ("training/*/*.checkpoint", flip, "training/*/*.json"),
        ("images/*/images-*.npy", flip, "training"),
        ("images/*/manifest.json", flip, "training"),
        ("models/*/vae.safetensors", flip, ""),
        ("models/*/model.json", tear, ""),
    ],
)
def test_what_is_damaged_in_a_workspace_is_made_again(
    home: Home, files: str, harm: Callable[[Path], None], also_gone: str
) -> None:
    """As if the run was killed before the next stage, whose products are gone."""
    for path in home.workspace.glob(also_gone) if also_gone else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    harmed = sorted(home.workspace.glob(files))
    assert harmed
    for path in harmed:
        harm(path)
    assert home.train() == home.version
    assert home.train() == home.version
    assert {path.name for path in (home.workspace / "models").iterdir()} == {home.version, "aliases.json"}


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize(
    ("path", "harm"),
    [
        (image_shard_path(2), flip),
        (table_path("observations", 0, "train", 0.5), flip),
        (shard_manifest_path(1), flip),
        ("images.zarr/image/zarr.json", tear),
        (CLAIM, flip),
        ("report.html", flip),
        (MANIFEST, tear),
    ],
)
def test_the_same_command_mends_a_data_set(
    home: Home, path: str, published: bool, harm: Callable[[Path], None]
) -> None:
    if not published and path == MANIFEST:
        pytest.skip("there is none")
    if not published:
        (home.data / MANIFEST).unlink()
    intact = [image_shard_path(index) for index in range(3) if image_shard_path(index) != path]
    before = {name: (home.data / name).stat().st_mtime_ns for name in intact}
    harm(home.data / path)
    home.generate()
    assert digests(home.data) == home.whole
    assert {name: (home.data / name).stat().st_mtime_ns for name in intact} == before, "only what is damaged is made"


def test_a_claim_and_a_shard_damaged_together_are_mended(home: Home) -> None:
    (home.data / MANIFEST).unlink()
    empty(home.data / CLAIM)
    flip(home.data / image_shard_path(0))
    flip(home.data / shard_manifest_path(2))
    home.generate()
    assert digests(home.data) == home.whole


def test_an_edited_root_manifest_is_found_and_repaired(home: Home) -> None:
    manifest = home.data / MANIFEST
    content = unsealed_json(manifest.read_bytes())
    manifest.write_text(sealed_json({**content, "seed": 24, "licence": "CC0-1.0"}), encoding="utf-8")
    with pytest.raises(StorageError, match=r"contradicts licence|contradicts seed"):
        verify(str(home.data), workspace=str(home.workspace))
    assert verify(str(home.data), repair=True, workspace=str(home.workspace)).ok
    assert digests(home.data) == home.whole
