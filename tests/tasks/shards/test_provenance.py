"""What a manifest says of its origin follows from its configuration, or is named."""

import json
from importlib.metadata import version

import pytest

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.imaging.backends import describe
from image_longitudinal.storage.dataset.manifest import ImageInfo, RootManifest
from image_longitudinal.storage.dataset.tables import PlannedDose
from image_longitudinal.tasks.shards.provenance import PACKAGE, check_provenance
from image_longitudinal.tasks.shards.specs import DatasetSpec, ImageSpec, OutcomeSpec
from tests.edits import changed, edits

SETTINGS = ("generator.backend=phantom", "dataset.n_subjects=10", "dataset.shard_size=4")
ELSEWHERE = {  # compared with the configuration and the files by verify_dataset
    "citation", "config", "config_digest", "date", "doses", "layout_version", "levels", "licence", "n_subjects", "name",
    "seed", "shard_size", "splits", "times", "units", "versions", "derived_from", "part_of", "shards", "files",
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest() -> RootManifest:
    config = load_config("demo", None, SETTINGS)
    described = describe(config.generator, None)
    images, outcomes = ImageSpec.of(config, described), OutcomeSpec.of(config, described.latent_dim, (2, 0, 1))
    size = described.image_size
    return RootManifest(
        name="tiny", identity=DatasetSpec.of(config, images, outcomes, None).digest,
        config=config.model_dump(mode="json", exclude={"compute", "evaluation"}), config_digest=digest_of(1),
        seed=config.seed, n_subjects=10, shard_size=4, splits=config.dataset.plan.split_counts,
        levels=config.dataset.association, random_effects=("eta_ka", "eta_imax", "eta_ic50"), eta_latents=(2, 0, 1),
        parameters=("ka", "imax", "ic50"), times=config.outcomes.times, doses=(PlannedDose(0, 1),), shards=(), files=(),
        versions={PACKAGE: version(PACKAGE)}, licence="CC-BY-4.0", citation="",
        image=ImageInfo(height=size, width=size, latent_dim=described.latent_dim, backend="phantom", model="phantom",
                        version="1", digest=described.digest),
    )  # fmt: skip


def test_a_manifest_of_this_version_follows_from_its_configuration(manifest: RootManifest) -> None:
    assert check_provenance(manifest) == ([], None)


def test_every_other_statement_is_noticed(manifest: RootManifest) -> None:
    content = json.loads(manifest.model_dump_json())
    for place, value in edits(content):
        if place[0] not in ELSEWHERE and place != ("image", "backend"):
            problems, _ = check_provenance(RootManifest.model_validate(changed(content, place, value)))
            assert problems, place
            assert "does not follow from the configuration" in str(problems[0])


def test_another_version_of_the_software_is_not_judged(manifest: RootManifest) -> None:
    older = manifest.model_copy(update={"versions": {PACKAGE: "0.0.1"}, "identity": digest_of("as it was then")})
    problems, why = check_provenance(older)
    assert problems == []
    assert "made by version 0.0.1" in str(why)
