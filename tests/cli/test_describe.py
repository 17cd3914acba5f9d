"""A data set, a subject and an image as texts for the terminal."""

import numpy as np
import pytest

from image_longitudinal.cli.describe import characters, describe_dataset, describe_subject
from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.io.open import open_root
from tests.storage.conftest import PLAN, TIMES, arrays, write_dataset


@pytest.mark.parametrize("size", [8, 32, 64, 96, 224, 512])
def test_an_image_in_characters_fits_a_terminal_and_keeps_its_shape(size: int) -> None:
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
    assert "Ka = latent dimension 4, Imax = latent dimension 0" in text
    assert "1.0, 0.0526" in text
    assert f"{len(TIMES)} times from 0 to 4" in text
    assert "seed              7" in text


def test_a_subject_is_described_by_its_numbers(dataset: Dataset) -> None:
    data, text = arrays(), describe_subject(dataset, 20)
    assert f"subject 20 of tiny, split {PLAN.split_of(20)}" in text
    assert f"{data.eta[20, 0]:.3f}, {data.eta[20, 1]:.3f}" in text
    for level, dv in data.dv.items():
        assert f"outcomes at association {level}: 0: {dv[20, 0]:.3f}" in text
        assert f"used for the outcomes at association {level}: {data.used[level][20, 0]:.3f}" in text
    assert text.endswith(characters(data.images[20]))
    with pytest.raises(StorageError, match=r"no such subject.*subject 22 of 22"):
        describe_subject(dataset, 22)
