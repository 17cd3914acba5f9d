"""Stages that check: the data set before anything is computed, its design, and the predictors on shuffled images."""

from pathlib import Path
from shlex import quote

import numpy as np
from prefect import task

from image_longitudinal.core.config import EvaluationConfig
from image_longitudinal.core.errors import StorageError
from image_longitudinal.models.evaluation import design_checks
from image_longitudinal.models.evaluation.predictors import r2_of_shuffled_images
from image_longitudinal.models.evaluation.records import DesignChecks, NullCheck
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.evaluation import data
from image_longitudinal.tasks.evaluation.predictions import training_data
from image_longitudinal.tasks.evaluation.run import EvaluationRun, StageFiles
from image_longitudinal.tasks.evaluation.specs import DesignCheckSpec, NullCheckSpec

FEWEST = {"train": 40, "test": 8}  # subjects needed to fit the predictors, and to score them


def check_is_evaluable(dataset: Dataset, settings: EvaluationConfig) -> None:
    """Check that a data set has what an evaluation needs.

    Raises:
        StorageError: irregular visits, arms, covariates that act, too few subjects, or a level that it does not have.
    """
    check_visits(dataset)
    study = dataset.manifest.study
    if study is not None and (study.arms or study.covariates or dataset.manifest.has_own_associations):
        raise StorageError(
            "an evaluation needs subjects with one regimen, without covariates, at one association",
            where=dataset.root.url, expected="a data set without a study design, or with sites alone",
            got=", ".join([*(arm.name for arm in study.arms), *(one.name for one in study.covariates)]) or
            "associations", do="evaluate its arms and sites: image-longitudinal study",
        )  # fmt: skip
    for split, fewest in FEWEST.items():
        count = dataset.manifest.splits.get(split, 0)
        if count < fewest:
            raise StorageError(
                f"too few {split} subjects to evaluate", where=dataset.root.url, expected=f"at least {fewest}",
                got=count, do="generate a data set with a larger dataset.n_subjects or dataset.test_fraction",
            )  # fmt: skip
    if missing := [level for level in settings.levels or () if level not in dataset.levels]:
        known = ", ".join(map(str, dataset.levels))
        raise StorageError("no such association level in this data set", expected=f"some of {known}", got=missing)


def check_visits(dataset: Dataset) -> None:
    """StorageError if the visits of a data set differ between subjects."""
    visits = dataset.manifest.config.get("outcomes", {})
    if irregular := [name for name in ("jitter", "missed", "dropout") if visits.get(name)]:
        raise StorageError(
            "an evaluation compares subjects visit by visit, and the visits of this data set differ between subjects",
            where=dataset.root.url,
            expected="outcomes without jitter, missed and dropout",
            got=", ".join(f"{name} {visits[name]:g}" for name in irregular),
            do="fit a level: image-longitudinal fit; or generate a data set with regular visits",
        )


@task(name="check-input", task_run_name="verify the data set", persist_result=False)
def check_input(run: EvaluationRun) -> None:
    """Check every file of the data set; StorageError names the first that is wrong."""
    dataset = run.dataset
    progress = Progress("verify", dataset.manifest.plan.n_shards, "shards")
    report = verify_dataset(dataset.root, progress=lambda done, total: progress.update(done), workers=run.workers)
    if not report.ok:
        raise StorageError(
            f"the data set does not verify, {len(report.problems)} problems; the first: {report.problems[0]}",
            where=run.url, do=f"list them with: image-longitudinal verify {quote(run.url)}",
        )  # fmt: skip


@task(name="check-design", task_run_name="design against truth", **CACHED)
def check_design(key: str, folder: Path, run: EvaluationRun, spec: DesignCheckSpec) -> StageFiles:
    """Test every statement of the design."""
    dataset, model = run.dataset, run.model
    names, splits = dataset.manifest.random_effects, dataset.manifest.present_splits
    linked = {split: data.read_effects(dataset, split) for split in splits}
    ranges = (part for split in splits for part in data.id_ranges(dataset, split, 20 * data.ROWS))
    checks = design_checks.latent_checks(dataset.latents[start:stop] for start, stop in ranges)
    checks += design_checks.balance_checks(linked, names)
    omega, rows = np.asarray(model.omega), slice(0, spec.residual_subjects)
    for level in spec.levels:
        used = {split: data.read_effects(dataset, split, level) for split in splits}
        together = np.concatenate(list(linked.values())), np.concatenate(list(used.values()))
        checks += design_checks.association_checks(level, *together, names)
        checks += design_checks.effect_checks(level, *together, omega, names)
        observed = data.outcomes(dataset, level, "train")[rows]
        checks += design_checks.residual_checks(model, level, observed, used["train"][rows], run.workers)
    DesignChecks(checks=design_checks.judged(checks)).write(folder / "checks.json")
    return StageFiles.of(folder, "checks.json")


@task(name="check-null", task_run_name="images assigned at random", **CACHED)
def check_null(
    key: str, folder: Path, run: EvaluationRun, spec: NullCheckSpec, level: float, reading: StageFiles,
    population: StageFiles, estimates: StageFiles,
) -> StageFiles:  # fmt: skip
    """Fit and score the predictors with images assigned to subjects at random: they must find nothing."""
    dataset = run.dataset
    r2 = r2_of_shuffled_images(
        *training_data(run, level, spec.folds, reading, population, estimates), reading.array("test"),
        data.read_effects(dataset, "test", level), seed=dataset.manifest.seed, rounds=spec.rounds,
        replicates=spec.bootstrap, workers=run.workers,
    )  # fmt: skip
    NullCheck(level=level, r2=r2).write(folder / "null.json")
    return StageFiles.of(folder, "null.json")
