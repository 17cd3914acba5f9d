"""Names and columns of layout version 2: a contract with readers, so the tests spell them out."""

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_longitudinal.storage.dataset import layout

levels = st.floats(0, 1, exclude_min=True)


def test_paths_are_those_of_the_contract() -> None:
    assert layout.image_shard_path(3) == "images.zarr/image/c/3/0/0"
    assert layout.latent_shard_path(3) == "images.zarr/latent/c/3/0"
    assert layout.shard_manifest_path(3) == "shards/00003.json"
    assert layout.table_path("subjects", 0, "train") == "subjects/train/00000.parquet"
    assert layout.table_path("random_effects", 12, "test", 0.5) == "random_effects/rho2-0.5/test/00012.parquet"
    assert layout.table_path("observations", 1, "train", 0.0526) == "observations/rho2-0.0526/train/00001.parquet"


def test_version_1_is_another_name_of_the_same_files() -> None:
    old = layout.path_in_version_1
    assert old("subjects/train/00000.parquet") == "subjects/split=train/part-00000.parquet"
    level = "observations/association=0.5/split=test/part-00012.parquet"
    assert old("observations/rho2-0.5/test/00012.parquet") == level
    assert old(layout.image_shard_path(3)) == layout.image_shard_path(3)


@pytest.mark.parametrize("text", ["1.0", "0.5", "0.1", "0.0526", "0.02"])
def test_a_level_is_named_as_it_is_written(text: str) -> None:
    assert layout.level_name(float(text)) == text
    assert layout.level_name(1) == "1.0"


@given(levels, levels, st.integers(0, 99_999), st.integers(0, 99_999), st.sampled_from(["train", "test"]))
def test_different_levels_and_shards_never_share_a_file(a: float, b: float, i: int, j: int, split: str) -> None:
    same = layout.table_path("observations", i, split, a) == layout.table_path("observations", j, split, b)
    assert same == ((a, i) == (b, j))
    assert float(re.search(r"rho2-([^/]+)", layout.table_path("observations", i, split, a))[1]) == a  # type: ignore[index]


def test_columns_are_those_of_the_contract() -> None:
    i8, i32, i64, f32, f64, text = pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string()
    subjects = layout.table_columns("subjects", 2)
    assert subjects.names == ["id", "image_index", "split", "shard", "seed", "eta_1", "eta_2"]
    assert subjects.types == [i64, i64, text, i32, i64, f64, f64]
    effects = layout.table_columns("random_effects", 2, ["Ka", "IC50"])
    assert effects.names == ["id", "association", "split", "eta_1", "eta_2", "Ka", "IC50"]
    observations = layout.table_columns("observations", 2)
    names = ["id", "time", "evid", "amt", "cmt", "dv", "mdv", "association", "split"]
    assert (observations.names, observations.types) == (names, [i64, f64, i8, f64, i8, f32, i8, f64, text])


def test_every_column_says_its_unit_and_every_table_its_layout() -> None:
    schemas = (
        layout.table_columns("subjects", 3, licence="CC0-1.0"),
        layout.table_columns("random_effects", 1, ["V"], {"V": "L"}, licence="CC0-1.0"),
        layout.table_columns("observations", 3, (), {"time": "day"}, licence="CC0-1.0"),
    )
    for schema in schemas:
        assert schema.metadata[b"layout_version"] == b"2"
        assert schema.metadata[b"licence"] == b"CC0-1.0"
        assert all(layout.unit_of(field) and layout.description_of(field) for field in schema)
    assert layout.unit_of(schemas[1].field("V")) == "L"
    assert layout.unit_of(schemas[2].field("time")) == "day"
