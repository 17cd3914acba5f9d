"""Manifests: what is done, what is published, and whose data set a folder holds."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from image_longitudinal.core.digest import digest_of, sealed_json
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.storage.dataset import manifest as manifests
from image_longitudinal.storage.dataset.manifest import part_is_intact, read_root_manifest, read_shard_manifest
from image_longitudinal.storage.dataset.run_claim import begin_run, check_same_dataset
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import IDENTITY, write_dataset

OTHER = digest_of("another data set")


def test_a_shard_manifest_is_read_back_and_written_with_the_same_bytes(published: Root) -> None:
    manifest = read_shard_manifest(published, 1)
    assert manifest is not None
    assert (manifest.index, manifest.start, manifest.stop) == (1, 8, 16)
    assert set(manifest.parts) == {"image", "outcomes"}
    assert all(published.size(file.path) == file.bytes for file in manifest.files)
    assert read_shard_manifest(published, 99) is None
    before = published.read_bytes("shards/00001.json")
    manifests.write_shard_manifest(published, manifest)
    assert published.read_bytes("shards/00001.json") == before


def test_a_truncated_or_changed_manifest_is_damaged(published: Root) -> None:
    for path in ("shards/00000.json", "dataset.json"):
        good, file = published.read_bytes(path), Path(published.join(path))
        flipped = [good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :] for i in range(0, len(good), 9)]
        for bad in (b"", good[:1], good[:200], *flipped):
            file.write_bytes(bad)
            with pytest.raises(StorageError, match=path):
                read_root_manifest(published) if path == "dataset.json" else read_shard_manifest(published, 0)
        file.write_bytes(good)


def test_a_manifest_under_another_shards_name_or_with_unknown_keys_is_refused(published: Root) -> None:
    published.write_bytes("shards/00000.json", published.read_bytes("shards/00001.json"))
    with pytest.raises(StorageError, match="wrong place"):
        read_shard_manifest(published, 0)
    with pytest.raises(ValidationError, match="surprise"):
        manifests.ShardManifest.model_validate({"index": 0, "start": 0, "stop": 1, "parts": {}, "surprise": 1})


def test_publishing_is_the_last_step(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="no published data set here"):
        read_root_manifest(root)
    assert begin_run(root, IDENTITY, {}) == "new"
    assert not manifests.is_published(root)
    written = []
    put = LocalRoot._write
    monkeypatch.setattr(LocalRoot, "_write", lambda self, path, pieces: (written.append(path), put(self, path, pieces)))
    manifest = write_dataset(root)
    assert written[-1] == "dataset.json"
    assert read_root_manifest(root) == manifest
    assert root.exists(".run.json")


def test_another_layout_version_is_refused_and_one_from_before_a_field_was_added_read(published: Root) -> None:
    content = json.loads(published.read_bytes("dataset.json"))
    del content["content_sha256"]
    newer = content | {"layout_version": 3, "new_field": "from the future"}
    published.write_bytes("dataset.json", sealed_json(newer).encode())
    with pytest.raises(StorageError, match=r"layout of this data set is unknown .*version 1 to 2; got 3"):
        read_root_manifest(published)
    del content["units"]  # a field with a default, as new ones have
    published.write_bytes("dataset.json", sealed_json(content).encode())
    assert read_root_manifest(published).units["time"] == "h"


def test_a_run_recognises_its_own_root_and_refuses_others(root: Root) -> None:
    assert check_same_dataset(root, IDENTITY) == "new"
    assert root.files() == [], "checking writes nothing"
    assert begin_run(root, IDENTITY, {"seed": 1}) == "new"
    assert begin_run(root, IDENTITY, {"seed": 1}) == "unfinished"
    with pytest.raises(StorageError, match="different data set"):
        begin_run(root, OTHER, {})
    write_dataset(root)
    assert begin_run(root, IDENTITY, {}) == "published"
    with pytest.raises(StorageError, match="different data set"):
        check_same_dataset(root, OTHER)


def test_unrelated_files_are_refused_but_temporaries_are_not(root: Root) -> None:
    root.write_bytes(".x.parquet.0123abcd.tmp", b"left by a killed run")
    assert check_same_dataset(root, IDENTITY) == "new"
    (Path(root.url) / "lost+found").mkdir()
    assert check_same_dataset(root, IDENTITY) == "new", "an empty folder is no data"
    root.write_bytes("holiday.jpg", b"")
    with pytest.raises(StorageError, match=r"already holds other files .*got holiday\.jpg"):
        check_same_dataset(root, IDENTITY)


def test_a_part_is_intact_until_a_file_changes(root: Root) -> None:
    part = manifests.Part(key=digest_of(1), files=(root.write_bytes("a", b"one"), root.write_bytes("b", b"two")))
    assert part_is_intact(root, part, rehash=True)
    root.write_bytes("b", b"tvo")
    assert part_is_intact(root, part, rehash=False), "same size: only rehashing tells"
    assert not part_is_intact(root, part, rehash=True)
    root.write_bytes("b", b"three")
    assert not part_is_intact(root, part, rehash=False)
    root.remove("b")
    assert not part_is_intact(root, part, rehash=False)


@given(st.integers(1, 10**9), st.integers(1, 10**5), st.floats(0, 0.49), st.floats(0, 0.49))
def test_the_plan_is_recovered_from_the_counts(n: int, size: int, validation: float, test: float) -> None:
    plan = ShardPlan(n, size, validation, test)
    if plan.split_counts["train"]:
        manifest = manifests.RootManifest.model_construct(n_subjects=n, shard_size=size, splits=plan.split_counts)
        assert manifest.plan.split_counts == plan.split_counts


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "../../outside"}, "name"), ({"name": "\x1b[2J"}, "name"), ({"identity": "../../x"}, "identity"),
        ({"licence": "CC\nname: other"}, "licence"), ({"random_effects": ["<Ka>\x07", "Imax"]}, "random_effects"),
        ({"splits": {"train": 22, "../up": 0}}, "splits"), ({"n_subjects": 10**18}, "n_subjects"),
        ({"n_subjects": 10**4}, "splits that add up"),
        ({"shard_size": 1, "n_subjects": 10**9}, "at most 200,000 shards"), ({"levels": []}, "levels"),
        ({"times": []}, "times"), ({"eta_latents": [4, 99]}, "latent dimensions of the image"),
        ({"config": {"outcomes": [1]}}, "numbers that describe the visits"),
        ({"files": [{"path": ".run.lock", "sha256": "0" * 64, "bytes": 1}]}, "files of the data set"),
        ({"files": [{"path": "../x", "sha256": "0" * 64, "bytes": 1}]}, "files.0.path"),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_manifest_of_others_is_checked_where_it_is_parsed(
    published: Root, change: dict[str, object], field: str
) -> None:
    """Its digest is right: whoever makes a data set computes it."""
    content = json.loads(published.read_bytes("dataset.json")) | change
    del content["content_sha256"]
    content["content_sha256"] = digest_of(content)
    published.write_bytes("dataset.json", (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    with pytest.raises(StorageError, match=f"a manifest is damaged .*{field}") as caught:
        read_root_manifest(published)
    assert str(caught.value).isprintable()


def test_a_manifest_of_any_size_is_not_read(published: Root) -> None:
    path = Path(published.join("dataset.json"))
    with path.open("r+b") as file:
        file.truncate(10**12)  # takes no space on disk
    with pytest.raises(StorageError, match="a document is larger than one can be"):
        read_root_manifest(published)
