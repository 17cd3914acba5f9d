"""Regenerated subjects: correct files compare equal, incorrect ones are named."""

from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.core.presets import load_config, validate_config
from image_longitudinal.flows.verify_dataset import refuse_foreign_code
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.models.imaging.backends import describe
from image_longitudinal.storage.dataset import layout, tables
from image_longitudinal.storage.dataset.images import create_image_arrays, encode_shard
from image_longitudinal.storage.dataset.manifest import ImageInfo, RootManifest, ShardManifest, write_shard_manifest
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.run_claim import begin_run
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from image_longitudinal.tasks.evaluation.run import true_model
from image_longitudinal.tasks.shards.derivation import linked_to_latents, outcomes_at, rederive
from image_longitudinal.tasks.shards.parts import make_images, make_outcomes
from image_longitudinal.tasks.shards.publish import publish_dataset
from image_longitudinal.tasks.shards.readability import Recoverability
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution, ImageSpec, OutcomeSpec
from image_longitudinal.tasks.workspace import Workspace

ETA_DIMS, LEVELS = (0, 1, 2), (1.0, 0.3)


@pytest.fixture(scope="module")
def config() -> Config:
    settings = ("seed=4", "generator.backend=phantom", "generator.image_size=32", "generator.latent_dim=6",
                "dataset.n_subjects=10", "dataset.shard_size=4", f"dataset.association={list(LEVELS)}")  # fmt: skip
    return load_config("demo", None, settings)


@pytest.fixture(scope="module")
def spec(config: Config) -> DatasetSpec:
    described = describe(config.generator, None)
    return DatasetSpec.of(config, ImageSpec.of(config, described), OutcomeSpec.of(config, 6, ETA_DIMS), None)


@pytest.fixture
def made(tmp_path: Path, config: Config, spec: DatasetSpec) -> Dataset:
    """All shards as the tasks write them, outside any flow."""
    execution = Execution.of(config, None, Workspace(Path("none")))
    for shard in spec.plan:
        make_images.fn(spec.images.of_shard(shard), str(tmp_path), execution)
        make_outcomes.fn(spec.outcomes.of_shard(shard), str(tmp_path))
    return Dataset(open_root(tmp_path), manifest(config, spec))


