"""Texts for people: the plan before a run, a data set and a subject, numbers in units one can read."""

import numpy as np
import pytest

from image_longitudinal.cli.descriptions import (
    characters,
    describe_dataset,
    describe_plan,
    describe_subject,
)
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.presets import load_config, preset_names
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.io.filesystem import open_root
from tests.storage.conftest import PLAN, TIMES, arrays, write_dataset


def plan_of(*overrides: str, preset: str = "demo", training: bool = True, generation: bool = True) -> str:
    return describe_plan(load_config(preset, overrides=overrides), training=training, generation=generation)


def line(text: str, start: str) -> str:
    return next(each for each in text.splitlines() if each.startswith(start))


@pytest.mark.parametrize("preset", preset_names())
def test_the_plan_of_every_preset_says_what_will_be_done(preset: str) -> None:
    config, text = load_config(preset), plan_of(preset=preset)
    assert f"{config.vae.steps:,} steps of {config.vae.batch_size}" in line(text, "train VAE")
    assert "for want of VGG16 weights" in line(text, "perceptual loss")
    assert f"{config.diffusion.steps:,} steps" in line(text, "train diffusion")
    size = config.diffusion.image_size
    assert f"{config.dataset.n_subjects:,} at {size}x{size}" in line(text, "make images")
    rows = config.dataset.n_subjects * 5 * 22  # levels, 21 times and a dose
    assert f"{rows:,} rows" in line(text, "make outcomes")
    assert "1.0, 0.5, 0.1, 0.0526, 0.02" in line(text, "make outcomes")
    assert "about" in line(text, "time")


def test_the_plan_counts_shards_and_splits() -> None:
    assert line(plan_of(), "in shards").endswith("5 of 128 subjects (512 train, 64 validation, 64 test)")
    assert "(512 train, 128 test)" in plan_of("dataset.validation_fraction=0", "dataset.test_fraction=0.2")


def test_the_plan_names_only_what_will_be_done() -> None:
    phantom = plan_of("generator.backend=phantom", "generator.image_size=48")
    assert "train" not in phantom.replace("512 train", "")
    assert "48x48 (phantom)" in phantom
    vae = plan_of("generator.backend=vae", "vae.image_size=96")
    assert "train VAE" in vae
    assert "diffusion" not in vae
    assert "96x96 (vae)" in vae
    assert "make" not in plan_of(generation=False)
    assert "train VAE" not in plan_of(training=False)
    assert "unipc 7 steps" in plan_of()


def test_the_guess_of_the_time_grows_with_the_work() -> None:
    assert " min " in line(plan_of(), "time")
    assert " s " in line(plan_of("generator.backend=phantom"), "time")
    assert " d " in line(plan_of(preset="paper"), "time")


@pytest.mark.parametrize("size", [8, 32, 64, 96, 224, 512])
def test_a_picture_in_characters_fits_a_terminal_and_keeps_its_shape(size: int) -> None:
    image = np.zeros((size, size), np.uint8)
    image[size // 2 :] = 255
    rows = characters(image).splitlines()
    assert len(rows[0]) == size if size <= 64 else 32 < len(rows[0]) <= 64
    assert abs(len(rows) - len(rows[0]) / 2) < 1  # a character is twice as high as wide
    assert set(rows[0]) == {" "}
    assert set(rows[-1]) == {"@"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = open_root(str(tmp_path_factory.mktemp("data") / "set"))
    return Dataset(root, write_dataset(root))


def test_a_data_set_is_described_by_its_manifest(dataset: Dataset) -> None:
    text = describe_dataset(dataset)
    assert "tiny: 22 subjects (12 train, 3 validation, 7 test)" in text
    assert "8x8 uint8" in text
    assert "Ka = latent entry 4, Imax = latent entry 0" in text
    assert "1.0, 0.0526" in text
    assert f"{len(TIMES)} times from 0 to 4" in text
    assert "seed              7" in text


def test_a_subject_is_described_by_its_numbers(dataset: Dataset) -> None:
    data, text = arrays(), describe_subject(dataset, 20)
    assert f"subject 20 of tiny, split {PLAN.split_of(20)}" in text
    assert f"{data.eta[20, 0]:.3f}, {data.eta[20, 1]:.3f}" in text
    for level, dv in data.dv.items():
        assert f"outcomes at association {level}: 0: {dv[20, 0]:.3f}" in text
        assert f"behind the outcomes at association {level}: {data.used[level][20, 0]:.3f}" in text
    assert text.endswith(characters(data.images[20]))
    with pytest.raises(StorageError, match=r"no such subject.*subject 22 of 22"):
        describe_subject(dataset, 22)
