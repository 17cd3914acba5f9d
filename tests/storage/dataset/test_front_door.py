"""What people type at a data set: subjects by number, tables as frames, SQL, predictions; what a notebook shows."""

import base64
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from image_longitudinal.core.errors import MissingExtraError, StorageError
from image_longitudinal.core.png import SIGNATURE
from image_longitudinal.storage.dataset.loaders import SubjectDataset, SubjectStream
from image_longitudinal.storage.dataset.manifest import read_root_manifest
from image_longitudinal.storage.dataset.predictions import read_predictions
from image_longitudinal.storage.dataset.reader import Dataset
from tests.storage.conftest import LEVELS, TIMES, arrays

DATA, TEST = arrays(), slice(15, 22)


def test_subjects_levels_and_times(dataset: Dataset) -> None:
    assert (dataset.times, dataset.levels) == (TIMES, LEVELS)
    assert dataset[17].id == 17
    assert [subject.id for subject in dataset] == list(range(22))


def test_linked_and_used_random_effects_have_names_of_their_own(dataset: Dataset) -> None:
    subject = dataset[17]
    np.testing.assert_array_equal(subject.linked_eta, DATA.eta[17])
    np.testing.assert_array_equal(subject.used_eta[0.0526], DATA.used[0.0526][17])
    assert not hasattr(subject, "eta")
    assert not hasattr(dataset, "eta")
    for name in ("eta", "effects"):
        with pytest.raises(StorageError, match=r"Choose: linked_eta are .* image, used_eta those behind the outcomes"):
            SubjectDataset(dataset, fields=(name,))


@pytest.mark.parametrize("given", ["3", 0.5, [1, 2], slice(0, 3), None])
def test_a_subject_that_is_no_number_is_explained(dataset: Dataset, given: object) -> None:
    for ask in (dataset.subject, dataset.__getitem__):
        with pytest.raises(TypeError, match=r"one whole number, such as data\[17\], not by .*data.images\[0:64\]"):
            ask(given)  # type: ignore[arg-type]


def test_tables_are_arrow_and_become_frames(dataset: Dataset) -> None:
    table = dataset.observations(level=0.0526, split="test", columns=["id", "dv"])
    assert (len(table), table.column_names, table.num_rows) == (35, ["id", "dv"], 35)
    assert repr(table) == "<35 rows: id int64, dv float>"
    assert "35 rows" in (table._repr_html_() or "")
    assert table["id"].to_pylist()[:2] == [15, 15]
    assert table.to_pandas().dv.isna().sum() == 7
    assert table.to_polars().select(pl.col("dv").is_null().sum()).item() == 7
    for other in (pa.table(table), pl.DataFrame(table).to_arrow()):
        assert other["id"].to_pylist() == table["id"].to_pylist()
    every = dataset.observations()
    assert (len(every), set(every["association"].to_pylist())) == (2 * 22 * 5, set(LEVELS))


