"""The reader: what was written comes back, lazily, from any store; so do views of a split and level."""

import copy
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import DamagedError, StorageError
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.storage.dataset.manifest import read_root_manifest, write_root_manifest
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.dataset.run_claim import begin_run
from image_longitudinal.storage.io.root import FileRecord, Root
from tests.storage.conftest import IDENTITY, LEVELS, TIMES, arrays, write_dataset


@pytest.fixture
def dataset(store: Root) -> Dataset:
    write_dataset(store)
    return open_dataset(store.url)


def test_images_and_latents_come_back_across_shards(dataset: Dataset) -> None:
    data = arrays()
    assert len(dataset) == 22
    np.testing.assert_array_equal(dataset.images[5:20], data.images[5:20])
    np.testing.assert_array_equal(dataset.latents[0:22], data.latents)


def test_one_subject_holds_everything(dataset: Dataset) -> None:
    data = arrays()
    for subject_id, split in ((0, "train"), (13, "validation"), (21, "test")):
        subject = dataset.subject(subject_id)
        assert (subject.id, subject.split, subject.seed) == (subject_id, split, data.seeds[subject_id])
        np.testing.assert_array_equal(subject.image, data.images[subject_id])
        np.testing.assert_array_equal(subject.latent, data.latents[subject_id])
        np.testing.assert_array_equal(subject.linked_eta, data.eta[subject_id])
        for level in LEVELS:
            seen = subject.observations[level].filter(pads.field("evid") == 0)
            assert seen["time"].to_pylist() == list(TIMES)
            np.testing.assert_array_equal(seen["dv"], data.dv[level][subject_id].astype(np.float32))
            assert subject.random_effects[level]["eta_1"].to_pylist() == [data.used[level][subject_id, 0]]


def test_tables_by_split_level_and_column(dataset: Dataset) -> None:
    assert dataset.subjects()["id"].to_pylist() == list(range(22))
    assert dataset.subjects("validation", columns=["id"])["id"].to_pylist() == [12, 13, 14]
    assert dataset.random_effects(1.0, "test").num_rows == 7
    observations = dataset.observations(0.0526, "train", columns=["id", "dv"])
    assert (observations.column_names, observations.num_rows) == (["id", "dv"], 12 * 5)
    scan = dataset.scan("observations", 1.0)
    assert scan.count_rows() == 22 * 5
    table = scan.to_table(filter=(pads.field("split") == "test") & (pads.field("evid") == 0))
    assert table["id"].to_pylist() == [i for i in range(15, 22) for _ in TIMES]
    assert table.schema == dataset.schema("observations")
    assert dataset.schema("observations").field("time").metadata[b"unit"] == b"h"


def test_a_request_for_something_missing_names_what_exists(dataset: Dataset) -> None:
    for request, message in (
        (lambda: dataset.observations(0.5), r"no such association level.*one of 1\.0, 0\.0526; got 0\.5"),
        (lambda: dataset.subjects("dev"), "no such split.*one of train, validation, test; got dev"),
        (lambda: dataset.scan("outcomes"), "no such table"),
        (lambda: dataset.view("dev"), "no such split"),
        (lambda: dataset.view("test", 0.3), "no such association level"),
        (lambda: dataset.view("test").outcomes, r"no association level.*one of 1\.0.*dataset.view\(split, level\)"),
    ):
        with pytest.raises(StorageError, match=message):
            request()
    with pytest.raises(IndexError, match="subject 22 of 22"):
        dataset.subject(22)
    for beyond in (22, -23, [3, 22]):
        with pytest.raises(IndexError, match=r"images: no .*, there are 22"):
            dataset.images[beyond]


def test_unpublished_data_is_refused_and_a_lost_table_is_an_error_not_fewer_rows(root: Root) -> None:
    begin_run(root, IDENTITY, {})
    with pytest.raises(StorageError, match=r"no published data set here.*finish the run"):
        open_dataset(root.url)
    write_dataset(root)
    root.remove("subjects/test/00001.parquet")
    with pytest.raises(StorageError, match=r"test/00001\.parquet"):
        open_dataset(root).subjects()


