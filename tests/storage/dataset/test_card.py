"""The data card says what the manifest says, and what it tells readers to type works."""

import json
import re
from fnmatch import fnmatch

import duckdb
import pytest
import yaml

from image_longitudinal.storage.dataset.card import write_card
from image_longitudinal.storage.dataset.layout import TABLES
from image_longitudinal.storage.dataset.manifest import read_root_manifest
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.io.root import Root


def test_the_snippets_of_the_card_run(published: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published.url)
    card = published.read_bytes("README.md").decode()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, names)
    assert len(snippets) == 4
    dataset = open_dataset(published)
    assert names["observations"].num_rows == 22 * 5  # type: ignore[attr-defined]
    assert len(names["subjects"]) == 12  # type: ignore[arg-type]
    assert names["mean"].height == 2 * 4  # type: ignore[attr-defined]
    assert (names["first"] == dataset.images[0]).all()  # type: ignore[union-attr, attr-defined]
    (query,) = re.findall(r"```sql\n(.*?)```", card, re.DOTALL)
    assert duckdb.sql(query).fetchall()[0][:2] == (0.0526, 0.0)


def test_the_card_names_files_that_exist_every_column_and_the_paper(published: Root) -> None:
    front = yaml.safe_load(published.read_bytes("README.md").decode().split("---")[1])
    assert (front["license"], front["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    patterns = [data["path"] for config in front["configs"] for data in config["data_files"]]
    tables = [path for path in published.files() if path.endswith(".parquet")]
    assert all(any(fnmatch(path, pattern) for path in tables) for pattern in patterns)
    assert all(any(fnmatch(path, pattern) for pattern in patterns) for path in tables)
    card, dataset = published.read_bytes("README.md").decode(), open_dataset(published)
    assert all(f"| `{name}` |" in card for table in TABLES for name in dataset.schema(table).names)
    assert "2410.16177" in card
    assert "Seed 7" in card


def test_croissant_describes_every_table_and_its_files(published: Root) -> None:
    croissant = json.loads(published.read_bytes("croissant.json"))
    assert croissant["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert croissant["datePublished"] == "2026-01-02"
    dataset = open_dataset(published)
    fields = {r["@id"]: [field["name"] for field in r["field"]] for r in croissant["recordSet"]}
    assert fields == {table: dataset.schema(table).names for table in TABLES}
    identifiers = {files["@id"] for files in croissant["distribution"]}
    assert {f["source"]["fileSet"]["@id"] for r in croissant["recordSet"] for f in r["field"]} <= identifiers


def test_croissant_is_valid_and_reads_the_tables(published: Root) -> None:
    croissant = pytest.importorskip("mlcroissant").Dataset(jsonld=published.join("croissant.json"))
    assert not croissant.metadata.issues.errors
    assert not croissant.metadata.issues.warnings
    records = list(croissant.records("subjects"))
    assert sorted(record["subjects/id"] for record in records) == list(range(22))


def test_a_picture_is_shown_and_recorded(published: Root) -> None:
    manifest = read_root_manifest(published)
    records = write_card(published, manifest, examples=b"a picture")
    assert [record.path for record in records] == ["README.md", "croissant.json", "examples.png"]
    assert "](examples.png)" in published.read_bytes("README.md").decode()
    assert published.read_bytes("examples.png") == b"a picture"