def test_nothing_is_reported_of_files_that_do_not_verify(tmp_path: Path, config: Config, spec: DatasetSpec) -> None:
    """A page made before the verification once published a number read from damaged bytes."""
    root, execution = open_root(tmp_path), Execution.of(config, None, Workspace(Path("none")))
    described = manifest(config, spec)
    begin_run(root, spec.digest, described.config)
    arrays = create_image_arrays(root, n=10, height=32, width=32, latent_dim=6, shard_size=4)
    parts = {"image": make_images, "outcomes": make_outcomes}
    records = []
    for shard in spec.plan:
        image = make_images.fn(spec.images.of_shard(shard), root.url, execution).part
        outcomes = make_outcomes.fn(spec.outcomes.of_shard(shard), root.url).part
        placed = dict(zip(parts, (image, outcomes), strict=True))
        records.append(
            write_shard_manifest(
                root, ShardManifest(index=shard.index, start=shard.start, stop=shard.stop, parts=placed)
            )
        )
    table = Path(root.join(described.table_path("random_effects", 1, "train", 0.3)))
    content = bytearray(table.read_bytes())
    content[len(content) // 3] ^= 4
    table.write_bytes(content)
    known = Recoverability([0.9] * 6, "regression", 64)
    with pytest.raises(StorageError, match=r"does not verify: .*bytes are not as written.*makes shards \[1\] again"):
        publish_dataset.fn(root.url, spec, execution, records, list(arrays), known)
    assert not [path for path in root.files() if path.endswith((".html", ".png", "README.md", "dataset.json"))]


def manifest(config: Config, spec: DatasetSpec, digest: str | None = None) -> RootManifest:
    plan, nothing = spec.plan, digest_of("nothing")
    return RootManifest(
        name="tiny", identity=spec.digest, config=config.model_dump(mode="json", exclude={"compute"}),
        config_digest=nothing, seed=config.seed, n_subjects=10, shard_size=4, splits=plan.split_counts, levels=LEVELS,
        random_effects=("ka", "imax", "ic50"), eta_latents=ETA_DIMS, parameters=("ka", "imax", "ic50"),
        times=config.outcomes.times, doses=(tables.PlannedDose(0, 1),), shards=(), files=(), versions={},
        licence="CC-BY-4.0", citation="",
        image=ImageInfo(height=32, width=32, latent_dim=6, backend="phantom", model="phantom", version="1",
                        digest=digest or spec.images.generator),
    )  # fmt: skip


def test_what_the_tasks_wrote_is_made_again_equal(made: Dataset) -> None:
    assert rederive(made, np.arange(10), "none") == ([], None)


def test_another_seed_is_seen_in_every_file(made: Dataset, config: Config, spec: DatasetSpec) -> None:
    other = config.model_copy(update={"seed": 5})
    problems, _ = rederive(Dataset(made.root, manifest(other, spec)), np.array([6]), "none")
    assert {problem.path for problem in problems} == layout.shard_files(spec.plan.shard(1), LEVELS)
    assert "subject 6 differs from its regeneration" in str(problems[0])


def test_an_unavailable_image_model_is_reported(made: Dataset, config: Config, spec: DatasetSpec) -> None:
    dataset = Dataset(made.root, manifest(config, spec, digest_of("another version of the phantom")))
    problems, why = rederive(dataset, np.arange(3), "none")
    assert problems == []
    assert "not regenerated: another model is available, not theirs" in str(why)


def wrong_image(root: Root, spec: DatasetSpec) -> str:
    images = np.zeros((4, 32, 32), np.uint8)
    return root.write(layout.image_shard_path(0), encode_shard([images], shard_rows=4)).path


def wrong_table(root: Root, spec: DatasetSpec, table: str) -> str:
    """One table of shard 0 and level 0.3 with something else for subject 2 alone."""
    shard, ids, outcomes = spec.plan.shard(0), np.arange(4), spec.outcomes.outcomes
    linked = linked_to_latents(draw_latents(4, ids, 6), ETA_DIMS, outcomes)
    made = outcomes_at(0.3, linked, outcomes, 4, ids)
    off = np.zeros((4, 1))
    off[2] = 0.001
    if table == "subjects":
        return tables.write_subjects(root, shard, seeds=ids, eta=linked)[0].path
    if table == "observations":
        doses = outcomes.given
        return tables.write_observations(root, shard, 0.3, times=outcomes.times, doses=doses, dv=made.dv + off)[0].path
    eta, parameters = made.eta, made.parameters
    if table == "random_effects":
        eta = eta + off
    else:
        parameters = parameters | {"imax": parameters["imax"] + off[:, 0]}
    return tables.write_random_effects(root, shard, 0.3, eta=eta, parameters=parameters)[0].path


@pytest.mark.parametrize("table", ["image", "subjects", "random_effects", "parameters", "observations"])
def test_a_file_with_other_numbers_is_named(made: Dataset, spec: DatasetSpec, table: str) -> None:
    path = wrong_image(made.root, spec) if table == "image" else wrong_table(made.root, spec, table)
    problems, _ = rederive(Dataset(made.root, made.manifest), np.arange(10), "none")
    assert [(problem.path, problem.shard) for problem in problems] == [(path, 0)]


@pytest.mark.parametrize("named", ["model", "backend"])
def test_code_that_a_data_set_names_does_not_run(
    made: Dataset, config: Config, spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """verify, evaluate and repair read such names; each of them refuses or leaves the comparison out."""
    (tmp_path / "foreign_code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    recorded = manifest(config, spec)
    values = recorded.model_dump(mode="json")["config"]
    if named == "model":
        values["outcomes"]["model"] = f"{tmp_path}/foreign_code.py:depot-own"
    else:
        values["generator"]["backend"] = "foreign_code:make"
    forged = recorded.model_copy(update={"config": values})
    problems, why = rederive(Dataset(made.root, forged), np.arange(3), "none")
    assert problems == []
    assert "because data name it" in str(why)
    with pytest.raises(ConfigError, match="because data name it"):
        refuse_foreign_code(validate_config(values))
    if named == "model":
        with pytest.raises(ConfigError, match="because data name it"):
            true_model(forged)
    assert not (tmp_path / "ran").exists()
