"""Arrays of a data set are indexed as NumPy arrays are, and read only what is asked for."""

from typing import Any

import numpy as np
import pytest

from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.dataset.rows import Rows
from image_longitudinal.storage.dataset.transfer import Selection, copy_dataset
from image_longitudinal.storage.io.open import open_root
from tests.storage.conftest import LEVELS, arrays

DATA = arrays()
KEYS = [
    3, -1, np.int64(4), slice(0, 5), slice(5, 20), slice(None), slice(20, 99), slice(-3, None), slice(None, None, 7),
    slice(9, 2, -2), slice(4, 4), [5, 3, 3], [], np.array([21, 0], np.uint8), [0, 1, 2, 9, 10, 11, 12, -1], ...,
]  # fmt: skip


def both(dataset: Dataset) -> list[tuple[Rows, np.ndarray]]:
    """Each array of a data set beside the numbers that it was written from."""
    pairs = [(dataset.images, DATA.images), (dataset.latents, DATA.latents), (dataset.linked_eta, DATA.eta)]
    for level in LEVELS:
        pairs += [(dataset.used_eta(level), DATA.used[level])]
        pairs += [(dataset.outcomes(level), DATA.dv[level].astype(np.float32))]
    return pairs


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_what_an_index_gives_is_what_numpy_gives(dataset: Dataset, key: Any) -> None:
    numpy_key = np.array(key, int) if isinstance(key, list) else key
    for rows, expected in both(dataset):
        found = rows[key]
        np.testing.assert_array_equal(found, expected[numpy_key])
        assert found.dtype == expected.dtype


def test_further_indices_and_whole_arrays(dataset: Dataset) -> None:
    np.testing.assert_array_equal(dataset.images[2:5, ::2, 3], DATA.images[2:5, ::2, 3])
    np.testing.assert_array_equal(dataset.images[7, 1:3], DATA.images[7, 1:3])
    np.testing.assert_array_equal(dataset.images[[4, 2], 0], DATA.images[[4, 2], 0])
    np.testing.assert_array_equal(np.asarray(dataset.linked_eta), DATA.eta)
    assert np.asarray(dataset.images, np.float32).dtype == np.float32
    assert dataset.outcomes(1.0).shape == (22, 4)
    assert repr(dataset.images) == "<images: uint8 (22, 8, 8), read when indexed>"
    assert len(list(dataset.latents)) == len(dataset.latents) == 22


def test_a_view_counts_its_own_subjects_from_0(dataset: Dataset) -> None:
    view = dataset.view("test", 0.0526)
    assert len(view.images) == 7
    np.testing.assert_array_equal(view.images[-1], DATA.images[21])
    np.testing.assert_array_equal(view.used_eta[[6, 0]], DATA.used[0.0526][[21, 15]])
    with pytest.raises(IndexError, match="outcomes: no 7, there are 7"):
        view.outcomes[7]


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        ("train", TypeError, "images are indexed by numbers, a slice or a list of numbers, not by 'train'"),
        (0.5, TypeError, "ids must be integers"),
        ([True, False], TypeError, "ids must be integers"),
        ([[1, 2], [3, 4]], IndexError, r"a list of numbers, not by an array of shape \(2, 2\)"),
        (22, IndexError, "images: no 22, there are 22, counted from 0"),
    ],
)
def test_a_wrong_index_is_explained(dataset: Dataset, key: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        dataset.images[key]


def test_subjects_that_a_part_does_not_have_are_refused(dataset: Dataset) -> None:
    copy_dataset(dataset.root, open_root("memory://rows/part"), Selection(shards=(0, 2)))
    part = open_dataset("memory://rows/part")
    np.testing.assert_array_equal(part.linked_eta[[21, 0, 5]], DATA.eta[[21, 0, 5]])
    present = [*range(8), *range(16, 22)]
    np.testing.assert_array_equal(part.view(level=1.0).outcomes, DATA.dv[1.0][present].astype(np.float32))
    with pytest.raises(IndexError, match="1 of 2 subjects are not in this part"):
        part.linked_eta[[0, 9]]
    with pytest.raises(IndexError, match="in this part"):
        part.linked_eta[0:22]
    assert [subject.id for subject in part] == present
