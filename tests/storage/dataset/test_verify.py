"""Verification names every damaged, missing and unexpected file, and the shards to regenerate."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset import manifest as manifests
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord, Root
from tests.storage.conftest import LEVELS, PLAN, arrays, digests, write_dataset, write_shard

SUBJECTS = layout.table_path("subjects", 0, "train")
EFFECTS, WEAK_EFFECTS = (layout.table_path("random_effects", 0, "train", level) for level in LEVELS)
OBSERVATIONS = layout.table_path("observations", 0, "train", 1.0)


def flip(root: Root, path: str, position: int) -> None:
    data = bytearray(root.read_bytes(path))
    data[position % len(data)] ^= 1
    root.write_bytes(path, bytes(data))


def forge(root: Root, index: int, path: str, record: FileRecord) -> None:
    """Make manifests agree with a file that is wrong: only reading it can tell."""
    shard = manifests.read_shard_manifest(root, index)
    assert shard is not None
    files = tuple(record if file.path == path else file for file in shard.files)
    parts = {"all": manifests.Part(key=digest_of(0), files=files)}
    entry = manifests.write_shard_manifest(root, shard.model_copy(update={"parts": parts}))
    manifest = manifests.read_root_manifest(root)
    shards = tuple(entry if file.path == entry.path else file for file in manifest.shards)
    manifests.write_root_manifest(root, manifest.model_copy(update={"shards": shards}))


def rewrite(root: Root, path: str, change: Callable[[pa.Table], pa.Table], index: int = 0) -> None:
    """Replace a table of shard ``index`` by a changed one."""
    table, sink = change(pq.ParquetFile(root.join(path)).read()), pa.BufferOutputStream()
    pq.write_table(table, sink)
    forge(root, index, path, root.write_bytes(path, memoryview(sink.getvalue()), rows=table.num_rows))


def with_column(name: str, values: list[object]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field(name)
        return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))

    return change


def test_an_intact_data_set_has_no_problems_and_reports_progress(published: Root) -> None:
    seen: list[tuple[int, int]] = []
    report = verify_dataset(published, progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert report.bad_shards == ()
    assert (report.subjects, report.files) == (22, len(published.files()))
    sizes = {path: published.size(path) or 0 for path in published.files()}
    assert report.bytes + sizes["dataset.json"] == sum(sizes.values())
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert "all as recorded" in str(report)


def test_a_flipped_bit_anywhere_is_found_and_named(published: Root) -> None:
    """In every file twice, and in 80 more places chosen evenly among all bytes."""
    rng, paths = random.Random(200), published.files()
    weights = [published.size(path) or 0 for path in paths]
    for path in [*paths, *paths, *rng.choices(paths, weights, k=80)]:
        file = Path(published.join(path))
        good = file.read_bytes()
        damaged = bytearray(good)
        damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        if path == "dataset.json":
            with pytest.raises(StorageError, match=r"dataset\.json"):
                verify_dataset(published)
        else:
            report = verify_dataset(published)
            (problem,) = report.problems
            assert problem.path == path
            assert problem.expected
            assert problem.got
            assert report.bad_shards == (() if problem.shard is None else (problem.shard,))
            assert (problem.shard is None) == (path.startswith(("README", "croissant", ".run")) or "zarr.json" in path)
        file.write_bytes(good)


@pytest.mark.parametrize("workers", [1, 4])
def test_truncated_missing_and_unexpected_files_are_told_apart(published: Root, workers: int) -> None:
    image, subjects = layout.image_shard_path(1), layout.table_path("subjects", 2, "test")
    published.remove("shards/00000.json")
    published.write_bytes(image, published.read_bytes(image)[:-7])
    published.remove(subjects)
    published.write_bytes("observations/association=1.0/train/00077.parquet", b"left by a larger data set")
    report = verify_dataset(published, workers=workers)
    assert [(problem.path, problem.what, problem.shard) for problem in report.problems] == [
        ("shards/00000.json", "missing", 0),
        (image, "wrong size", 1),
        (subjects, "missing", 2),
        ("observations/association=1.0/train/00077.parquet", "unexpected file", None),
    ]
    assert report.bad_shards == (0, 1, 2)
    assert f"{image} (shard 1): wrong size; expected" in str(report)


def test_regenerating_the_bad_shards_mends_the_data_set(published: Root) -> None:
    before = digests(published)
    flip(published, layout.table_path("observations", 0, "train", 0.0526), 100)
    flip(published, layout.shard_manifest_path(2), 30)
    published.remove(layout.latent_shard_path(2))
    bad = verify_dataset(published).bad_shards
    assert bad == (0, 2)
    for index in bad:
        write_shard(published, PLAN.shard(index), arrays())
    assert digests(published) == before
    published.write_bytes("subjects/.part-00000.parquet.01ab23cd.tmp", b"")
    assert verify_dataset(published).ok, "temporaries of killed runs are no problem"


@pytest.mark.parametrize(
    ("path", "change", "what"),
    [
        (SUBJECTS, with_column("id", [*range(1, 9)]), "column id is wrong in 8 rows, first in row 0"),
        (SUBJECTS, with_column("image_index", [0, 1, 2, 3, 4, 5, 7, 6]), "column image_index is wrong"),
        (SUBJECTS, with_column("split", ["train"] * 7 + ["test"]), "column split is wrong in 1 rows"),
        (SUBJECTS, with_column("eta_2", [0.0] * 8), "random effects are not the image's"),
        (EFFECTS, with_column("eta_1", [0.0] * 8), "differ from the image's"),
        (EFFECTS, with_column("association", [0.5] * 8), "column association is wrong in 8 rows"),
        (WEAK_EFFECTS, with_column("Ka", [np.inf] * 8), "Ka holds numbers that are not finite"),
        (WEAK_EFFECTS, lambda table: table.drop_columns(["Ka"]), "wrong columns"),
        (WEAK_EFFECTS, lambda table: table.slice(0, 5), "wrong number of rows"),
        (OBSERVATIONS, with_column("association", [0.5] * 40), "column association is wrong"),
        (OBSERVATIONS, with_column("time", [0.0] * 40), "column time is wrong"),
        (OBSERVATIONS, with_column("dv", [1.0] * 40), "dv is not a finite number on exactly"),
    ],
)
def test_wrong_content_under_right_hashes_is_found(
    published: Root, path: str, change: Callable[[pa.Table], pa.Table], what: str
) -> None:
    rewrite(published, path, change)
    report = verify_dataset(published)
    assert report.problems[0].path == path
    assert what in report.problems[0].what
    assert report.bad_shards == (0,)


def test_a_published_data_set_can_be_verified_in_any_store() -> None:
    root = open_root("memory://verified")
    with pytest.raises(StorageError, match="no published data set here"):
        verify_dataset(root)
    write_dataset(root)
    assert verify_dataset(root).ok
    flip(root, layout.image_shard_path(2), 5)
    assert verify_dataset(root).bad_shards == (2,)
