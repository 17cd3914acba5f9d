"""All scores of one association level: random effects, outcomes, forecasts and calibration, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from image_longitudinal.models.evaluation.bootstrap import Resampling, estimate, mean_estimates
from image_longitudinal.models.evaluation.effect_scores import score_effects
from image_longitudinal.models.evaluation.outcome_scores import (
    conditional_nll,
    forecast,
    simulated_nll,
    squared_error,
)
from image_longitudinal.models.evaluation.records import Coverage, ForecastScores, LevelScores, OutcomeScores
from image_longitudinal.models.evaluation.sampled_likelihood import with_omega
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]

NOMINAL_COVERAGES = tuple(round(0.05 * i, 2) for i in range(1, 20))  # of the calibration curve


@dataclass(frozen=True, eq=False)
class HeldOutSubjects:
    """Test subjects of one level: ids (n,), true η, linked η and modes (n, k), outcomes (n, T); the data set's seed."""

    level: float
    ids: NDArray[np.int64]
    eta: FloatArray
    linked: FloatArray
    observed: FloatArray
    modes: FloatArray
    seed: int


@dataclass(frozen=True, eq=False)
class Predictions:
    """η (n, k) by source, and Ω_r (k, k) of the image-informed model if it is one of them."""

    sources: Mapping[str, FloatArray]
    omega: FloatArray | None = None


def score_level(
    model: PopulationModel, truth: HeldOutSubjects, predictions: Predictions, *, resampling: Resampling,
    visits: Sequence[int], known: PopulationModel, workers: int = 1,
) -> LevelScores:  # fmt: skip
    """Score every source of random effects; forecasts and calibration are those of the image-informed model.

    Args:
        model: the fitted population model, under which predicted effects give outcomes.
        truth: the test subjects.
        predictions: of their random effects.
        resampling: the bootstrap over them.
        visits: numbers of observed visits of the forecasts.
        known: the model that generated the outcomes, under which the true effects give outcomes.
        workers: threads.
    """
    ceiling = np.sqrt(truth.level) * truth.linked
    sources = predictions.sources
    realised, effects = score_effects(
        sources, truth=truth.eta, modes=truth.modes, ceiling=ceiling, nominal=truth.level, resampling=resampling
    )
    scores = LevelScores(
        level=truth.level,
        subjects=len(truth.ids),
        variance=float(truth.eta.var(axis=0).mean()),
        ceiling=realised,
        effects=effects,
        outcomes=_score_outcomes(model, known, truth, sources, resampling, workers),
    )
    if predictions.omega is None:
        return scores
    mean, omega = sources["informed"], predictions.omega
    forecasts = _score_forecasts(model, truth, mean, omega, visits, resampling, workers)
    return scores.model_copy(
        update={"forecasts": forecasts, "calibration": _calibration(truth.eta - mean, omega, resampling)}
    )


def _score_outcomes(
    model: PopulationModel, known: PopulationModel, truth: HeldOutSubjects, sources: Mapping[str, FloatArray],
    resampling: Resampling, workers: int,
) -> dict[str, OutcomeScores]:  # fmt: skip
    """By source: MSE and NLL of observed outcomes at its η, and the published NLL of outcomes simulated from it."""
    columns = []
    for name, eta in {"true": truth.eta, **sources}.items():
        under = known if name == "true" else model
        simulated = simulated_nll(
            under, known, eta, truth.eta, seed=truth.seed, stage=f"{name}-{truth.level}", ids=truth.ids, workers=workers
        )
        errors = squared_error(under, truth.observed, eta, workers)
        columns += [errors, conditional_nll(under, truth.observed, eta, workers), simulated]
    means = iter(mean_estimates(np.stack(columns, axis=1), resampling))
    return {
        name: OutcomeScores(mse=next(means), nll_observed=next(means), nll_simulated=next(means))
        for name in ("true", *sources)
    }


def _score_forecasts(
    model: PopulationModel, truth: HeldOutSubjects, mean: FloatArray, omega: FloatArray, visits: Sequence[int],
    resampling: Resampling, workers: int,
) -> tuple[ForecastScores, ...]:  # fmt: skip
    with_image = forecast(with_omega(model, omega), truth.observed, mean, visits, workers)
    without = forecast(model, truth.observed, np.zeros_like(mean), visits, workers)
    columns = []
    for count in visits:
        for errors, eta in (with_image[count], without[count]):
            columns += [errors, np.square(eta - truth.eta).mean(1)]
    stacked = np.stack(columns, axis=1)
    resampled, means = resampling.means(stacked), iter(mean_estimates(stacked, resampling))
    rows = []
    for i, count in enumerate(visits):
        outcomes = [4 * i, 4 * i + 2]  # with the image, without
        rows.append(
            ForecastScores(
                visits=count,
                outcomes_with_image=next(means),
                effects_with_image=next(means),
                outcomes_without=next(means),
                effects_without=next(means),
                gain=estimate(_relative_gain, stacked[:, outcomes], resampled[:, outcomes]),
            )
        )
    return tuple(rows)


def _relative_gain(means: FloatArray) -> FloatArray:
    return np.asarray(1 - means[..., 0] / np.maximum(means[..., 1], 1e-300))


def _calibration(distance: FloatArray, omega: FloatArray, resampling: Resampling) -> tuple[Coverage, ...]:
    """Coverage of the central regions of N(g(x), Ω_r), for each effect and jointly; distance of η from g (n, k)."""
    scaled = np.abs(distance) / np.sqrt(np.diag(omega))
    joint = np.einsum("ni,ij,nj->n", distance, np.linalg.inv(omega), distance)
    k = omega.shape[0]
    inside = [scaled <= stats.norm.ppf(0.5 + nominal / 2) for nominal in NOMINAL_COVERAGES]
    jointly = [joint[:, None] <= stats.chi2.ppf(nominal, k) for nominal in NOMINAL_COVERAGES]
    means = mean_estimates(np.concatenate([*inside, *jointly], axis=1).astype(np.float64), resampling)
    return tuple(
        Coverage(nominal=nominal, each=tuple(means[k * i : k * (i + 1)]), joint=means[k * len(NOMINAL_COVERAGES) + i])
        for i, nominal in enumerate(NOMINAL_COVERAGES)
    )
