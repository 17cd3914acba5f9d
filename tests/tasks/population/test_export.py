"""The export of outcomes: every dose and observation, exactly, in the order that NONMEM needs."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.population.export import COLUMNS, export_nmtran
from tests.storage.conftest import write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    root = open_root(tmp_path / "data")
    write_dataset(root)
    return open_dataset(root)


@pytest.mark.parametrize("split", [None, "validation"])
def test_rows_are_the_observations_number_for_number(dataset: Dataset, tmp_path: Path, split: str | None) -> None:
    path = tmp_path / "out.csv"
    rows = export_nmtran(dataset, path, level=0.0526, split=split)
    with open(path, encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    expected = dataset.observations(0.0526, split).to_pylist()
    assert len(read) == rows == len(expected)
    assert tuple(read[0]) == COLUMNS
    for line, row in zip(read, expected, strict=True):
        assert (int(line["ID"]), float(line["TIME"])) == (row["id"], row["time"])
        assert (line["EVID"], float(line["AMT"]), line["CMT"]) == (str(row["evid"]), row["amt"], str(row["cmt"]))
        assert line["MDV"] == str(row["mdv"])
        if row["dv"] is None:
            assert line["DV"] == "."
        else:
            assert np.float32(line["DV"]) == np.float32(row["dv"])
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_an_existing_file_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("years of work")
    with pytest.raises(StorageError, match="exists already"):
        export_nmtran(dataset, path, level=1.0)
    assert path.read_text() == "years of work"
    with pytest.raises(StorageError, match=r"one of 1\.0, 0\.0526; got 0\.3"):
        export_nmtran(dataset, tmp_path / "other.csv", level=0.3)
    with pytest.raises(StorageError, match="cannot write a file"):
        export_nmtran(dataset, tmp_path / "nowhere/other.csv", level=1.0)


def test_other_programs_get_their_dialect(dataset: Dataset, tmp_path: Path) -> None:
    export_nmtran(dataset, tmp_path / "monolix.csv", level=1.0, dialect="monolix")
    assert (tmp_path / "monolix.csv").read_text().splitlines()[0] == "ID,TIME,EVID,AMT,ADM,DV,MDV"
    export_nmtran(dataset, tmp_path / "pumas.parquet", level=1.0, dialect="pumas")
    assert pq.read_schema(tmp_path / "pumas.parquet").names == [name.lower() for name in COLUMNS]
