"""Specs of a data set: each value of the configuration changes exactly the digests of what it decides."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from image_longitudinal.core.config import Config, DiffusionConfig, DistillationConfig, VAEConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.imaging.backends import describe
from image_longitudinal.models.nlme.library import get_model, load_named
from image_longitudinal.models.registry.metadata import Distillation
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.dataset.manifest import Part
from image_longitudinal.tasks.shards.image_shards import RenderUse, ShardPartResult
from image_longitudinal.tasks.shards.parts import ReusableParts
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution, ImageSpec, OutcomeSpec
from tests.models.conftest import model_metadata
from tests.paths import ROOT
from tests.variations import FIELDS, STUDY, with_another_value

IMAGES, OUTCOMES, DATASET = "images", "outcomes", "dataset"

# section.field -> products that it changes, with a trained diffusion model. All other fields change none of them:
# those of training and measuring act through the registered model alone, compute and evaluation not at all.
AFFECTED = {
    "seed": {IMAGES, OUTCOMES, DATASET},
    "probe": {DATASET},  # the report states the recoverability
    "generator.backend": {IMAGES, DATASET},
    "generator.scheduler": {IMAGES, DATASET},
    "generator.steps": {IMAGES, DATASET},
    "generator.decoder": {IMAGES, DATASET},
    "generator.precision": {IMAGES, DATASET},
    "generator.batch_size": {IMAGES, DATASET},
    "outcomes": {OUTCOMES, DATASET},
    "study.sites": {IMAGES, OUTCOMES, DATASET},  # the other value shifts images
    "study": {OUTCOMES, DATASET},
    "dataset.name": {DATASET},
    "dataset.date": {DATASET},
    "dataset.licence": {OUTCOMES, DATASET},
    "dataset.n_subjects": {IMAGES, OUTCOMES, DATASET},
    "dataset.shard_size": {IMAGES, OUTCOMES, DATASET},
    "dataset.association": {OUTCOMES, DATASET},
    "dataset.eta_dims": {OUTCOMES, DATASET},
    "dataset.validation_fraction": {OUTCOMES, DATASET},
    "dataset.test_fraction": {OUTCOMES, DATASET},
    "report": {DATASET},
}
# The phantom has a size and a length of z, but neither solver nor network.
AFFECTED_WITH_PHANTOM = {
    **{field: products for field, products in AFFECTED.items() if not field.startswith("generator.")},
    "generator.backend": {IMAGES, OUTCOMES, DATASET},  # the model has another length of z
    "generator.image_size": {IMAGES, DATASET},
    "generator.latent_dim": {IMAGES, OUTCOMES, DATASET},
    "generator.batch_size": {IMAGES, DATASET},
}

NETWORKS = {"vae": VAEConfig(latent_dim=12, image_size=64), "diffusion": DiffusionConfig(image_size=64)}
DISTILLED = Distillation(teacher="t", networks=("student", "light-decoder"), config=DistillationConfig(), samplers=())
MODEL = ModelVersion(Path("nowhere"), digest_of("model"), {}, model_metadata(**NETWORKS, distillation=DISTILLED))

FITTING = "generator.scheduler=whitened"  # that of the demo fits flattened models alone


def spec(*overrides: str, config: Config | None = None) -> DatasetSpec:
    config = config or load_config("demo", overrides=[FITTING, *overrides])
    version = None if config.generator.backend == "phantom" else MODEL
    described = describe(config.generator, version)
    chosen = (0, 1, 2) if config.dataset.eta_dims == "auto" else config.dataset.eta_dims
    outcomes = OutcomeSpec.of(config, described.latent_dim, chosen)
    return DatasetSpec.of(config, ImageSpec.of(config, described), outcomes, version)


def digests(made: DatasetSpec) -> dict[str, str]:
    return {IMAGES: made.images.digest, OUTCOMES: made.outcomes.digest, DATASET: made.digest}


def changed(before: DatasetSpec, after: DatasetSpec) -> set[str]:
    old, new = digests(before), digests(after)
    return {product for product in old if old[product] != new[product]}


@pytest.mark.parametrize(("backend", "table"), [("diffusion", AFFECTED), ("phantom", AFFECTED_WITH_PHANTOM)])
def test_every_field_changes_exactly_what_it_decides(backend: str, table: dict[str, set[str]]) -> None:
    config = load_config("demo", overrides=[FITTING, f"generator.backend={backend}", "dataset.n_subjects=700", *STUDY])
    before, used = spec(config=config), set()
    assert len(FIELDS) > 90
    for field in FIELDS:
        row = next((name for name in table if field == name or field.startswith(f"{name}.")), None)
        used.add(row)
        after = with_another_value(config, field)
        assert changed(before, spec(config=after)) == table.get(row or "", set()), field
    assert used - {None} == set(table), "the table names fields that do not exist"


def test_a_field_that_came_later_keeps_old_digests_at_its_default() -> None:
    made = spec()
    fields = made.model_dump(mode="json", exclude={"report"})
    assert made.outcomes.digest == digest_of(
        "outcomes", OutcomeSpec.code_version, made.outcomes.model_dump(mode="json", exclude={"study"})
    )
    assert made.images.digest == digest_of(
        "images", ImageSpec.code_version, made.images.model_dump(mode="json", exclude={"sites"})
    )
    fields |= {"images": made.images.digest, "outcomes": made.outcomes.digest}
    assert made.digest == digest_of("dataset", DatasetSpec.code_version, fields)
    assert not {"report", "study"} & set(load_config("demo").recorded)
    assert load_config("demo", overrides=["report.include_real_scans=true"]).recorded["report"]["include_real_scans"]


def shard_keys(made: DatasetSpec, shard: int = 1) -> dict[str, str]:
    return made.shard_keys(made.plan.shard(shard))


def test_a_shard_depends_on_its_own_subjects_only() -> None:
    """More subjects, or other splits elsewhere, leave the files of a shard reusable."""
    before = spec("dataset.validation_fraction=0", "dataset.test_fraction=0")
    more = spec("dataset.n_subjects=6400", "dataset.validation_fraction=0", "dataset.test_fraction=0")
    assert shard_keys(more) == shard_keys(before)
    assert changed(before, more) == {IMAGES, OUTCOMES, DATASET}
    last = before.plan.n_shards - 1
    split = spec("dataset.validation_fraction=0", "dataset.test_fraction=0.05")
    assert shard_keys(split) == shard_keys(before)
    assert shard_keys(split, last)["image"] == shard_keys(before, last)["image"]
    assert shard_keys(split, last)["outcomes"] != shard_keys(before, last)["outcomes"]


def test_no_two_shards_parts_or_models_share_a_key() -> None:
    keys = []
    for one in (spec(), spec("generator.steps=20")):
        keys += [one.images.of_shard(shard).digest for shard in one.plan]
    keys += [one.outcomes.of_shard(shard).digest for shard in one.plan]
    assert len(set(keys)) == 3 * one.plan.n_shards


def test_the_spec_of_a_shard_knows_its_shard() -> None:
    made = spec()
    for shard in made.plan:
        image, outcome = made.images.of_shard(shard).shard, made.outcomes.of_shard(shard).shard
        assert outcome == shard
        assert (image.index, image.start, image.stop) == (shard.index, shard.start, shard.stop)


@pytest.mark.parametrize(("kind", "part"), [(ImageSpec, "image"), (OutcomeSpec, "outcomes")])
def test_a_new_code_version_changes_the_keys_of_its_part(
    kind: type[ImageSpec], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shard_keys(spec())
    monkeypatch.setattr(kind, "code_version", 1_000)
    after = shard_keys(spec())
    assert {name for name in before if before[name] != after[name]} == {part}


def test_digests_are_the_same_in_a_process_that_hashes_differently() -> None:
    program = "from tests.tasks.shards.test_specs import *; print(*shard_keys(spec()).values(), spec().digest)"
    environment = {**os.environ, "PYTHONHASHSEED": "1" if sys.flags.hash_randomization else "random"}
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == [*shard_keys(spec()).values(), spec().digest]


def test_the_content_of_a_model_file_decides_the_outcomes_and_the_data_set(tmp_path: Path) -> None:
    file, nowhere = tmp_path / "mine.py", tmp_path / "elsewhere.py"
    text = "from dataclasses import replace\nfrom image_longitudinal.models.nlme.library import get_model, register\n"
    text += "omega = (({}, 0, 0), (0, 1, 0), (0, 0, 1))\n"
    text += "register(replace(get_model('depot-central-mm'), name='mine-of-keys', omega=omega))\n"
    file.write_text(text.format(1.0))
    mine = f"outcomes.model={file}:mine-of-keys"
    before = spec(mine)
    assert spec(mine) == before
    load_named(f"{file}:mine-of-keys")
    assert get_model(f"{file}:mine-of-keys").omega[0][0] == 1.0
    file.write_text(text.format(2.0))
    assert changed(before, spec(mine)) == {OUTCOMES, DATASET}
    load_named(f"{file}:mine-of-keys")
    assert get_model(f"{file}:mine-of-keys").omega[0][0] == 2.0  # the file that the digest names is used
    with pytest.raises(ConfigError, match=r"no such model file.*elsewhere\.py"):
        spec(f"outcomes.model={nowhere}:mine")


def test_specs_and_results_survive_json() -> None:
    """They travel as parameters of flow runs and as stored results."""
    made = spec()
    part = ShardPartResult(root="somewhere", part=Part(key=digest_of("key"), files=()))
    use = RenderUse(images=3, seconds=2.0, busy_seconds=1.5, batch_size=2)
    execution = Execution(workspace="w", generator=load_config("demo").generator, model_version=None)
    records = [
        made, execution, part, part.model_copy(update={"use": use}), ReusableParts(images={3: part}, outcomes={}),
    ]  # fmt: skip
    for record in records:
        assert type(record).model_validate_json(record.model_dump_json()) == record
    assert ReusableParts(images={3: part, 4: part}).of_shards([4, 5]) == ReusableParts(images={4: part})
