"""A root manifest that was changed, under a digest that was computed again, contradicts its own data set."""

import json
from pathlib import Path
from typing import Any

import pytest

from image_longitudinal.core.digest import digest_of, sealed_json
from image_longitudinal.core.errors import ImageLongitudinalError
from image_longitudinal.storage.dataset.consistency import contradictions
from image_longitudinal.storage.dataset.manifest import read_root_manifest
from image_longitudinal.storage.dataset.transfer import Selection, copy_dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from tests.edits import changed, edits

DERIVED = {"random_effects", "image"}  # these follow from the models: tests.tasks.shards.test_provenance
SAID_ONCE = {"versions"}


def passes(root: Root, content: dict[str, Any]) -> bool:
    """Whether nothing is noticed of a root manifest; the files are read only if its statements agree."""
    root.write_bytes("dataset.json", sealed_json(content).encode())
    try:
        return not any(contradictions(root, read_root_manifest(root))) and verify_dataset(root).ok
    except ImageLongitudinalError:
        return False


@pytest.mark.parametrize("part", [None, Selection(shards=(0, 1), levels=(1.0,))])
def test_every_changed_statement_is_noticed(published: Root, tmp_path: Path, part: Selection | None) -> None:
    store = open_root(tmp_path / "copy")
    manifest = copy_dataset(published, store, part or Selection())
    content = json.loads(store.read_bytes("dataset.json"))
    del content["content_sha256"]
    missed = set()
    for place, value in edits(content):
        if passes(store, changed(content, place, value)) and read_root_manifest(store) != manifest:
            missed.add(place)
        if place[0] == "config":  # the digest of the configuration computed again too
            both = changed(content, place, value)
            both["config_digest"] = digest_of(both["config"])
            assert not passes(store, both), place
    unnoticed = {place for place in missed if place[0] not in DERIVED | SAID_ONCE}
    assert unnoticed == (set() if part is None else {("part_of", "manifest")})
    assert passes(store, content)


def test_the_problem_names_the_statement(published: Root) -> None:
    content = json.loads(published.read_bytes("dataset.json"))
    del content["content_sha256"]
    published.write_bytes("dataset.json", sealed_json(content | {"licence": "CC0-1.0"}).encode())
    problems = {str(problem) for problem in verify_dataset(published).problems}
    assert "dataset.json: contradicts licence of the configuration; expected CC-BY-4.0; got CC0-1.0" in problems, (
        problems
    )