@pytest.mark.parametrize("how", ["missing", "of another type"])
def test_a_missing_or_changed_column_is_an_error_not_nulls(published: Root, how: str) -> None:
    """Arrow fills what a file lacks with nulls, and casts what has another type."""
    for path, name, read in (
        ("subjects/test/00002.parquet", "seed", lambda data: data.subjects()),
        ("subjects/test/00002.parquet", "eta_2", lambda data: data.linked_eta[0:22]),
        ("random_effects/rho2-1.0/test/00002.parquet", "Ka", lambda data: data.subject(20)),
        ("observations/rho2-1.0/test/00002.parquet", "dv", lambda data: data.outcomes(1.0)[16:22]),
        ("observations/rho2-1.0/test/00002.parquet", "mdv", lambda data: data.scan("observations", 1.0).head(1)),
    ):
        good, file = published.read_bytes(path), Path(published.join(path))
        table = pq.ParquetFile(file).read()
        position = table.schema.get_field_index(name)
        other = table.drop_columns([name])
        if how == "of another type":
            other = table.set_column(position, name, table[name].cast(pa.string()))
        pq.write_table(other, file)
        with pytest.raises(DamagedError, match=rf"other columns than its data set .*{file.name}.*expected {name}"):
            read(open_dataset(published))
        file.write_bytes(good)
        read(open_dataset(published))


def test_a_data_set_pickles_as_its_address_and_serves_threads(published: Root) -> None:
    dataset = pickle.loads(pickle.dumps(open_dataset(published)))
    with ThreadPoolExecutor(8) as pool:
        subjects = list(pool.map(dataset.subject, [*range(22)] * 2))
    np.testing.assert_array_equal([s.image for s in subjects[:22]], arrays().images)
    assert [s.id for s in subjects] == [*range(22)] * 2


