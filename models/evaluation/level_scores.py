"""All scores of one association level: random effects, outcomes, forecasts and calibration, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from image_longitudinal.core.random import stream_key
from image_longitudinal.models.evaluation.bootstrap import Estimate, Figure, Resampling
from image_longitudinal.models.evaluation.records import (
    Coverage,
    EffectScores,
    ForecastScores,
    LevelScores,
    OutcomeScores,
)
from image_longitudinal.models.evaluation.subject_likelihood import informed_modes, with_omega
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

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
    sources, omega = predictions.sources, predictions.omega
    realised, effects = score_effects(
        sources, truth=truth.eta, modes=truth.modes, ceiling=np.sqrt(truth.level) * truth.linked, nominal=truth.level,
        resampling=resampling,
    )  # fmt: skip
    scores = LevelScores(
        level=truth.level,
        subjects=len(truth.ids),
        variance=float(truth.eta.var(axis=0).mean()),
        ceiling=realised,
        effects=effects,
        outcomes=_score_outcomes(model, known, truth, sources, resampling, workers),
    )
    if omega is None:
        return scores
    mean = sources["informed"]
    forecasts = _score_forecasts(model, truth, mean, omega, visits, resampling, workers)
    calibration = _calibration(truth.eta - mean, omega, resampling)
    return scores.model_copy(update={"forecasts": forecasts, "calibration": calibration})


def squares(truth: FloatArray, predicted: FloatArray) -> FloatArray:
    """The columns (n, 3k) behind MSE and R²: squared errors, truths and squared truths of each effect."""
    return np.concatenate([np.square(truth - predicted), truth, np.square(truth)], axis=1)


def mse(means: FloatArray) -> FloatArray:
    """Mean squared error over effects, of means (..., 3k) of :func:`squares`."""
    return np.asarray(np.split(means, 3, axis=-1)[0].mean(-1))


def pooled_r2(means: FloatArray) -> FloatArray:
    """1 - Σ squared error / Σ squared distance from the mean, summed over effects, of means (..., 3k)."""
    error, truth, square = np.split(means, 3, axis=-1)
    return np.asarray(1 - error.sum(-1) / np.maximum((square - truth**2).sum(-1), 1e-300))


def _r2_ratio(means: FloatArray) -> FloatArray:
    """Pooled R² of the first half of the columns over that of the second half."""
    first, second = np.split(means, 2, axis=-1)
    below = pooled_r2(second)
    return np.asarray(pooled_r2(first) / np.where(np.abs(below) < 1e-12, np.nan, below))


def score_effects(
    sources: Mapping[str, FloatArray], *, truth: FloatArray, modes: FloatArray, ceiling: FloatArray, nominal: float,
    resampling: Resampling,
) -> tuple[Estimate, dict[str, EffectScores]]:  # fmt: skip
    """The realised ceiling, and the scores of each source's η (n, k) on the test subjects.

    Args:
        sources: predicted random effects by name.
        truth: the true ones, (n, k); ``modes`` are the empirical Bayes estimates.
        ceiling: E[η | z], (n, k), whose R² on these very subjects is the realised ceiling.
        nominal: the association level: the ceiling in an infinite population.
        resampling: the bootstrap.
    """
    k = truth.shape[1]
    blocks = [squares(truth, ceiling)]
    for eta in sources.values():
        blocks += [squares(truth, eta), squares(modes, eta)]
    resampled = resampling.of(np.concatenate(blocks, axis=1))
    block = np.arange(3 * k)
    starts = {name: 3 * k * (1 + 2 * i) for i, name in enumerate(sources)}

    def of(figure: Figure, *begins: int) -> Estimate:
        return resampled.estimate(figure, np.concatenate([begin + block for begin in begins]))

    scores = {
        name: EffectScores(
            mse=of(mse, start),
            r2=of(pooled_r2, start),
            r2_each=tuple(resampled.estimate(pooled_r2, start + block[i::k]) for i in range(k)),
            mse_to_modes=of(mse, start + 3 * k),
            r2_to_modes=of(pooled_r2, start + 3 * k),
            of_nominal=of(pooled_r2, start).scaled(1 / nominal),
            of_realised=of(_r2_ratio, start, 0),
            of_oracle=of(_r2_ratio, start, starts["oracle"]) if "oracle" in starts else None,
        )
        for name, start in starts.items()
    }
    return of(pooled_r2, 0), scores


def _score_outcomes(
    model: PopulationModel, known: PopulationModel, truth: HeldOutSubjects, sources: Mapping[str, FloatArray],
    resampling: Resampling, workers: int,
) -> dict[str, OutcomeScores]:  # fmt: skip
    """By source: MSE and NLL of observed outcomes at its η, and the published NLL of outcomes simulated from it.

    The latter scores outcomes *simulated* from η under ``known`` at the true effects. It measures whether a simulated
    population could come from the true one; it scores no observed outcome.
    """
    columns, expected = [], simulate(known, truth.eta, n_threads=workers)
    for name, eta in {"true": truth.eta, **sources}.items():
        under = known if name == "true" else model
        prediction = simulate(under, eta, n_threads=workers)
        key = stream_key(truth.seed, "evaluation-simulated", f"{name}-{truth.level}")
        simulated = observe(under, prediction, key=key, ids=truth.ids)
        columns += [
            np.square(truth.observed - prediction).mean(1),
            _conditional_nll(under, truth.observed, prediction),
            _conditional_nll(known, simulated, expected),
        ]
    means = iter(resampling.of(np.stack(columns, axis=1)).mean_estimates())
    return {
        name: OutcomeScores(mse=next(means), nll_observed=next(means), nll_simulated=next(means))
        for name in ("true", *sources)
    }


def _conditional_nll(model: PopulationModel, observed: NDArray[np.floating], prediction: FloatArray) -> FloatArray:
    """-log p(observed | η) over all visits, (n,), of outcomes and predictions at η, (n, T)."""
    seen, sd = np.asarray(observed, np.float64), np.maximum(model.residual.standard_deviation(prediction), 1e-12)
    jacobian = 0.0
    if model.residual.kind == "log-normal":
        prediction, seen = np.log(np.maximum(prediction, 1e-300)), np.log(seen)
        jacobian = seen.sum(1)
    terms = 0.5 * np.square((seen - prediction) / sd) + np.log(sd) + 0.5 * np.log(2 * np.pi)
    return np.asarray(terms.sum(1) + jacobian)


def _score_forecasts(
    model: PopulationModel, truth: HeldOutSubjects, mean: FloatArray, omega: FloatArray, visits: Sequence[int],
    resampling: Resampling, workers: int,
) -> tuple[ForecastScores, ...]:  # fmt: skip
    """Forecasts of the outcomes after the largest number of ``visits``, from the first visits after the first dose.

    With the image the prior of η is N(mean, Ω_r), without it N(0, Ω).
    """
    first_dose = min((dose.time for dose in model.design.doses), default=-np.inf)
    informative = np.flatnonzero(np.asarray(model.design.times) > first_dose)  # earlier visits hold no information
    later = informative[max(visits) :]
    columns = []
    for count in visits:
        for prior, center in ((with_omega(model, omega), mean), (model, np.zeros_like(mean))):
            eta = center
            if count:
                seen = informative[:count]
                eta = informed_modes(prior, truth.observed, center, columns=seen, workers=workers).eta
            prediction = simulate(prior, eta, n_threads=workers)
            columns += [
                np.square(truth.observed[:, later] - prediction[:, later]).mean(1),
                np.square(eta - truth.eta).mean(1),
            ]
    resampled = resampling.of(np.stack(columns, axis=1))
    means = iter(resampled.mean_estimates())
    return tuple(
        ForecastScores(
            visits=count,
            outcomes_with_image=next(means),
            effects_with_image=next(means),
            outcomes_without=next(means),
            effects_without=next(means),
            gain=resampled.estimate(lambda of: 1 - of[..., 0] / np.maximum(of[..., 1], 1e-300), [4 * i, 4 * i + 2]),
        )
        for i, count in enumerate(visits)
    )


def _calibration(distance: FloatArray, omega: FloatArray, resampling: Resampling) -> tuple[Coverage, ...]:
    """Coverage of the central regions of N(g(x), Ω_r), for each effect and jointly; distance of η from g (n, k)."""
    scaled = np.abs(distance) / np.sqrt(np.diag(omega))
    joint = np.einsum("ni,ij,nj->n", distance, np.linalg.inv(omega), distance)
    k = omega.shape[0]
    inside = [scaled <= stats.norm.ppf(0.5 + nominal / 2) for nominal in NOMINAL_COVERAGES]
    jointly = [joint[:, None] <= stats.chi2.ppf(nominal, k) for nominal in NOMINAL_COVERAGES]
    means = resampling.of(np.concatenate([*inside, *jointly], axis=1)).mean_estimates()
    return tuple(
        Coverage(nominal=nominal, each=tuple(means[k * i : k * (i + 1)]), joint=means[k * len(NOMINAL_COVERAGES) + i])
        for i, nominal in enumerate(NOMINAL_COVERAGES)
    )
