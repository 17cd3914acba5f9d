"""Parquet tables: the right rows in the right file, the same bytes every time, readable without our code."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.storage.dataset import layout, tables
from image_longitudinal.storage.dataset.table_reader import read_table
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import digests

PLAN = ShardPlan(20, 8, validation_fraction=0.1, test_fraction=0.35)  # train 0-10, validation 11-12, test 13-19
TIMES = [0.0, 0.5, 2.0]


def dv_of(ids: range) -> np.ndarray:
    return np.array([[i + time / 10 for time in TIMES] for i in ids])


def write_all(root: Root) -> None:
    for shard in PLAN:
        ids = range(shard.start, shard.stop)
        eta = np.array([[i, -i] for i in ids], float)
        tables.write_subjects(root, shard, seeds=np.array(ids) * 3, eta=eta)
        tables.write_random_effects(root, shard, 0.5, eta=eta, parameters={"Ka": np.array(ids, float)})
        tables.write_observations(root, shard, 0.5, times=TIMES, doses=[(0.0, 1.0, 1)], dv=dv_of(ids))


def test_a_split_boundary_inside_a_shard_makes_one_file_per_split(root: Root) -> None:
    write_all(root)
    found = {path: pq.read_table(f"{root.url}/{path}")["id"].to_pylist() for path in root.files("subjects")}
    assert found == {
        "subjects/train/00000.parquet": [*range(8)],
        "subjects/train/00001.parquet": [8, 9, 10],
        "subjects/validation/00001.parquet": [11, 12],
        "subjects/test/00001.parquet": [13, 14, 15],
        "subjects/test/00002.parquet": [16, 17, 18, 19],
    }


def test_records_say_rows_bytes_and_hash_of_the_file(root: Root) -> None:
    doses, dv = [tables.PlannedDose(0, 1)], dv_of(range(8, 16))
    records = tables.write_observations(root, PLAN.shard(1), 0.5, times=TIMES, doses=doses, dv=dv)
    assert [record.rows for record in records] == [3 * 4, 2 * 4, 3 * 4]
    for record in records:
        assert (root.size(record.path), root.sha256(record.path)) == (record.bytes, record.sha256)
        assert pq.ParquetFile(f"{root.url}/{record.path}").metadata.num_rows == record.rows


def test_doses_come_before_the_observation_at_their_time(root: Root) -> None:
    doses, dv, shard = [(2.0, 5.0, 2), (0.0, 1.0, 1)], np.array([[1.5, 2.5], [3.5, 4.5]]), ShardPlan(2, 2).shard(0)
    (record,) = tables.write_observations(root, shard, 1, times=[2.0, 0.0], doses=doses, dv=dv)
    rows = pq.read_table(f"{root.url}/{record.path}").to_pydict()
    assert (rows["id"], rows["time"]) == ([0] * 4 + [1] * 4, [0, 0, 2, 2] * 2)
    assert rows["evid"] == rows["mdv"] == [1, 0, 1, 0] * 2
    assert (rows["amt"], rows["cmt"]) == ([1, 0, 5, 0] * 2, [1, 2, 2, 2] * 2)
    assert rows["dv"] == [None, 2.5, None, 1.5, None, 4.5, None, 3.5]
    assert (rows["association"], rows["split"]) == ([1.0] * 8, ["train"] * 8)


def test_the_bytes_do_not_depend_on_threads_or_repetition(tmp_path: Path) -> None:
    found, threads = [], pa.cpu_count()
    try:
        for count in (1, 4):
            pa.set_cpu_count(count)
            root = open_root(tmp_path / str(count))
            write_all(root)
            write_all(root)
            found.append(digests(root))
    finally:
        pa.set_cpu_count(threads)
    assert (found[0], len(found[0])) == (found[1], 15)


def test_row_groups_are_bounded_and_the_order_is_declared(root: Root) -> None:
    n = 70_000
    shard, dv = ShardPlan(n, n).shard(0), np.zeros((n, 2), np.float32)
    (record,) = tables.write_observations(root, shard, 1.0, times=[0.0, 1.0], doses=[], dv=dv)
    metadata = pq.ParquetFile(f"{root.url}/{record.path}").metadata
    assert [metadata.row_group(i).num_rows for i in range(2)] == [tables.ROW_GROUP, 2 * n - tables.ROW_GROUP]
    assert [column.column_index for column in metadata.row_group(0).sorting_columns] == [0, 1]
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    encodings = {column.path_in_schema: column.encodings for column in columns}
    assert "DELTA_BINARY_PACKED" in encodings["id"]
    assert "RLE_DICTIONARY" not in encodings["dv"]
    assert "RLE_DICTIONARY" in encodings["split"]


def test_statistics_let_a_filter_skip_files_and_pages_carry_checksums(root: Root) -> None:
    write_all(root)
    path = layout.table_path("random_effects", 1, "test", 0.5)
    group = pq.ParquetFile(root.join(path)).metadata.row_group(0)
    statistics = {group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)}
    assert (statistics["association"].min, statistics["association"].max) == (0.5, 0.5)
    assert (statistics["split"].min, statistics["split"].max) == ("test", "test")
    assert (statistics["id"].min, statistics["id"].max) == (13, 15)
    damaged = bytearray(root.read_bytes(path))
    column = group.column(group.num_columns - 1)
    damaged[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    root.write_bytes(path, damaged)
    with pytest.raises(StorageError, match=r"cannot read a table .*00001\.parquet"):
        read_table(root, path)


def test_the_written_schema_is_the_layouts(root: Root) -> None:
    write_all(root)
    for path, schema in (
        (layout.table_path("subjects", 0, "train"), layout.table_columns("subjects", 2)),
        (layout.table_path("random_effects", 0, "train", 0.5), layout.table_columns("random_effects", 2, ["Ka"])),
        (layout.table_path("observations", 0, "train", 0.5), layout.table_columns("observations", 2)),
    ):
        assert pq.read_schema(f"{root.url}/{path}").equals(schema, check_metadata=True)


def test_numbers_that_do_not_fit_are_refused(root: Root) -> None:
    shard = PLAN.shard(1)
    seeds, eta, dv = np.arange(8), np.zeros((8, 2)), np.zeros((8, 3))
    broken = dv.copy()
    broken[2, 1] = 1e300  # infinite as float32
    with pytest.raises(StorageError, match=r"eta does not fit its shard \(shard 1\); expected 8 rows in 2 dimensions"):
        tables.write_subjects(root, shard, seeds=seeds, eta=eta[:7])
    with pytest.raises(StorageError, match="parameter Ka does not fit"):
        tables.write_random_effects(root, shard, 1.0, eta=eta, parameters={"Ka": eta})
    with pytest.raises(StorageError, match="expected 2 columns; got 3"):
        tables.write_observations(root, shard, 1.0, times=[0, 1], doses=[], dv=dv)
    with pytest.raises(StorageError, match=r"dv holds numbers that are not finite .*first at id 10"):
        tables.write_observations(root, shard, 1.0, times=TIMES, doses=[], dv=broken)
    assert root.files() == []
