"""Publishing and fetching: a copy is the same bytes or is not there, and a part is a data set in itself."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.core.errors import DamagedError, StorageError
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset import manifest as manifests
from image_longitudinal.storage.dataset.manifest import is_published, read_root_manifest, write_root_manifest
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.transfer import Copied, Selection, copy_dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import arrays, digests, exit_status, in_child, write_dataset


def test_a_copy_is_the_same_bytes_and_copying_again_moves_none(published: Root, store: Root) -> None:
    steps: list[Copied] = []
    copy_dataset(published, store, progress=steps.append)
    assert digests(store) == digests(published)
    assert [(step.shards, step.of, step.kept) for step in steps] == [(1, 3, 0), (2, 3, 0), (3, 3, 0)]
    data = sum(file.bytes for i in range(3) for file in manifests.read_shard_manifest(published, i).files)  # type: ignore[union-attr]
    assert steps[-1].bytes == data
    everything = Selection(("test", "validation", "train"), (0.0526, 1.0), (0, 1, 2))
    copy_dataset(published, store, everything, progress=steps.append)
    assert steps[-1] == Copied(3, 3, 3, 0)


def test_files_lost_from_a_copy_are_brought_back(published: Root, store: Root) -> None:
    copy_dataset(published, store)
    for path in (layout.latent_shard_path(1), layout.shard_manifest_path(2), "README.md"):
        store.remove(path)
    steps: list[Copied] = []
    copy_dataset(published, store, progress=steps.append)
    assert digests(store) == digests(published)
    assert (steps[-1].kept, steps[-1].bytes) == (1, published.size(layout.latent_shard_path(1)))


@pytest.mark.parametrize("published_before", [True, False])
def test_damage_of_the_same_size_in_a_copy_is_mended(published: Root, store: Root, published_before: bool) -> None:
    copy_dataset(published, store)
    whole, damaged = digests(published), [path for path in store.files() if path != "dataset.json" or published_before]
    if not published_before:
        store.remove("dataset.json")
    for path in damaged:
        content = bytearray(store.read_bytes(path))
        content[len(content) // 2] ^= 4
        store.write_bytes(path, bytes(content))
        copy_dataset(published, store)
        assert digests(store) == whole, path
        if not published_before:
            store.remove("dataset.json")


def test_a_copy_that_lost_both_documents_is_recognised_by_its_shards(published: Root, store: Root) -> None:
    copy_dataset(published, store)
    for path in ("dataset.json", ".run.json"):
        store.write_bytes(path, b"torn")
    copy_dataset(published, store)
    assert digests(store) == digests(published)
    for path in ("dataset.json", ".run.json"):
        store.write_bytes(path, b"torn")
    with pytest.raises(DamagedError, match="which data set is here are damaged"):
        copy_dataset(published, store, Selection(splits=("test",)))


def test_a_copy_stopped_at_any_file_continues(published: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, put = digests(published), LocalRoot._write
    for survived in range(0, len(whole), 4):
        target, left = open_root(tmp_path / f"copy{survived}"), iter(range(survived))

        def write(self: LocalRoot, path: str, pieces: object, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise StorageError("the store is gone", where=path)
            put(self, path, pieces)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(LocalRoot, "_write", write)
            with pytest.raises(StorageError, match="the store is gone"):
                copy_dataset(published, target, workers=1)
        assert not is_published(target)
        assert digests(target).items() <= whole.items()
        copy_dataset(published, target)
        assert digests(target) == whole


@pytest.mark.parametrize("survived", [3, 30])
def test_killed_in_the_middle_of_a_file_it_continues(published: Root, tmp_path: Path, survived: int) -> None:
    target, put, left = LocalRoot(tmp_path / "copy"), LocalRoot._write, iter(range(survived))

    def dying(self: LocalRoot, path: str, pieces: Iterable[bytes]) -> None:
        put(self, path, (piece if next(left, None) is not None else os._exit(9) for piece in pieces))

    def copy() -> None:
        LocalRoot._write = dying  # type: ignore[method-assign, assignment]
        copy_dataset(published, target, workers=1)

    assert exit_status(in_child(copy)) == 9
    assert any(path.endswith(".tmp") for path in target.files())
    copy_dataset(published, target)
    assert digests(target) == digests(published)


@pytest.mark.parametrize("path", [layout.image_shard_path(1), layout.shard_manifest_path(1), "README.md"])
def test_a_damaged_source_is_named_and_not_copied(published: Root, store: Root, path: str) -> None:
    data = bytearray(published.read_bytes(path))
    data[len(data) // 2] ^= 4
    Path(published.join(path)).write_bytes(data)
    with pytest.raises(StorageError, match=rf"{path}\).*verify .* --repair"):
        copy_dataset(published, store)
    assert not store.exists(path)
    assert not is_published(store)


def test_a_target_that_holds_something_else_is_refused(published: Root, store: Root) -> None:
    store.write_bytes(".gitattributes", b"what the Hugging Face hub puts into every repository")
    store.write_bytes("thesis.txt", b"years of work")
    with pytest.raises(StorageError, match=r"already holds other files.*thesis\.txt"):
        copy_dataset(published, store)
    store.remove("thesis.txt")
    copy_dataset(published, store, Selection(splits=("test",)))
    with pytest.raises(StorageError, match="different data set"):
        copy_dataset(published, store)
    with pytest.raises(StorageError, match="no published data set here"):
        copy_dataset(open_root("memory://nothing"), store)


@pytest.mark.parametrize(
    ("selection", "ids"),
    [
        (Selection(splits=("test",)), range(15, 22)),
        (Selection(splits=("train", "test"), levels=(0.0526,)), [*range(12), *range(15, 22)]),
        (Selection(shards=(0, 2)), [*range(8), *range(16, 22)]),
        (Selection(shards=(1,), splits=("validation",), levels=(1.0,)), range(12, 15)),
        (Selection(levels=(1.0,)), range(22)),
    ],
)
def test_a_part_is_a_data_set_in_itself(published: Root, store: Root, selection: Selection, ids: list[int]) -> None:
    manifest = copy_dataset(published, store, selection)
    assert read_root_manifest(store) == manifest
    report = verify_dataset(store)
    assert report.ok, str(report)
    part, data = open_dataset(store), arrays()
    assert len(part) == manifest.n_subjects == len(ids)
    assert sorted(part.subjects()["id"].to_pylist()) == list(ids)
    assert part.levels == (selection.levels or (1.0, 0.0526))
    for subject_id in range(22):
        if subject_id not in ids:
            with pytest.raises(IndexError, match="not in this part"):
                part.subject(subject_id)
            continue
        subject = part.subject(subject_id)
        np.testing.assert_array_equal(subject.image, data.images[subject_id])
        np.testing.assert_array_equal(subject.latent, data.latents[subject_id])
        assert set(subject.observations) == set(part.levels)
    whole = read_root_manifest(published)
    assert manifest.part_of is not None
    assert (manifest.part_of.identity, manifest.part_of.n_subjects) == (whole.identity, 22)
    assert "**A part** of the data set" in store.read_bytes("README.md").decode()
    before = digests(store)
    copy_dataset(published, store, selection)
    assert digests(store) == before


def test_a_part_refuses_the_images_it_does_not_hold(published: Root, store: Root) -> None:
    copy_dataset(published, store, Selection(shards=(0, 2)))
    part = open_dataset(store)
    np.testing.assert_array_equal(part.images[16:22], arrays().images[16:])
    for rows in (part.images, part.latents):
        with pytest.raises(StorageError, match=r"no such images; expected images of shards 0, 2, 8 each; got shard 1"):
            rows[6:18]


def test_a_part_of_a_part_is_that_part_of_the_whole(published: Root, tmp_path: Path) -> None:
    first, second, straight = (open_root(tmp_path / name) for name in ("first", "second", "straight"))
    copy_dataset(published, first, Selection(shards=(0, 1)))
    copy_dataset(first, second, Selection(levels=(1.0,), splits=("train",)))
    copy_dataset(published, straight, Selection(shards=(0, 1), levels=(1.0,), splits=("train",)))
    assert digests(second) == digests(straight)
    copied = open_root(tmp_path / "copied")
    copy_dataset(first, copied)
    assert digests(copied) == digests(first)


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Selection(splits=("dev",)), "no such split.*one of train, validation, test; got dev"),
        (Selection(levels=(0.5,)), r"no such association level.*one of 1\.0, 0\.0526; got 0\.5"),
        (Selection(shards=(0, 3)), "no such shard.*one of 0-2; got 3"),
        (Selection(shards=(0,), splits=("test",)), "nothing of the data set is selected"),
    ],
)
def test_what_is_not_there_cannot_be_chosen(published: Root, store: Root, selection: Selection, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        copy_dataset(published, store, selection)
    assert store.files() == []


def test_a_target_of_another_run_or_version_is_refused(published: Root, store: Root, tmp_path: Path) -> None:
    with hold_lease(store), pytest.raises(StorageError, match="another run"):
        copy_dataset(published, store)
    copy_dataset(published, store)
    other = open_root(tmp_path / "other")
    manifest = write_dataset(other)
    write_root_manifest(other, manifest.model_copy(update={"versions": {"zarr": "4"}}))
    with pytest.raises(StorageError, match="another version of this data set"):
        copy_dataset(other, store)
