"""Other programs read a data set with default options, and all get the table that the reader returns."""

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from shutil import which

import dask.array as da
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import xarray
import zarr

from image_longitudinal.storage.dataset.layout import TABLES
from image_longitudinal.storage.dataset.reader import Dataset
from tests.storage.conftest import LEVELS

READERS: dict[str, Callable[[str], pa.Table]] = {
    "pandas": lambda folder: pa.Table.from_pandas(pd.read_parquet(folder)),
    "pyarrow.parquet": lambda folder: pq.read_table(folder),
    "pyarrow.dataset": lambda folder: pads.dataset(folder).to_table(),
    "pyarrow hive": lambda folder: pads.dataset(folder, partitioning="hive").to_table(),
    "polars": lambda folder: pl.read_parquet(folder).to_arrow(),
    "polars lazy": lambda folder: pl.scan_parquet(folder).collect().to_arrow(),
    "polars glob": lambda folder: pl.read_parquet(f"{folder}/**/*.parquet").to_arrow(),
    "duckdb": lambda folder: duckdb.sql(f"SELECT * FROM '{folder}/**/*.parquet'").to_arrow_table(),
    "duckdb hive": lambda folder: duckdb.sql(
        f"SELECT * FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
    ).to_arrow_table(),
}


def expected(dataset: Dataset, table: str) -> pa.Table:
    levels: tuple[float | None, ...] = (None,) if table == "subjects" else LEVELS
    return ordered(pa.concat_tables([dataset.scan(table, level).to_table() for level in levels]))


def ordered(table: pa.Table) -> pa.Table:
    """Rows in one order, column types without the differences between tools (large strings, metadata)."""
    keys = [name for name in ("association", "id", "time", "evid") if name in table.column_names]
    table = table.sort_by([(name, "descending" if name == "evid" else "ascending") for name in keys])
    fields = [pa.field(f.name, pa.string() if pa.types.is_large_string(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields)).combine_chunks()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("tool", READERS)
def test_a_folder_is_one_table(dataset: Dataset, tool: str, table: str) -> None:
    assert ordered(READERS[tool](dataset.root.join(table))).equals(expected(dataset, table))


@pytest.mark.parametrize("tool", READERS)
def test_a_folder_of_a_level_and_split_is_that_part(dataset: Dataset, tool: str) -> None:
    part = ordered(dataset.observations(0.0526, "test").arrow)
    assert ordered(READERS[tool](dataset.root.join("observations/rho2-0.0526/test"))).equals(part)


def test_a_filter_on_columns_selects_level_and_split(dataset: Dataset) -> None:
    folder, part = dataset.root.join("observations"), ordered(dataset.observations(0.0526, "test").arrow)
    query = f"SELECT * FROM '{folder}/**/*.parquet' WHERE association = 0.0526 AND split = 'test'"
    assert ordered(duckdb.sql(query).to_arrow_table()).equals(part)
    filters = [("association", "=", 0.0526), ("split", "=", "test")]
    assert ordered(pa.Table.from_pandas(pd.read_parquet(folder, filters=filters))).equals(part)
    lazy = pl.scan_parquet(folder).filter(pl.col("association") == 0.0526, pl.col("split") == "test")
    assert ordered(lazy.collect().to_arrow()).equals(part)


def test_hugging_face_datasets(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    folder, cache = dataset.root.url, str(tmp_path)

    def joined(splits: object) -> pa.Table:
        parts = [part.data.table for part in splits.values()]  # type: ignore[attr-defined]
        return ordered(pa.concat_tables([part.replace_schema_metadata() for part in parts]))

    assert joined(datasets.load_dataset(folder, cache_dir=cache)).equals(expected(dataset, "observations"))
    for table in TABLES:
        splits = datasets.load_dataset(folder, table, cache_dir=cache)
        assert set(splits) == {"train", "validation", "test"}
        assert joined(splits).equals(expected(dataset, table))


def test_xarray_and_dask_read_images_without_a_warning_in_chunks_of_a_shard(dataset: Dataset) -> None:
    address, images = dataset.root.join("images.zarr"), dataset.images[0:22]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xarray.open_zarr(address)
        chunked = plain.chunk(subject=plain["image"].encoding["shards"][0])
        stored = zarr.open_group(address, mode="r")["image"]
        array = da.from_array(stored, chunks=stored.shards)
        mine = dataset.to_xarray()
    assert (plain["image"].dims, plain["image"].dtype) == (("subject", "y", "x"), np.uint8)
    for lazy in (chunked["image"], chunked["latent"], array, mine["image"]):
        assert lazy.chunks[0] == (8, 8, 6)
    for result in (plain["image"], chunked["image"], array, mine["image"]):
        np.testing.assert_array_equal(np.asarray(result), images)


def test_r_arrow(dataset: Dataset) -> None:
    if not which("Rscript"):
        pytest.skip("Rscript is not installed")
    if subprocess.run(["Rscript", "-e", "library(arrow); library(dplyr)"], capture_output=True).returncode:
        pytest.skip("R has no arrow or no dplyr")
    script = (
        "library(arrow); library(dplyr); d <- open_dataset('observations') |> filter(association == 0.0526) |> "
        "collect(); cat(nrow(d), sum(d$dv, na.rm = TRUE), paste(sort(names(d)), collapse = ','))"
    )
    ran = subprocess.run(["Rscript", "-e", script], cwd=dataset.root.url, capture_output=True, text=True, check=True)
    rows, total, names = ran.stdout.split()
    table = dataset.observations(0.0526).arrow
    assert (int(rows), names) == (table.num_rows, ",".join(sorted(table.column_names)))
    assert float(total) == pytest.approx(table["dv"].to_pandas().sum(), rel=1e-5)
