"""Tables that would decode to more than a table may are refused before a page is decoded."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset import parquet_limits
from image_longitudinal.storage.dataset.parquet_limits import check_pages
from image_longitudinal.storage.dataset.table_reader import read_table
from image_longitudinal.storage.io.open import open_root


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


TABLE = pa.table({
    "number": np.random.default_rng(0).normal(size=5000), "count": np.arange(5000), "flag": np.arange(5000) % 2 == 0,
    "text": ["train", "test"] * 2500, "missing": pa.array([1.5, None] * 2500),
})  # fmt: skip


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "zstd", "snappy"])
@pytest.mark.parametrize("checksum", [False, True])
def test_usual_files_are_read(version: str, compression: str, checksum: bool) -> None:
    data = parquet(
        TABLE, data_page_version=version, compression=compression, write_page_checksum=checksum, data_page_size=1000,
        row_group_size=2000, column_encoding={"count": "DELTA_BINARY_PACKED"}, use_dictionary=["text", "number"],
    )  # fmt: skip
    check_pages(memoryview(data), pq.ParquetFile(io.BytesIO(data)).metadata)


def test_a_run_length_that_makes_gigabytes_is_refused(tmp_path: Path) -> None:
    """A column of one value: a megabyte that decodes to 2.4 GB."""
    rows = 300_000_000
    piece = pa.table({"x": np.zeros(rows // 10, np.int8)})
    with pq.ParquetWriter(tmp_path / "x.parquet", piece.schema) as writer:
        for _ in range(10):
            writer.write_table(piece)
    assert (tmp_path / "x.parquet").stat().st_size < 2_000_000
    with pytest.raises(StorageError, match=r"would decode to 2,400,000,000 bytes; at most 2,147,483,648 are read"):
        read_table(open_root(tmp_path), "x.parquet")


def test_a_long_text_that_every_row_repeats_is_refused(tmp_path: Path) -> None:
    rows = np.zeros(10_000, np.int32)
    table = pa.table({"text": pa.DictionaryArray.from_arrays(rows, ["x" * 1_000_000]), "n": rows})
    (tmp_path / "x.parquet").write_bytes(parquet(table))
    with pytest.raises(StorageError, match="would decode to 10,0"):
        read_table(open_root(tmp_path), "x.parquet")
    assert len(read_table(open_root(tmp_path), "x.parquet", ["n"])) == 10_000, "columns that are not read do not count"


def test_a_page_larger_than_pages_are_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_limits, "MAX_PAGE", 1000)
    (tmp_path / "x.parquet").write_bytes(parquet(TABLE, use_dictionary=False))
    with pytest.raises(StorageError, match="a page would decode to 40,"):
        read_table(open_root(tmp_path), "x.parquet")
