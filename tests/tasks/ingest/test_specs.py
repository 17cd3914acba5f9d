"""The digests of the ingest specs change with every field of the configuration that decides images, and no other."""

import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from image_longitudinal.core.config import Config, Section
from image_longitudinal.storage.scans.scan_files import find_scans
from image_longitudinal.tasks.ingest.specs import PhantomSpec, ScansSpec

COMMON = {
    "seed",
    "vae.image_size",
    "diffusion.image_size",
    "images.min_images",
    "images.validation_fraction",
    "images.test_fraction",
}


def leaves(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and annotation of every field that is no section."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


def literals(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in literals(part)]


def candidates(value: Any, annotation: Any) -> list[Any]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [value + 1, value + 32, value / 2, value + 0.05, *literals(annotation)]
    if isinstance(value, list):
        return [value[:-1], [0.5], [{"time": 1.0}], [16]]
    return [*literals(annotation), True, "phantom2", "2024-05-01", 7, 0.5, [0.5], [1, 2]]


FIELDS = dict(leaves(Config))


def changed(path: str) -> Config:
    """The default configuration with another valid value of one field."""
    content = Config().model_dump(mode="json")
    *sections, name = path.split(".")
    inner = content
    for section in sections:
        inner = inner[section]
    before = inner[name]
    for value in candidates(before, FIELDS[path]):
        inner[name] = value
        try:
            config = Config.model_validate(content)
        except ValidationError:
            continue
        if config != Config():
            return config
    raise AssertionError(f"no other valid value of {path} found, beside {before}")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"1")
    return folder


@pytest.mark.parametrize("path", FIELDS)
def test_exactly_the_fields_that_decide_images_change_their_digest(path: str, scans: Path) -> None:
    config, found = changed(path), find_scans(scans)
    phantoms = PhantomSpec.of(config).digest != PhantomSpec.of(Config()).digest
    assert phantoms == (path in {*COMMON, "images.n_phantoms"})
    images = ScansSpec.of(config, found, {}).digest != ScansSpec.of(Config(), found, {}).digest
    assert images == (path in {*COMMON, "images.denoise"})


def test_scans_and_held_out_splits_change_the_digest(scans: Path) -> None:
    def digest(**held_out: str) -> str:
        return ScansSpec.of(Config(), find_scans(scans), held_out).digest

    digests = [digest(), digest(a="test"), digest(a="validation")]
    os.utime(scans / "a.png", ns=(1, 1))
    digests.append(digest())
    (scans / "b.png").write_bytes(b"12")
    digests.append(digest())
    assert len(set(digests)) == 5