def test_a_million_subjects_open_at_once(published: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ShardPlan(1_100_000, 1024, test_fraction=1 / 11)
    manifest = read_root_manifest(published)
    shards = tuple(FileRecord(path=f"shards/{s.name}.json", sha256="0" * 64, bytes=9999) for s in plan)
    grown = {"n_subjects": plan.n_subjects, "shard_size": 1024, "splits": plan.split_counts, "shards": shards}
    write_root_manifest(published, manifest.model_copy(update=grown))
    schema = pa.schema([(field.name, field.type) for field in manifest.table_schema("observations")])
    written: dict[int, Path] = {}
    for shard in plan:  # a scan reads the footers of its files, no more
        for part in shard.splits:
            file = tmp_path / f"data/observations/rho2-1.0/{part.split}/{shard.name}.parquet"
            file.unlink(missing_ok=True)
            rows = (part.stop - part.start) * (len(TIMES) + 1)
            if rows in written:
                file.hardlink_to(written[rows])
            else:
                nothing = [pa.nulls(rows, field.type) for field in schema]
                pq.write_table(pa.Table.from_arrays(nothing, schema=schema), file)
                written[rows] = file
    read: list[str] = []
    plain = type(published).read_bytes
    monkeypatch.setattr(type(published), "read_bytes", lambda root, path: read.append(path) or plain(root, path))
    dataset = open_dataset(published)
    scan = dataset.scan("observations", 1.0)
    assert read == ["dataset.json"]
    assert len(dataset) == 1_100_000
    assert len(scan.files) == 1075 + 1  # the shard where the splits meet has two files


def test_arrays_of_a_view_are_its_subjects(dataset: Dataset) -> None:
    data, view = arrays(), dataset.view("test", 0.0526)
    assert view.ids.tolist() == list(range(15, 22))
    np.testing.assert_array_equal(view.images[2:4], data.images[17:19])
    np.testing.assert_array_equal(view.latents, data.latents[15:])
    np.testing.assert_array_equal(view.linked_eta, data.eta[15:])
    np.testing.assert_array_equal(view.used_eta[1:], data.used[0.0526][16:])
    np.testing.assert_array_equal(view.outcomes, data.dv[0.0526][15:].astype(np.float32))
    assert view[6].id == 21
    everyone = dataset.view(level=1.0)
    np.testing.assert_array_equal(everyone.outcomes[3:20], data.dv[1.0][3:20].astype(np.float32))
    for beyond in (lambda: view.linked_eta[7], lambda: view[7]):
        with pytest.raises(IndexError):
            beyond()


def test_rows_of_any_ids_in_any_order(dataset: Dataset) -> None:
    data = arrays()
    for ids in ([21, 0, 8, 7, 8, 3], [], [5]):
        np.testing.assert_array_equal(dataset.images[ids], data.images[ids])
        np.testing.assert_array_equal(dataset.latents[ids], data.latents[ids])


def test_an_id_that_is_no_integer_reads_nothing(dataset: Dataset) -> None:
    for ids in ([0.5], [1.0, 2.0], np.array([True, False]), ["1"]):
        for rows in (dataset.images, dataset.latents):
            with pytest.raises(TypeError, match="ids must be integers"):
                rows[ids]
    for rows in (dataset.images, dataset.latents, dataset.linked_eta):
        with pytest.raises(TypeError):
            rows[0.0:2.5]
    with pytest.raises(TypeError):
        dataset.subject(0.5)
    assert dataset.images[np.array([3], np.uint8)].shape == (1, 8, 8)


def test_data_frames_hold_the_tables(dataset: Dataset) -> None:
    view, data = dataset.view("train", 1.0), arrays()
    frame = view.table("observations", columns=["id", "time", "dv", "evid"]).to_pandas()
    assert list(frame.columns) == ["id", "time", "dv", "evid"]
    np.testing.assert_array_equal(frame.query("evid == 0 and id == 4")["dv"], data.dv[1.0][4].astype(np.float32))
    lazy = view.to_polars("observations").filter((pl.col("id") == 4) & (pl.col("evid") == 0)).select("dv")
    np.testing.assert_array_equal(lazy.collect()["dv"], data.dv[1.0][4].astype(np.float32))
    assert view.to_polars("subjects").collect().height == 12
    assert dataset.view().table("subjects").num_rows == 22


def test_xarray_is_lazy_and_knows_the_ids(dataset: Dataset) -> None:
    arrays_ = dataset.view("validation").to_xarray()
    assert dict(arrays_.sizes) == {"subject": 3, "y": 8, "x": 8, "latent": 6}
    assert arrays_.image.dtype == np.uint8
    assert not arrays_.image.variable._in_memory
    np.testing.assert_array_equal(arrays_.sel(subject=13).image, arrays().images[13])
    np.testing.assert_array_equal(arrays_.latent[1:], arrays().latents[13:15])


def test_reading_imports_nothing_of_the_pipeline() -> None:
    heavy = ("torch", "scipy", "prefect", "yaml", "pandas", "polars", "xarray", "zarr", "numba")
    code = f"import sys, image_longitudinal.storage.dataset.reader; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_zarr_metadata_that_differs_from_the_manifest_is_not_given_to_xarray(published: Root) -> None:
    """Another shape would make memory for it, another codec may be a package."""
    path = Path(published.join("images.zarr/image/zarr.json"))
    good = json.loads(path.read_text(encoding="utf-8"))
    huge, codec = copy.deepcopy(good), copy.deepcopy(good)
    huge["shape"][1] = huge["chunk_grid"]["configuration"]["chunk_shape"][1] = 10**9
    codec["codecs"][0]["configuration"]["codecs"][1]["name"] = "numcodecs.pickle"
    for changed, what in ((huge, "shape"), (codec, "codec of its chunks")):
        path.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(StorageError, match=f"another {what} than the data set"):
            open_dataset(published).view().to_xarray()
    path.write_text(json.dumps(good), encoding="utf-8")
    assert open_dataset(published).view().to_xarray()["image"].shape == (22, 8, 8)
