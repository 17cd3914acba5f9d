"""The digests of the ingest specs change with every field of the configuration that decides images, and no other."""

import os
from pathlib import Path

import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.storage.scans.scan_files import find_scans
from image_longitudinal.tasks.ingest.specs import PhantomSpec, ScansSpec
from tests.variations import FIELDS, with_another_value

COMMON = {
    "seed", "vae.image_size", "diffusion.image_size", "images.min_images", "images.validation_fraction",
    "images.test_fraction",
}  # fmt: skip


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"1")
    return folder


@pytest.mark.parametrize("path", FIELDS)
def test_exactly_the_fields_that_decide_images_change_their_digest(path: str, scans: Path) -> None:
    config, found = with_another_value(Config(), path), find_scans(scans)
    phantoms = PhantomSpec.of(config).digest != PhantomSpec.of(Config()).digest
    assert phantoms == (path in {*COMMON, "images.n_phantoms", "vae.kind"})
    images = ScansSpec.of(config, found, {}).digest != ScansSpec.of(Config(), found, {}).digest
    assert images == (path in {*COMMON, "images.denoise", "images.odd_scans"})


def test_scans_and_held_out_splits_change_the_digest(scans: Path) -> None:
    def digest(**held_out: str) -> str:
        return ScansSpec.of(Config(), find_scans(scans), held_out).digest

    digests = [digest(), digest(a="test"), digest(a="validation")]
    os.utime(scans / "a.png", ns=(1, 1))
    digests.append(digest())
    (scans / "b.png").write_bytes(b"12")
    digests.append(digest())
    before = (scans / "b.png").stat()
    (scans / "b.png").write_bytes(b"34")
    os.utime(scans / "b.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p sets it
    digests.append(digest())
    assert len(set(digests)) == 6
