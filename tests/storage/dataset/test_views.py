"""Views of a split and level: the same numbers as arrays, Arrow tables, pandas, polars and xarray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.io.open import open_root
from tests.storage.conftest import LEVELS, arrays, write_dataset


@pytest.fixture(params=["local", "memory"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    root = open_root(tmp_path / "data" if request.param == "local" else f"memory://{tmp_path.name}/data")
    write_dataset(root)
    return open_dataset(root.url)


def test_arrays_of_a_view_are_its_subjects(dataset: Dataset) -> None:
    data, view = arrays(), dataset.view("test", 0.0526)
    assert view.ids.tolist() == list(range(15, 22))
    np.testing.assert_array_equal(view.images(2, 4), data.images[17:19])
    np.testing.assert_array_equal(view.latents(), data.latents[15:])
    np.testing.assert_array_equal(view.eta(), data.eta[15:])
    np.testing.assert_array_equal(view.effects(1), data.used[0.0526][16:])
    np.testing.assert_array_equal(view.outcomes(), data.dv[0.0526][15:].astype(np.float32))
    assert view[6].id == 21
    everyone = dataset.view(level=1.0)
    np.testing.assert_array_equal(everyone.outcomes(3, 20), data.dv[1.0][3:20].astype(np.float32))
    with pytest.raises(IndexError):
        view.eta(0, 8)
    with pytest.raises(IndexError):
        view[7]


def test_rows_of_any_ids_in_any_order(dataset: Dataset) -> None:
    data = arrays()
    for ids in ([21, 0, 8, 7, 8, 3], [], [5]):
        np.testing.assert_array_equal(dataset.take_images(ids), data.images[ids])
        np.testing.assert_array_equal(dataset.take_latents(ids), data.latents[ids])
    with pytest.raises(IndexError, match="rows 3 to 22 of 22"):
        dataset.take_images([3, 22])


def test_data_frames_hold_the_tables(dataset: Dataset) -> None:
    view, data = dataset.view("train", 1.0), arrays()
    frame = view.pandas("observations", columns=["id", "time", "dv", "evid"])
    assert list(frame.columns) == ["id", "time", "dv", "evid"]
    np.testing.assert_array_equal(frame.query("evid == 0 and id == 4")["dv"], data.dv[1.0][4].astype(np.float32))
    lazy = view.polars("observations").filter((pl.col("id") == 4) & (pl.col("evid") == 0)).select("dv")
    np.testing.assert_array_equal(lazy.collect()["dv"], data.dv[1.0][4].astype(np.float32))
    assert view.polars("subjects").collect().height == 12
    assert dataset.view().table("subjects").num_rows == 22


def test_xarray_is_lazy_and_knows_the_ids(dataset: Dataset) -> None:
    arrays_ = dataset.view("validation").xarray()
    assert dict(arrays_.sizes) == {"subject": 3, "y": 8, "x": 8, "latent": 6}
    assert arrays_.image.dtype == np.uint8
    assert not arrays_.image.variable._in_memory
    np.testing.assert_array_equal(arrays_.sel(subject=13).image, arrays().images[13])
    np.testing.assert_array_equal(arrays_.latent[1:], arrays().latents[13:15])


def test_what_is_not_there_is_named(dataset: Dataset) -> None:
    with pytest.raises(StorageError, match="no such split"):
        dataset.view("dev")
    with pytest.raises(StorageError, match="no such association level"):
        dataset.view("test", 0.3)
    with pytest.raises(StorageError, match=rf"no association level.*one of {LEVELS[0]}.*dataset.view\(split, level\)"):
        dataset.view("test").outcomes()
