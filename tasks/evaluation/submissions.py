"""Scores of submitted predictions for the test subjects, in the evaluation's tables, with baselines."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.config import EvaluationConfig
from image_longitudinal.core.errors import StorageError
from image_longitudinal.models.design.quadrature import conditional_effects
from image_longitudinal.models.evaluation.bootstrap import Resampling
from image_longitudinal.models.evaluation.level_scores import Predictions, score_level
from image_longitudinal.models.evaluation.predictors import IMAGE_PREDICTORS, with_references
from image_longitudinal.models.evaluation.records import OutcomeScores
from image_longitudinal.models.nlme.estimation.ebes import empirical_bayes
from image_longitudinal.storage.dataset.predictions import Submission, read_predictions
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.tasks.evaluation import data, tables
from image_longitudinal.tasks.evaluation.checks import check_is_evaluable
from image_longitudinal.tasks.evaluation.run import true_model
from image_longitudinal.tasks.evaluation.study import EFFECT_COLUMNS, design_of, score_effects, true_effects

TABLES = (
    "effects",
    "each-effect",
    "outcomes",
    "individual-effects",
    "policies",
)  # names of those that a submission may have


def score_predictions(
    dataset: Dataset, path: Path, baselines: Path | None, *, replicates: int, workers: int
) -> list[tables.Table]:
    """Tables of a submission: of random effects and outcomes, or of outcomes alone if it predicts those; or of
    individual effects, or a policy, of a data set with arms.

    Outcomes and empirical Bayes estimates are those of the true population. Average, random and empirical Bayes
    subjects are always in the tables. See :func:`image_longitudinal.score` for the arguments.

    Raises:
        StorageError: the file is malformed, or the data set has no test subjects.
    """
    settings, has_arms = EvaluationConfig(bootstrap=replicates), len(dataset.arms) > 1
    if not has_arms:
        check_is_evaluable(dataset, settings)
    submission = _read(dataset, path)
    if submission.kind in ("individual", "policy"):
        return [_arm_table(dataset, submission, replicates)]
    if has_arms:
        check_is_evaluable(dataset, settings)  # which says what to do
    manifest, model = dataset.manifest, true_model(dataset.manifest)
    resampling = Resampling(len(data.split_ids(dataset, "test")), manifest.seed, replicates)
    scored = []
    for level, values in submission.levels.items():
        observed = data.outcomes(dataset, level, "test")
        modes = empirical_bayes(model, observed, n_threads=workers).eta
        truth = data.held_out_subjects(dataset, level, observed, modes)
        sources = _baselines(dataset, baselines, level)
        if submission.kind == "effects":
            sources = {"submission": values, **sources}
        predictions = Predictions(with_references(sources, truth, model.omega))
        scores = score_level(
            model, truth, predictions, resampling=resampling, visits=settings.visits, known=model, workers=workers
        )
        if submission.kind == "outcomes":
            error = np.square(truth.observed - values).mean(1, keepdims=True)
            submitted = OutcomeScores(mse=resampling.of(error).mean_estimates()[0])
            scores = scores.model_copy(update={"outcomes": {"submission": submitted, **scores.outcomes}})
        scored.append(scores)
    outcomes = [tables.outcome_table(scored)]
    if submission.kind == "outcomes":
        return outcomes
    return [tables.effect_table(scored), tables.each_effect_table(scored, manifest.random_effects), *outcomes]


def _read(dataset: Dataset, path: Path) -> Submission:
    ids, n_eta = data.split_ids(dataset, "test"), len(dataset.manifest.random_effects)
    arms = len(dataset.arms) if len(dataset.arms) > 1 else 0
    return read_predictions(path, ids=ids, levels=dataset.levels, n_eta=n_eta, times=dataset.manifest.times, arms=arms)


def _arm_table(dataset: Dataset, submission: Submission, replicates: int) -> tables.Table:
    """Scores of predicted individual effects, or of a policy, beside those of what the image can tell."""
    rows: list[tuple[str, ...]] = []
    resampling = Resampling(len(data.split_ids(dataset, "test")), dataset.manifest.seed, replicates)
    latents = np.concatenate([z for _, _, z in data.image_chunks(dataset, "test")])
    info = dataset.manifest.study
    assert info is not None, "only data sets with arms have such predictions"
    about = f"{info.functional}, against {info.arms[0].name}"
    for level, values in submission.levels.items():
        design, truth = design_of(dataset, level), true_effects(dataset, level, "test")
        best = [conditional_effects(design, latents, number) for number in range(1, len(info.arms))]
        if submission.kind == "individual":
            for number in range(1, len(info.arms)):
                predicted = {"oracle E[effect | z]": best[number - 1], "submission": values[:, number - 1]}
                scored = score_effects(predicted, truth[:, [0, number]], resampling)
                rows += [(f"{level:g}", info.arms[number].name, *row) for row in scored]
            continue
        every = np.column_stack([np.zeros(len(latents)), *best])
        chosen = {"oracle E[effect | z]": every.argmax(1), "submission": values[:, 0].astype(np.int64)}
        subject = np.arange(len(truth))
        for name, arm in chosen.items():
            drawn = resampling.of(np.column_stack([truth[subject, arm], truth]))
            gain = drawn.estimate(lambda means: means[..., 0] - means[..., 1:].max(-1))
            rows.append((f"{level:g}", name, f"{gain.value:.4f} [{gain.low:.4f}, {gain.high:.4f}]"))
    if submission.kind == "individual":
        columns: tuple[str, ...] = EFFECT_COLUMNS
        return tables.Table("individual-effects", f"Individual effects on {about}, on test subjects", columns, rows)
    columns = ("association", "policy", "gain over the best single arm")
    return tables.Table("policies", f"Policies for {info.functional}, on test subjects", columns, rows)


def _baselines(dataset: Dataset, folder: Path | None, level: float) -> Mapping[str, NDArray[np.float64]]:
    if folder is None:
        return {}
    if not folder.is_dir():
        raise StorageError(
            "no folder of baseline predictions", where=folder, expected="predictions/ of an evaluation of this data set"
        )
    files = {name: folder / f"{name}-{level:g}.parquet" for name in IMAGE_PREDICTORS}
    return {name: _read(dataset, path).levels[level] for name, path in files.items() if path.is_file()}
