"""A data set with a study design, as the tasks write it: verified, made again, reported, evaluated, exported."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.presets import load_config, preset_names
from image_longitudinal.models.design.study import check_study
from image_longitudinal.models.design.study_model import study_model
from image_longitudinal.models.imaging.backends import describe
from image_longitudinal.models.nlme.data.nmtran_reader import read_events
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.card import write_card
from image_longitudinal.storage.dataset.images import create_image_arrays
from image_longitudinal.storage.dataset.manifest import (
    ShardManifest,
    read_shard_manifest,
    write_root_manifest,
    write_shard_manifest,
)
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.dataset.run_claim import begin_run
from image_longitudinal.storage.dataset.study_columns import POTENTIAL
from image_longitudinal.storage.dataset.tables import write_table
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import file_record
from image_longitudinal.tasks.evaluation.checks import check_is_evaluable
from image_longitudinal.tasks.evaluation.study import evaluate_study
from image_longitudinal.tasks.evaluation.submissions import score_predictions
from image_longitudinal.tasks.population.export import export_nmtran
from image_longitudinal.tasks.population.inputs import model_to_fit, observations_of, population_of, true_values
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.reports.dataset_report import achieved_association, write_report
from image_longitudinal.tasks.reports.study_rows import study_rows
from image_longitudinal.tasks.shards.derivation import rederive
from image_longitudinal.tasks.shards.parts import make_images, make_outcomes
from image_longitudinal.tasks.shards.provenance import check_provenance
from image_longitudinal.tasks.shards.publish import unpublished_manifest
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution, ImageSpec, OutcomeSpec
from image_longitudinal.tasks.workspace import Workspace
from tests.models.design.designs import EVERYTHING

N, ETA_DIMS = 120, (0, 1, 2)
ARMS: list[dict[str, Any]] = [
    {"name": "control", "share": 0.5},
    {"name": "drug", "share": 0.5, "doses": [{"time": 0.0}, {"time": 3.0, "amt": 0.5, "rate": 1.0}],
     "effects": [{"parameter": "ic50", "mean": 0.7, "sd": 0.5, "image_share": 0.5}]},
]  # fmt: skip


def config_of(**study: Any) -> Config:
    settings = ("seed=4", "generator.backend=phantom", "generator.image_size=32", "generator.latent_dim=6",
                f"dataset.n_subjects={N}", "dataset.shard_size=50", "dataset.association=[0.5]",
                "dataset.test_fraction=0.2", "dataset.validation_fraction=0.0")  # fmt: skip
    values = load_config("demo", None, settings).model_dump(mode="json")
    return Config.model_validate(values | {"study": study})


def spec_of(config: Config) -> DatasetSpec:
    described = describe(config.generator, None)
    return DatasetSpec.of(config, ImageSpec.of(config, described), OutcomeSpec.of(config, 6, ETA_DIMS), None)


def published(folder: Path, config: Config, order: list[int] | None = None, workers: int = 1) -> Dataset:
    """A data set published by the tasks, outside any flow; shards are made in ``order``, some at once."""
    spec, root = spec_of(config), open_root(folder)
    execution = Execution.of(config, None, Workspace(Path("none")))
    begin_run(root, spec.digest, config.recorded)
    arrays = create_image_arrays(root, n=N, height=32, width=32, latent_dim=6, shard_size=50, licence="CC-BY-4.0")
    records = {}

    def make(index: int) -> None:
        shard = spec.plan.shard(index)
        image = make_images.fn(spec.images.of_shard(shard), root.url, execution).part
        outcomes = make_outcomes.fn(spec.outcomes.of_shard(shard), root.url).part
        made = ShardManifest(
            index=index, start=shard.start, stop=shard.stop, parts={"image": image, "outcomes": outcomes}
        )
        records[index] = write_shard_manifest(root, made)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(make, order or spec.plan.indices))
    shards = [records[index] for index in sorted(records)]
    manifest = unpublished_manifest(root, spec, shards, [file_record(root, layout.RUN_FILE), *arrays])
    achieved = achieved_association(Dataset(root, manifest))
    report = write_report(
        root, manifest, version=None, eta_dims=ETA_DIMS, recoverability=[1.0] * 6,
        achieved=achieved, shown=spec.report, study=study_rows(Dataset(root, manifest), spec.outcomes),
    )  # fmt: skip
    files = (*manifest.files, report, *write_card(root, manifest))
    write_root_manifest(root, manifest.model_copy(update={"files": files}))
    return open_dataset(folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return published(tmp_path_factory.mktemp("study"), config_of(**{**EVERYTHING, "arms": ARMS}))


def test_it_verifies_and_is_made_again_equal(study: Dataset) -> None:
    report = verify_dataset(study.root)
    assert report.ok, str(report)
    assert rederive(study, np.array([0, 49, 50, 119]), "none") == ([], None)
    assert check_provenance(study.root, study.manifest) == ([], None)


def test_potential_outcomes_that_are_not_the_observed_ones_are_found(study: Dataset, tmp_path: Path) -> None:
    """Their digests are those of the changed file: only the tables contradict each other."""
    shutil.copytree(study.root.url, tmp_path / "changed")
    root = open_root(tmp_path / "changed")
    made = read_shard_manifest(root, 0)
    assert made is not None
    path = layout.table_path(POTENTIAL, 0, "train", 0.5)
    table = pq.read_table(root.join(path))
    place = table.column_names.index("dv_3")
    other = pa.array(np.asarray(table["dv_3"].combine_chunks()) + 1)
    written = write_table(root, path, table.set_column(place, table.schema.field(place), other))
    files = tuple(written if file.path == path else file for file in made.parts["outcomes"].files)
    part = made.parts["outcomes"].model_copy(update={"files": files})
    record = write_shard_manifest(root, made.model_copy(update={"parts": made.parts | {"outcomes": part}}))
    shards = (record, *study.manifest.shards[1:])
    write_root_manifest(root, study.manifest.model_copy(update={"shards": shards}))
    (problem,) = verify_dataset(root).problems
    assert problem.path == path
    assert problem.what == "50 subjects have other outcomes than in the arm they take"


def test_order_workers_and_a_restart_change_no_byte(study: Dataset, tmp_path: Path) -> None:
    """Two workers take the shards from the last to the first; the last is made again, as after a crash."""
    again = published(tmp_path / "again", config_of(**{**EVERYTHING, "arms": ARMS}), [2, 1, 0, 2], workers=2)
    assert again.manifest == study.manifest


def test_the_observed_outcome_is_the_potential_one_of_the_arm_taken(study: Dataset) -> None:
    for split in ("train", "test"):
        arm = study.subjects(split)["arm"].to_numpy()
        table = study.truth("potential_outcomes", 0.5, split)
        every = np.stack([table[f"dv_{i}"].to_numpy() for i in range(21)], axis=1).reshape(-1, 2, 21)
        rows = study.observations(0.5, split)
        observed = rows["dv"].to_numpy(zero_copy_only=False)[rows["evid"].to_numpy() == 0].reshape(-1, 21)
        np.testing.assert_array_equal(observed, every[np.arange(len(arm)), arm])
        assert set(arm.tolist()) == {0, 1}


def test_an_arm_without_a_dose_has_its_row_with_evid_2(study: Dataset) -> None:
    rows = study.observations(0.5).to_pandas()
    second = rows[(rows.time == 3.0) & (rows.evid != 0)]
    assert len(second) == N
    assert set(second[second.arm == 0].evid) == {2}
    assert set(second[second.arm == 1].amt) == {0.5}
    assert (second[second.arm == 0][["amt", "rate"]] == 0).all(axis=None)


def test_the_export_is_a_table_that_the_model_of_the_study_reads(study: Dataset, tmp_path: Path) -> None:
    config = Config.model_validate(study.manifest.config)
    count = export_nmtran(study, tmp_path / "table.csv", level=0.5, split="test")
    model = study_model(config.study, get_model("depot-central-mm"))
    events = read_events(tmp_path / "table.csv", model.structural)
    assert len(events) == count == 24 * 23
    assert {"arm", "weight"} <= events.columns.keys()


def test_a_fit_of_it_has_the_effect_of_the_arm_and_its_truth(study: Dataset) -> None:
    options = FitOptions(table=study.root.url, level=0.5, split="test")
    model = model_to_fit(options)
    assert {"imax_weight", "tau_drug_ic50"} <= set(model.parameter_names)
    data = population_of(options, observations_of(options, model))
    assert len(data) == 24
    assert len(data.times) == 24 * 21
    truth = true_values(options)
    assert (truth["tau_drug_ic50"], truth["imax_weight"]) == (0.7, 0.75)
    assert truth["omega(eta_tau_drug_ic50,eta_tau_drug_ic50)"] == pytest.approx(0.25, abs=1e-12)
    weights = study.manifest.study.image_weights["effect drug ic50"]  # type: ignore[union-attr]
    shared = 0.5 * np.sqrt(0.5) * weights[0]  # sd of τ, ρ of η_ka, and the weight of its latent dimension
    assert truth["omega(eta_tau_drug_ic50,eta_ka)"] == pytest.approx(shared, abs=1e-6)
    plain = FitOptions(table="trial.csv")
    assert model_to_fit(plain).name == "depot-central-mm"
    assert true_values(plain) == {}


def test_rows_of_the_report_hold_what_was_designed(study: Dataset) -> None:
    """With 120 subjects the intervals are wide; more than 4 of 24 miss with a probability below 1 %."""
    rows = study_rows(study, spec_of(config_of(**{**EVERYTHING, "arms": ARMS})).outcomes)
    assert {row.knob for row in rows} == {"effect", "arms", "assignment", "covariates", "sites"}
    assert len(rows) == 24
    assert sum(not row.inside for row in rows) <= 4, [row for row in rows if not row.inside]
    page = study.root.read_bytes("report.html").decode()
    for title in ("Who benefits", "What was given", "Who is treated", "Who takes part", "Where images are acquired"):
        assert title in page  # a page for each knob
    for alt in ("Images of two subjects", "individual effects", "each arm", "Propensities", "covariate", "each site"):
        assert re.search(rf'<img[^>]+data:image/[^>]+alt="[^"]*{alt}', page), alt
    assert "truth/" in page


def test_estimators_and_learners_stand_beside_their_oracle(study: Dataset) -> None:
    tables = {table.name: table for table in evaluate_study(study, replicates=100)}
    assert set(tables) == {"mean-effects", "individual-effects", "sites"}
    assert [row[2] for row in tables["mean-effects"].rows] == [
        "naive difference", "IPW, true propensity", "AIPW, true propensity", "AIPW, estimated propensity"
    ]  # fmt: skip
    assert tables["individual-effects"].rows[0][2] == "oracle E[effect | z]"
    assert len(tables["sites"].rows) == 3
    with pytest.raises(StorageError, match="image-longitudinal study"):
        check_is_evaluable(study, load_config("demo").evaluation)


def test_views_hold_an_arm_and_a_site(study: Dataset) -> None:
    subjects = study.subjects("train").to_pandas()
    chosen = subjects[(subjects.arm == 1) & (subjects.site == 1)].id.to_numpy()
    view = study.view("train", 0.5, arm="drug", site="south")
    np.testing.assert_array_equal(view.ids, chosen)
    np.testing.assert_array_equal(view.images, study.images[chosen])
    np.testing.assert_array_equal(view.table("subjects", ["id"])["id"].to_numpy(), chosen)
    assert view.outcomes.shape == (len(chosen), 21)
    with pytest.raises(StorageError, match="no such arm"):
        study.view(arm="placebo")


def test_predicted_effects_and_policies_are_scored(study: Dataset, tmp_path: Path) -> None:
    ids = study.subjects("test")["id"]
    effect = study.truth("effects", 0.5, "test").to_pandas().query("arm == 1").effect_area.to_numpy()
    n = len(ids)
    perfect = {"id": ids, "association": [0.5] * n, "arm": [1] * n, "effect": effect}
    pq.write_table(pa.table(perfect), tmp_path / "effects.parquet")
    (table,) = score_predictions(study, tmp_path / "effects.parquet", None, replicates=100, workers=1)
    assert table.rows[1][2:4] == ("submission", "1.0000 [1.0000, 1.0000]")
    policy = {"id": ids, "association": [0.5] * n, "arm": (effect > 0).astype(int)}
    pq.write_table(pa.table(policy), tmp_path / "policy.parquet")
    (table,) = score_predictions(study, tmp_path / "policy.parquet", None, replicates=100, workers=1)
    gains = [float(row[2].split()[0]) for row in table.rows]
    assert gains[1] >= gains[0]  # no policy is better than that of the true effects
    pq.write_table(pa.table(policy | {"arm": [2] * n}), tmp_path / "wrong.parquet")
    with pytest.raises(StorageError, match="no such arm"):
        score_predictions(study, tmp_path / "wrong.parquet", None, replicates=100, workers=1)


def test_sites_shift_the_images_and_nothing_else_does(study: Dataset, tmp_path: Path) -> None:
    plain = published(tmp_path / "plain", config_of())
    site = study.columns("subjects", None, 0, N, ["site"])[:, 0]
    same = (study.images[:] == plain.images[:]).all((1, 2))
    np.testing.assert_array_equal(same, site != 1)  # the site in the south has strength 1, the others 0
    np.testing.assert_array_equal(study.linked_eta[0:N], plain.linked_eta[0:N])
    np.testing.assert_array_equal(study.used_eta(0.5)[0:N], plain.used_eta(0.5)[0:N])
    assert plain.manifest.study is None
    assert "study" not in plain.root.read_bytes("dataset.json").decode()
    with pytest.raises(StorageError, match="no arms and no sites"):
        evaluate_study(plain)


@pytest.mark.parametrize("preset", ["trial", "observational", "sites"])
def test_presets_can_be_had(preset: str) -> None:
    assert preset in preset_names()
    config = load_config(preset)
    check_study(config.study, config.outcomes, config.seed, config.dataset.association, 16, (0, 1, 2))
