"""The registry: content names the version, altered content is refused, and an unfinished registration is no version."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.registry.registry import ModelVersion, Registry
from image_longitudinal.models.training import tensor_files
from image_longitudinal.models.training.tensor_files import save_tensors
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from tests.models.conftest import model_metadata

WEIGHTS = {"vae": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}, "extra": {"c": torch.zeros(2)}}
METADATA = model_metadata()
OTHER = model_metadata(training_key="k2")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def version(registry: Registry) -> ModelVersion:
    return registry.register(WEIGHTS, METADATA, "# Card")


def leftovers(registry: Registry) -> list[str]:
    return [path.name for path in registry.root.iterdir() if path.name.startswith(".")]


def test_what_is_registered_comes_back(registry: Registry, version: ModelVersion) -> None:
    again = registry.get(version.version)
    assert (again, again.metadata) == (version, METADATA)
    for name, weights in WEIGHTS.items():
        loaded = again.tensors(name)
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    assert again.card == (again.folder / "README.md").read_text() == "# Card"
    content = json.loads((version.folder / "model.json").read_text())
    assert (content["format"], content["metadata"]) == (2, METADATA.model_dump(mode="json"))
    assert sorted(content["files"]) == ["extra.safetensors", "vae.safetensors"]
    assert len(version.version) == 12
    assert version.digest.startswith(version.version)
    assert not leftovers(registry)


def test_equal_content_is_one_version_and_other_content_another(registry: Registry, tmp_path: Path) -> None:
    first = registry.register(WEIGHTS, METADATA, "# Card")
    backwards = {name: dict(reversed(WEIGHTS[name].items())) for name in reversed(WEIGHTS)}
    assert registry.register(backwards, METADATA, "# Another card") == first
    assert Registry(tmp_path / "elsewhere").register(WEIGHTS, METADATA, "").digest == first.digest
    assert registry.versions() == [first]
    changed = {"vae": {**WEIGHTS["vae"], "b": torch.tensor(2)}, "extra": WEIGHTS["extra"]}
    for weights, metadata in ((changed, METADATA), (WEIGHTS, OTHER), ({"vae": WEIGHTS["vae"]}, METADATA)):
        registry.register(weights, metadata, "")
    assert len({version.digest for version in registry.versions()}) == 4
    assert not leftovers(registry)


def test_altered_missing_and_foreign_weights_are_refused(version: ModelVersion) -> None:
    path = version.folder / "vae.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"weights were altered .*vae\.safetensors.*registers it anew"):
        version.tensors("vae")
    assert version.tensors("extra")
    path.unlink()
    with pytest.raises(ModelError, match="missing"):
        version.tensors("vae")
    save_tensors(version.folder / "smuggled.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(ModelError, match="altered"):
        version.tensors("smuggled")


def test_an_altered_description_and_one_of_a_newer_format_are_refused(
    registry: Registry, version: ModelVersion
) -> None:
    path = version.folder / "model.json"
    text = path.read_text()
    for old, new, message in (
        ("0.25", "0.26", "altered"), ('"k1"', '"k2"', "altered"), ("{", "", "damaged"),
        ('"digest"', '"digits"', "damaged"),
    ):  # fmt: skip
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ModelError, match=f"{message} .*{version.version}.*Remove this folder"):
            registry.get(version.version)
    content = {**json.loads(text), "format": 3}
    del content["digest"]
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))
    with pytest.raises(ModelError, match=r"unknown format .*expected 2 or older; got 3. Update image-longitudinal"):
        registry.find("k1") or registry.get(version.version)


def test_a_version_is_found_by_alias_name_beginning_digest_and_key(registry: Registry, version: ModelVersion) -> None:
    other = registry.register(WEIGHTS, OTHER, "")
    registry.set_alias("production", version.version)
    registry.set_alias("mine", version.version)
    for name in ("production", version.version, version.version[:6], version.digest):
        assert registry.get(name) == version
    assert [registry.find(training_key) for training_key in ("k1", "k2", "k3")] == [version, other, None]
    registry.set_alias("production", other.version)
    assert registry.aliases() == {"production": other.version, "mine": version.version}
    assert registry.get("production") == other
    assert not leftovers(registry)


def test_an_unknown_model_is_refused_with_the_known_ones(registry: Registry) -> None:
    empty = r"this registry is empty; got production. Train one with: image-longitudinal train"
    assert (registry.versions(), registry.aliases()) == ([], {})
    with pytest.raises(ModelError, match=empty):
        registry.get("production")
    version = registry.register(WEIGHTS, METADATA, "# Card")
    for name in ("production", "0123456789ab", "", version.version[:5]):
        with pytest.raises(ModelError, match=f"no such model .*expected one of {version.version}; got ?{name}"):
            registry.get(name)
    with pytest.raises(ModelError, match=f"Did you mean {version.version}"):
        registry.get(f"{version.version[:-1]}g")
    with pytest.raises(ModelError, match="no such model"):
        registry.set_alias("production", "0" * 12)
    assert registry.aliases() == {}


@pytest.mark.parametrize("step", ["save_tensors", "replace"])
def test_a_failure_leaves_no_version(registry: Registry, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(tensor_files if step == "save_tensors" else os, step, fail)
    with pytest.raises(ModelError, match=r"cannot (register the model|write tensors) .*No space left"):
        registry.register(WEIGHTS, METADATA, "")
    assert registry.versions() == []
    assert not leftovers(registry)


def test_what_a_killed_registration_leaves_and_a_damaged_version_hide_no_other(
    registry: Registry, version: ModelVersion
) -> None:
    """A process killed just before its folder gets its name leaves it whole, under the temporary one."""
    shutil.copytree(version.folder, registry.root / ".1234abcd.tmp")
    other = registry.register(WEIGHTS, OTHER, "")
    (other.folder / "model.json").write_text("{half")
    shutil.copytree(other.folder, registry.root / ".5678abcd.tmp")
    assert (registry.versions(), registry.get(version.version)) == ([version], version)
    assert list(registry.damaged()) == [other.version]
    with pytest.raises(ModelError, match=f"damaged .*{other.version}"):
        registry.get(other.version)


@pytest.mark.parametrize("name", ["vae.safetensors", "model.json"])
def test_registering_again_mends_a_damaged_version(registry: Registry, version: ModelVersion, name: str) -> None:
    path = version.folder / name
    good = path.read_bytes()
    for damaged in (good[:-1] + bytes([good[-1] ^ 1]), b"", None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert name == "model.json" or not version.is_intact()
        assert registry.register(WEIGHTS, METADATA, "# Card") == version
        assert path.read_bytes() == good
        assert registry.get(version.version).is_intact()


def test_damaged_and_unreadable_aliases_are_a_model_error(registry: Registry, version: ModelVersion) -> None:
    aliases = registry.root / "aliases.json"
    for content in ("{half", "[1]", ""):
        aliases.write_text(content)
        with pytest.raises(ModelError, match="aliases file is damaged"):
            registry.get("production")
    aliases.unlink()
    aliases.mkdir()
    with pytest.raises(ModelError, match="cannot read the aliases"):
        registry.set_alias("production", version.version)


@pytest.fixture
def store() -> Iterator[Root]:
    """An object store in this process's memory."""
    yield open_root("memory://registry")
    fsspec.filesystem("memory").rm("/registry", recursive=True)