def test_sql_is_that_of_the_tables(dataset: Dataset) -> None:
    means = dataset.sql("select time, avg(dv) as mean from observations where association = 0.0526 and evid = 0 "
                        "group by time order by time")  # fmt: skip
    assert means["time"].to_pylist() == list(TIMES)
    np.testing.assert_allclose(means["mean"], DATA.dv[0.0526].astype(np.float32).mean(0), rtol=1e-6)  # float32 sums
    joined = dataset.sql("SELECT s.eta_1 AS linked, r.eta_1 AS used FROM Subjects s JOIN random_effects r USING (id) "
                         "WHERE r.association = 0.0526 ORDER BY id").to_polars()  # fmt: skip
    np.testing.assert_array_equal(joined["linked"], DATA.eta[:, 0])
    np.testing.assert_array_equal(joined["used"], DATA.used[0.0526][:, 0])
    for wrong, message in (
        ("select * from outcomes", "the query failed.*from subjects, random_effects, observations"),
        ("selct 1", "the query failed"),
    ):
        with pytest.raises(StorageError, match=message):
            dataset.sql(wrong)


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("duckdb", lambda data: data.sql("select 1")),
        ("polars", lambda data: data.subjects().to_polars()),
        ("pandas", lambda data: data.subjects().to_pandas()),
        ("xarray", lambda data: data.to_xarray()),
        ("dask", lambda data: data.to_xarray()),
    ],
)
def test_a_tool_that_is_not_installed_names_the_extra(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, package: str, use: object
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'image-longitudinal\[analysis\]'"):
        use(dataset)  # type: ignore[operator]


def test_xarray_has_a_dask_chunk_for_each_shard_and_warns_of_nothing(dataset: Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = dataset.to_xarray()
        np.testing.assert_array_equal(opened.image.sel(subject=[3, 20]).to_numpy(), DATA.images[[3, 20]])
    assert opened.image.chunks[0] == opened.latent.chunks[0] == (8, 8, 6)
    np.testing.assert_array_equal(opened.latent[16:], DATA.latents[16:])


def test_torch_gives_batches_of_a_split(dataset: Dataset) -> None:
    loader = dataset.torch(split="test", level=1.0, fields=("id", "used_eta"), batch_size=7, shuffle=False)
    (batch,) = list(loader)
    np.testing.assert_array_equal(batch["used_eta"], DATA.used[1.0][TEST].astype(np.float32))


def test_a_stream_that_is_batched_again_is_explained(dataset: Dataset) -> None:
    stream = SubjectStream(dataset, batch_size=4)
    for workers in (0, 1):
        with pytest.raises(StorageError, match=r"cannot be batched again.*batch_size=None"):
            next(iter(DataLoader(stream, batch_size=2, num_workers=workers)))
    assert len(next(iter(DataLoader(stream, batch_size=None)))["id"]) == 4


def test_a_list_is_no_sample(dataset: Dataset) -> None:
    with pytest.raises(TypeError, match=r"one whole number, not by \[0, 1\].*DataLoader"):
        SubjectDataset(dataset)[[0, 1]]  # type: ignore[index]


def read(dataset: Dataset, path: Path) -> object:
    return read_predictions(path, ids=dataset.view("test").ids, levels=LEVELS, n_eta=2, times=TIMES)


def test_predictions_that_are_written_are_what_score_reads(dataset: Dataset, tmp_path: Path) -> None:
    by_level = {level: DATA.used[level][TEST] for level in LEVELS}
    found = read(dataset, dataset.write_predictions(tmp_path / "mine.parquet", used_eta=by_level))
    assert (found.kind, list(found.levels)) == ("effects", list(LEVELS))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found.levels[0.0526], by_level[0.0526])  # type: ignore[attr-defined]
    outcomes = {1.0: DATA.dv[1.0][TEST]}
    path = dataset.write_predictions(tmp_path / "mine.parquet", outcomes=outcomes, overwrite=True)
    np.testing.assert_array_equal(read(dataset, path).levels[1.0], outcomes[1.0])  # type: ignore[attr-defined]


def test_predictions_that_do_not_fit_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    good, path = DATA.used[1.0][TEST], tmp_path / "mine.parquet"
    for given, message in (
        ({}, "exactly one kind of predictions: this data set has no arms; got none"),
        ({"used_eta": {1.0: good}, "outcomes": {1.0: good}}, "exactly one kind.*got effects, outcomes"),
        ({"policy": {1.0: good[:, 0]}}, "has no arms"),
        ({"used_eta": {0.5: good}}, r"no such association level.*1\.0, 0\.0526; got 0\.5"),
        (
            {"used_eta": {1.0: DATA.used[1.0]}},
            r"another shape \(association 1\); expected shape \(7, 2\).*got \(22, 2\)",
        ),
        ({"used_eta": {1.0: np.where(np.arange(7)[:, None] == 2, np.nan, good)}}, "not finite.*row 2, id 17"),
        ({"used_eta": {}}, "predictions without a level"),
    ):
        with pytest.raises(StorageError, match=message):
            dataset.write_predictions(path, **given)  # type: ignore[arg-type]
    assert not path.exists()
    dataset.write_predictions(path, used_eta={1.0: good})
    with pytest.raises(StorageError, match="exists already"):
        dataset.write_predictions(path, used_eta={1.0: good})


def test_what_a_notebook_shows_is_short_has_pictures_and_no_foreign_markup(dataset: Dataset) -> None:
    assert len(repr(dataset[3])) < 200
    assert "Subject(3, train, image 8x8" in repr(dataset[3])
    hostile = read_root_manifest(dataset.root).model_copy(update={"random_effects": ("<script>", "Imax")})
    page = Dataset(dataset.root, hostile)._repr_html_()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 8
    assert all(base64.b64decode(one).startswith(SIGNATURE) for one in pictures)
    assert "<script" not in page
    assert "12 train" in page
    subject = dataset[3]._repr_html_()
    assert subject.count("<polyline") == len(LEVELS)
    assert all(name in subject for name in ("linked_eta", "used_eta at 0.0526", 'alt="image of subject 3"'))
    assert len(subject) < 10_000
