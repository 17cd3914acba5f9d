"""What a manifest says of its origin follows from its configuration, or is named."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.imaging.backends import describe
from image_longitudinal.storage.dataset.manifest import (
    ImageInfo,
    Part,
    RootManifest,
    ShardManifest,
    write_shard_manifest,
)
from image_longitudinal.storage.dataset.tables import PlannedDose
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from image_longitudinal.tasks.shards.provenance import check_provenance
from image_longitudinal.tasks.shards.specs import DatasetSpec, ImageSpec, OutcomeSpec
from tests.edits import changed, edits

CONFIG = load_config("demo", None, ("generator.backend=phantom", "dataset.n_subjects=10", "dataset.shard_size=4"))
DERIVED = ("identity", "image", "random_effects", "parameters", "eta_latents")  # others: verify_dataset compares them


@pytest.fixture(scope="module")
def spec() -> DatasetSpec:
    described = describe(CONFIG.generator, None)
    outcomes = OutcomeSpec.of(CONFIG, described.latent_dim, (2, 0, 1))
    return DatasetSpec.of(CONFIG, ImageSpec.of(CONFIG, described), outcomes, None)


@pytest.fixture
def root(tmp_path: Path, spec: DatasetSpec) -> Root:
    """The manifest of the first shard."""
    write_shard(open_root(tmp_path), spec.shard_keys(spec.plan.shard(0)))
    return open_root(tmp_path)


def write_shard(root: Root, keys: dict[str, str]) -> None:
    parts = {name: Part(key=key, files=()) for name, key in keys.items()}
    write_shard_manifest(root, ShardManifest(index=0, start=0, stop=4, parts=parts))


@pytest.fixture(scope="module")
def manifest(spec: DatasetSpec) -> RootManifest:
    images = spec.images
    return RootManifest(
        name="tiny", identity=spec.digest, config=CONFIG.model_dump(mode="json", exclude={"compute", "evaluation"}),
        config_digest=digest_of(1), seed=CONFIG.seed, n_subjects=10, shard_size=4, splits=spec.plan.split_counts,
        levels=CONFIG.dataset.association, random_effects=("eta_ka", "eta_imax", "eta_ic50"), eta_latents=(2, 0, 1),
        parameters=("ka", "imax", "ic50"), times=CONFIG.outcomes.times, doses=(PlannedDose(0, 1),), shards=(), files=(),
        versions={}, licence="CC-BY-4.0", citation="",
        image=ImageInfo(height=images.image_size, width=images.image_size, latent_dim=images.latent_dim,
                        backend="phantom", model="phantom", version="1", digest=images.generator),
    )  # fmt: skip


def test_a_manifest_of_this_version_follows_from_its_configuration(root: Root, manifest: RootManifest) -> None:
    assert check_provenance(root, manifest) == ([], None)


def test_every_other_statement_is_noticed(root: Root, manifest: RootManifest) -> None:
    content = json.loads(manifest.model_dump_json(include=set(DERIVED)))
    for place, value in edits(content):
        try:
            other = RootManifest.model_validate({**manifest.model_dump(mode="json"), **changed(content, place, value)})
        except ValidationError:
            continue  # the manifest contradicts itself: it is not even opened
        problems, why = check_provenance(root, other)
        if place not in {("image", "backend"), ("image", "latent_dim")}:  # configuration and arrays say these too
            assert problems, (place, why)
            assert "does not follow from the configuration" in str(problems[0])


def test_another_version_of_the_software_is_not_judged(root: Root, manifest: RootManifest) -> None:
    write_shard(root, {"image": digest_of("as it was then"), "outcomes": digest_of("too")})
    problems, why = check_provenance(root, manifest.model_copy(update={"identity": digest_of("of then")}))
    assert problems == []
    assert "another version of the software made the data set" in str(why)
