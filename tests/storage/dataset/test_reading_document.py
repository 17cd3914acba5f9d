"""The code in docs/howto/reading.md runs, on a data set as it is published, and gives what the reader gives."""

import re
from pathlib import Path

import duckdb
import numpy as np
import prefect.main  # noqa: F401  # first: its import closes log handlers, with mlcroissant's the captured stderr
import pytest
from typer.testing import CliRunner

from image_longitudinal.storage.dataset.reader import Dataset
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs/howto/reading.md").read_text()


def snippets(language: str) -> list[str]:
    """The code blocks of one language, with the second level of the tests' data set in place of 0.5."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert blocks
    return [block.replace("0.5", "0.0526") for block in blocks]


@pytest.fixture(autouse=True)
def inside(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dataset.root.url)


def run(snippet: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(snippet, names)
    return names


PYTHON = {re.split(r"\W+", block)[block.startswith(("import", "from"))]: block for block in snippets("python")}


def test_every_python_snippet_is_tried_below() -> None:
    assert list(PYTHON) == [
        "image_longitudinal", "loader", "guess", "xarray", "pyarrow", "pandas", "polars", "datasets", "itertools",
        "hashlib",
    ]  # fmt: skip


def test_with_this_project(dataset: Dataset) -> None:
    names = run(PYTHON["image_longitudinal"])
    assert names["x"].shape == (7, 8, 8)  # type: ignore[attr-defined]
    assert names["y"].shape == (7, 4)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(names["subject"].image, dataset.images[3])  # type: ignore[attr-defined]
    assert (names["means"].num_rows, names["rows"].num_rows) == (4, 35)  # type: ignore[attr-defined]
    exec(PYTHON["loader"], names)
    assert names["batch"]["used_eta"].shape == (4, 2)  # type: ignore[index]
    exec(PYTHON["guess"], names)
    Path("mine.parquet").unlink()


def test_zarr_and_xarray(dataset: Dataset) -> None:
    names = run(PYTHON["xarray"])
    np.testing.assert_array_equal(names["first"], dataset.images[0])  # type: ignore[arg-type]
    np.testing.assert_allclose(names["mean"], dataset.images[0:8].mean(0))  # type: ignore[arg-type]
    assert names["blocks"].chunks[0] == names["lazy"].chunks["subject"] == (8, 8, 6)  # type: ignore[attr-defined]


def test_pyarrow() -> None:
    names = run(PYTHON["pyarrow"])
    assert names["late"].num_rows == 22  # type: ignore[attr-defined]
    assert names["unit"] == b"h"


def test_pandas(dataset: Dataset) -> None:
    names = run(PYTHON["pandas"])
    np.testing.assert_array_equal(names["wide"].to_numpy(), dataset.view("test", 0.0526).outcomes)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(names["subjects"]["eta_1"], dataset.view("test").linked_eta[:, 0])  # type: ignore[index]


def test_polars() -> None:
    assert run(PYTHON["polars"])["mean"].height == 2 * 4  # type: ignore[attr-defined]


def test_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    names = run(PYTHON["datasets"])
    assert names["observations"].num_rows == {"train": 120, "validation": 30, "test": 70}  # type: ignore[attr-defined]
    assert names["subjects"]["id"][:] == list(range(15, 22))  # type: ignore[index]


def test_croissant() -> None:
    pytest.importorskip("mlcroissant")
    records = run(PYTHON["itertools"])["records"]
    assert [next(iter(record)) for record in records] == ["random_effects/id"] * 3  # type: ignore[attr-defined]


def test_the_check_by_hashes_passes_and_finds_damage(dataset: Dataset) -> None:
    run(PYTHON["hashlib"])
    path = Path("subjects/test/00001.parquet")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"?")
    with pytest.raises(AssertionError, match=r"00001\.parquet"):
        run(PYTHON["hashlib"])
    path.write_bytes(good)


def test_duckdb(dataset: Dataset) -> None:
    joined, means, rewritten = snippets("sql")
    rows = duckdb.sql(joined).fetchall()
    assert [row[0] for row in rows] == list(range(22))
    np.testing.assert_array_equal([row[1] for row in rows], dataset.linked_eta[:, 0])
    assert duckdb.sql(means).fetchall()[0][:2] == (0.0526, 0.0)
    duckdb.sql(rewritten)
    (count,) = duckdb.sql("SELECT count(*) FROM 'train-0.0526.parquet'").fetchall()[0]
    Path("train-0.0526.parquet").unlink()
    assert count == 12 * 5


def test_the_export_command(dataset: Dataset) -> None:
    from image_longitudinal.cli.app import app

    command = snippets("sh")[0]
    program, *arguments = command.split()
    assert program == "image-longitudinal"
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    lines = Path("test.csv").read_text(encoding="utf-8").splitlines()
    Path("test.csv").unlink()
    assert f"$INPUT {lines[0].replace(',', ' ')}\n" in DOCUMENT
    assert len(lines) == 1 + 7 * 5
