"""Predictions handed in: read in any order of rows, and refused by name, row and reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.predictions import Submission, read_predictions

IDS, LEVELS, TIMES = np.arange(10, 16), (1.0, 0.0526), (0.0, 0.5)


def effects() -> dict[str, np.ndarray]:
    numbers = np.arange(12.0)
    return {"id": np.tile(IDS, 2), "association": np.repeat(LEVELS, 6), "eta_1": numbers, "eta_2": -numbers}


def outcomes() -> dict[str, np.ndarray]:
    return {"id": np.repeat(IDS, 2), "association": np.ones(12), "time": np.tile(TIMES, 6), "dv": np.arange(12.0)}


def read(folder: Path, columns: dict[str, np.ndarray]) -> Submission:
    pq.write_table(pa.table(columns), folder / "mine.parquet")
    return read_predictions(folder / "mine.parquet", ids=IDS, levels=LEVELS, n_eta=2, times=TIMES)


def test_rows_in_any_order_come_back_in_order_of_ids(tmp_path: Path) -> None:
    columns = effects()
    order = np.random.default_rng(0).permutation(12)
    found = read(tmp_path, {name: values[order] for name, values in columns.items()})
    assert (found.kind, list(found.levels)) == ("effects", [1.0, 0.0526])
    np.testing.assert_array_equal(found.levels[0.0526], np.stack([np.arange(6.0, 12), -np.arange(6.0, 12)], 1))


def test_outcomes_come_back_as_subjects_by_visits_and_levels_may_be_missing(tmp_path: Path) -> None:
    found = read(tmp_path, outcomes())
    assert found.kind == "outcomes"
    np.testing.assert_array_equal(found.levels[1.0], np.arange(12.0).reshape(6, 2))
    assert list(read(tmp_path, {name: values[6:] for name, values in effects().items()}).levels) == [0.0526]


def changed(name: str, row: int, value: float) -> Callable[[], dict[str, np.ndarray]]:
    def make() -> dict[str, np.ndarray]:
        columns = effects()
        columns[name][row] = value
        return columns

    return make


def without(columns: Callable[[], dict[str, np.ndarray]], rows: int | slice) -> Callable[[], dict[str, np.ndarray]]:
    return lambda: {name: np.delete(values, rows) for name, values in columns().items()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(changed("id", 3, 9), "not a test subject.*row 3.*10 to 15; got 9", id="unknown id"),
        pytest.param(changed("id", 3, 14), "twice.*row 4.*id 14 again", id="duplicate"),
        pytest.param(changed("eta_2", 5, np.nan), "not finite.*row 5, column eta_2.*got nan", id="NaN"),
        pytest.param(changed("eta_1", 5, np.inf), "not finite.*row 5, column eta_1", id="infinite"),
        pytest.param(changed("association", 2, 0.7), "no such association level.*row 2.*got 0.7", id="level"),
        pytest.param(without(effects, 4), "1 predictions are missing.*association 1.*none for id 14", id="missing id"),
        pytest.param(lambda: {**effects(), "extra": np.ones(12)}, "other columns.*eta_1, eta_2.*extra", id="columns"),
        pytest.param(lambda: {**effects(), "id": np.ones(12)}, "another type.*column id.*integers", id="type"),
        pytest.param(lambda: {**outcomes(), "time": np.ones(12)}, "no such visit.*row 0.*one of 0, 0.5", id="time"),
        pytest.param(without(outcomes, 5), "none for id 12, time 0.5", id="missing visit"),
        pytest.param(without(effects, slice(None)), "without rows", id="empty"),
    ],
)
def test_what_is_wrong_is_named(make: Callable[[], dict[str, np.ndarray]], message: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=message):
        read(tmp_path, make())


def test_a_null_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    columns = effects()
    with pytest.raises(StorageError, match=r"row 7, column eta_1\); got null"):
        read(tmp_path, {**columns, "eta_1": pa.array(columns["eta_1"], mask=np.arange(12) == 7)})
    (tmp_path / "mine.csv").write_text("id,eta_1\n1,2\n")
    for name, message in (("mine.csv", "cannot be read"), ("none.parquet", "predictions not found")):
        with pytest.raises(StorageError, match=message):
            read_predictions(tmp_path / name, ids=IDS, levels=LEVELS, n_eta=2, times=TIMES)
