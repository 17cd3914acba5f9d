"""Scores of submitted predictions for the test subjects, in the evaluation's tables, with baselines."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.config import EvaluationConfig
from image_longitudinal.core.errors import StorageError
from image_longitudinal.models.evaluation.bootstrap import Resampling, mean_estimates
from image_longitudinal.models.evaluation.level_scores import Predictions, score_level
from image_longitudinal.models.evaluation.predictors import IMAGE_PREDICTORS, with_references
from image_longitudinal.models.evaluation.records import OutcomeScores
from image_longitudinal.models.nlme.estimation.ebes import empirical_bayes
from image_longitudinal.storage.dataset.predictions import Submission, read_predictions
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.tasks.evaluation import data, tables
from image_longitudinal.tasks.evaluation.checks import check_is_evaluable
from image_longitudinal.tasks.evaluation.run import true_model


def score_predictions(
    dataset: Dataset, path: Path, baselines: Path | None, *, replicates: int, workers: int
) -> list[tables.Table]:
    """Tables of a submission: of random effects and outcomes, or of outcomes alone if it predicts those.

    Outcomes and empirical Bayes estimates are those of the true population. Average, random and empirical Bayes
    subjects are always in the tables, the predictors of an evaluation if its folder is given.

    Args:
        dataset: a published data set.
        path: the submitted file; docs/scoring.md describes its columns.
        baselines: folder ``predictions`` of an evaluation of this data set.
        replicates: of the bootstrap.
        workers: threads.

    Raises:
        StorageError: the file is malformed, or the data set has no test subjects.
    """
    settings = EvaluationConfig(bootstrap=replicates)
    check_is_evaluable(dataset, settings)
    manifest, model, submission = dataset.manifest, true_model(dataset.manifest), _read(dataset, path)
    resampling = Resampling(len(data.split_ids(dataset, "test")), manifest.seed, replicates)
    scored = []
    for level, values in submission.levels.items():
        observed = data.outcomes(dataset, level, "test")
        truth = data.held_out_subjects(
            dataset, level, observed, empirical_bayes(model, observed, n_threads=workers).eta
        )
        sources = _baselines(dataset, baselines, level)
        if submission.kind == "effects":
            sources = {"submission": values, **sources}
        predictions = Predictions(with_references(sources, truth, model.omega))
        scores = score_level(
            model, truth, predictions, resampling=resampling, visits=settings.visits, known=model, workers=workers
        )
        if submission.kind == "outcomes":
            error = np.square(truth.observed - values).mean(1, keepdims=True)
            outcomes = {"submission": OutcomeScores(mse=mean_estimates(error, resampling)[0]), **scores.outcomes}
            scores = scores.model_copy(update={"outcomes": outcomes})
        scored.append(scores)
    if submission.kind == "outcomes":
        return [tables.outcome_table(scored)]
    effects = tables.effect_table(scored), tables.each_effect_table(scored, manifest.random_effects)
    return [*effects, tables.outcome_table(scored)]


def _read(dataset: Dataset, path: Path) -> Submission:
    manifest = dataset.manifest
    return read_predictions(
        path,
        ids=data.split_ids(dataset, "test"),
        levels=dataset.levels,
        n_eta=len(manifest.random_effects),
        times=manifest.times,
    )


def _baselines(dataset: Dataset, folder: Path | None, level: float) -> Mapping[str, NDArray[np.float64]]:
    if folder is None:
        return {}
    if not folder.is_dir():
        raise StorageError(
            "no folder of baseline predictions", where=folder, expected="predictions/ of an evaluation of this data set"
        )
    files = {name: folder / f"{name}-{level:g}.parquet" for name in IMAGE_PREDICTORS}
    return {name: _read(dataset, path).levels[level] for name, path in files.items() if path.is_file()}