def test_what_one_machine_registers_another_finds_in_the_shared_registry_unless_altered(
    tmp_path: Path, store: Root
) -> None:
    here, there = Registry(tmp_path / "here", store), Registry(tmp_path / "there", store)
    version = here.register(WEIGHTS, METADATA, "# Card")
    here.set_alias("production", version.version)
    assert [v.version for v in there.versions()] == [version.version]
    found = there.get("production")
    assert found.folder == tmp_path / "there" / version.version
    assert torch.equal(found.tensors("vae")["a"], WEIGHTS["vae"]["a"])
    assert there.find("k1") == found
    assert Registry(tmp_path / "there").get(version.version) == found  # and stays when the store is not asked
    fsspec.filesystem("memory").pipe_file(f"/registry/{version.version}/vae.safetensors", b"other")
    with pytest.raises(ModelError, match=r"altered .*vae\.safetensors"):
        Registry(tmp_path / "third", store).get(version.version)
    assert not list((tmp_path / "third").iterdir())


def test_only_weights_come_in_and_all_of_them(version: ModelVersion, tmp_path: Path) -> None:
    """What lies beside the weights stays there; a version that names a pickle is refused before anything is fetched."""
    folder, there = shutil.copytree(version.folder, tmp_path / "copy"), Registry(tmp_path / "there")
    (folder / "evil.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    added = Registry(tmp_path / "elsewhere").add(open_root(folder))
    assert {path.name for path in added.folder.iterdir()} == {*version.files, "README.md", "model.json"}
    (folder / "extra.safetensors").unlink()
    with pytest.raises(ModelError, match=r"file of the model is missing .*extra\.safetensors.*copy the version again"):
        there.add(open_root(folder))
    assert not list(there.root.iterdir())
    content = json.loads((folder / "model.json").read_text())
    del content["digest"]
    content["files"]["evil.pkl"] = file_sha256(folder / "evil.pkl")
    (folder / "model.json").write_text(json.dumps({**content, "digest": digest_of(content)}))
    with pytest.raises(ModelError, match=r"lists files that are no weights .*expected names that end in .*evil\.pkl"):
        there.add(open_root(folder))
