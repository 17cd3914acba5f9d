"""Anyone's predictions for the held-out split, scored with the evaluation's tables beside baseline entries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.config import EvaluationConfig
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.evaluation.bootstrap import Resampling
from image_longitudinal.models.evaluation.scores import mean_of
from image_longitudinal.models.evaluation.summary import Predictions, Truth, plain, summarise
from image_longitudinal.models.nlme.estimation.ebes import empirical_bayes
from image_longitudinal.storage.dataset.predictions import Submission, read_predictions
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.tasks.evaluation import data, tables
from image_longitudinal.tasks.evaluation.spec import EvaluationSpec, check_is_evaluable

MINE = "submission"
BASELINES = ("regression", "resnet", "informed", "one_step", "oracle")  # as evaluate leaves them in predictions/


def score_predictions(
    dataset: Dataset, path: Path, baselines: Path | None, *, replicates: int, workers: int
) -> list[tables.Table]:
    """Tables of a submission: of random effects and outcomes, or of outcomes alone where it predicts those.

    The truth is known here, so outcomes and empirical Bayes estimates are those of the true population. Average,
    random and empirical Bayes subjects are always beside it, those of an evaluation where its folder is given.

    Args:
        dataset: a published data set.
        path: the file handed in; docs/scoring.md says what it holds.
        baselines: folder ``predictions`` of an evaluation of this data set.
        replicates: of the bootstrap.
        workers: threads.

    Raises:
        StorageError: the file is malformed, or the data set has no test subjects.
    """
    settings = EvaluationConfig(bootstrap=replicates)
    check_is_evaluable(dataset, settings)
    spec = EvaluationSpec(
        url=dataset.root.url, identity=dataset.manifest.identity, settings=settings, workspace="", device="cpu",
        workers=workers,
    )  # fmt: skip
    submission = _read(dataset, path)
    resampling = Resampling(len(data.split_ids(dataset, "test")), dataset.manifest.seed, replicates)
    scored = []
    for level, values in submission.levels.items():
        sources = _baselines(dataset, baselines, level)
        if submission.kind == "effects":
            sources = {MINE: values, **sources}
        truth, known = truth_of(spec, level), spec.model
        drawn = normals(stream_key(truth.seed, "evaluation-random", level), truth.ids, truth.eta.shape[1])
        random = drawn @ np.linalg.cholesky(np.asarray(known.omega)).T
        figures = summarise(
            known, truth, Predictions(sources, random), resampling=resampling, visits=settings.visits, known=known,
            workers=workers,
        )  # fmt: skip
        if submission.kind == "outcomes":
            error = np.square(truth.observed - values).mean(1)
            mine = {"mse": plain(mean_of(error, resampling)), "nll_observed": None, "nll_simulated": None}
            figures["outcomes"] = {MINE: mine, **figures["outcomes"]}
        scored.append(figures)
    outcomes = tables.outcome_table(scored)
    if submission.kind == "outcomes":
        return [outcomes]
    names = dataset.manifest.random_effects
    return [tables.effect_table(scored), tables.each_effect_table(scored, names), outcomes]


def truth_of(spec: EvaluationSpec, level: float) -> Truth:
    """The test subjects of a level, their modes under the true population."""
    dataset, known = spec.dataset, spec.model
    observed = data.outcomes(dataset, level, "test")
    return Truth(
        level=level,
        ids=data.split_ids(dataset, "test"),
        eta=data.true_effects(dataset, level, "test"),
        linked=data.linked_effects(dataset, "test"),
        observed=observed.astype(np.float64),
        modes=empirical_bayes(known, observed, n_threads=spec.workers).eta,
        seed=dataset.manifest.seed,
    )


def _read(dataset: Dataset, path: Path) -> Submission:
    manifest = dataset.manifest
    return read_predictions(
        path,
        ids=data.split_ids(dataset, "test"),
        levels=dataset.levels,
        n_eta=len(manifest.random_effects),
        times=manifest.times,
    )


def _baselines(dataset: Dataset, folder: Path | None, level: float) -> Mapping[str, NDArray[Any]]:
    if folder is None:
        return {}
    if not folder.is_dir():
        raise StorageError(
            "no folder of baseline predictions", where=folder, expected="predictions/ of an evaluation of this data set"
        )
    files = {name: folder / f"{name}-{level:g}.parquet" for name in BASELINES}
    return {name: _read(dataset, path).levels[level] for name, path in files.items() if path.is_file()}
