"""All figures of one association level: effects, outcomes, forecasts and calibration, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from image_longitudinal.models.evaluation.bootstrap import Estimate, Resampling, estimate
from image_longitudinal.models.evaluation.outcomes import conditional_nll, forecast, simulated_nll, squared_error
from image_longitudinal.models.evaluation.scores import EffectScores, realised_ceiling, score_effects
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]

SHARES = tuple(round(0.05 * i, 2) for i in range(1, 20))  # nominal coverage of the calibration curve


@dataclass(frozen=True, eq=False)
class Truth:
    """Test subjects of one level: ids (n,), true η, η linked to the image and modes (n, k), outcomes (n, T)."""

    level: float
    ids: NDArray[np.int64]
    eta: FloatArray
    linked: FloatArray
    observed: FloatArray
    modes: FloatArray
    seed: int


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted η (n, k) by source, draws from the population (n, k), and Ω_r of ``informed`` (k, k)."""

    sources: Mapping[str, FloatArray]
    random: FloatArray
    omega: FloatArray | None = None


def summarise(
    model: PopulationModel,
    truth: Truth,
    predictions: Predictions,
    *,
    resampling: Resampling,
    visits: Sequence[int],
    known: PopulationModel,
    workers: int = 1,
) -> dict[str, Any]:
    """Figures as plain values; an estimate is [value, low, high].

    Args:
        model: the fitted population model, under which predicted effects give outcomes.
        truth: the test subjects.
        predictions: of their random effects.
        resampling: the bootstrap over them.
        visits: numbers of observed visits of the forecasts.
        known: the model that made the outcomes, under which the true effects do.
        workers: threads.
    """
    ceiling = np.sqrt(truth.level) * truth.linked
    given = {
        **predictions.sources,
        "ebe": truth.modes,
        "average": np.zeros_like(truth.eta),
        "random": predictions.random,
    }
    scores = score_effects(
        given, truth=truth.eta, modes=truth.modes, ceiling=ceiling, nominal=truth.level, resampling=resampling
    )
    result: dict[str, Any] = {
        "level": truth.level,
        "subjects": len(truth.ids),
        "variance": float(truth.eta.var(axis=0).mean()),
        "ceiling": plain(realised_ceiling(truth.eta, ceiling, resampling)),
        "effects": {name: _plain_scores(score) for name, score in scores.items()},
        "outcomes": outcome_scores(model, known, truth, given, resampling, workers),
    }
    if predictions.omega is not None:
        mean = predictions.sources["informed"]
        result["forecasts"] = _forecasts(model, truth, mean, predictions.omega, visits, resampling, workers)
        result["calibration"] = _calibration(truth.eta - mean, predictions.omega, resampling)
    return result


def outcome_scores(
    model: PopulationModel,
    known: PopulationModel,
    truth: Truth,
    sources: Mapping[str, FloatArray],
    resampling: Resampling,
    workers: int = 1,
) -> dict[str, dict[str, list[float]]]:
    """By source: MSE and NLL of observed outcomes at its η, and the original's NLL of outcomes simulated from it."""
    names, columns = [], []
    for name, eta in {"true": truth.eta, **sources}.items():
        under = known if name == "true" else model
        names.append(name)
        columns += [
            squared_error(under, truth.observed, eta, workers),
            conditional_nll(under, truth.observed, eta, workers),
            _simulated(under, known, truth, name, eta, workers),
        ]
    stacked = np.stack(columns, axis=1)
    resampled = resampling.means(stacked)
    figures = ("mse", "nll_observed", "nll_simulated")
    return {
        name: {figure: plain(_column(stacked, resampled, 3 * i + j)) for j, figure in enumerate(figures)}
        for i, name in enumerate(names)
    }


def plain(value: Estimate) -> list[float]:
    """[value, low, high]."""
    return [value.value, value.low, value.high]


def _simulated(
    under: PopulationModel, known: PopulationModel, truth: Truth, name: str, eta: FloatArray, workers: int
) -> FloatArray:
    stage = f"{name}-{truth.level}"
    return simulated_nll(under, known, eta, truth.eta, seed=truth.seed, stage=stage, ids=truth.ids, workers=workers)


def _forecasts(
    model: PopulationModel,
    truth: Truth,
    mean: FloatArray,
    omega: FloatArray,
    visits: Sequence[int],
    resampling: Resampling,
    workers: int,
) -> list[dict[str, Any]]:
    """Per number of visits: error of later outcomes and of η, with the image and without."""
    informed = replace(model, omega=tuple(map(tuple, omega.tolist())))
    with_image = forecast(informed, truth.observed, mean, visits, workers)
    without = forecast(model, truth.observed, np.zeros_like(mean), visits, workers)
    columns = []
    for count in visits:
        for errors, eta in (with_image[count], without[count]):
            columns += [errors, np.square(eta - truth.eta).mean(1)]
    stacked = np.stack(columns, axis=1)
    resampled = resampling.means(stacked)
    rows = []
    for i, count in enumerate(visits):
        first = 4 * i
        gain = estimate(
            lambda means: 1 - means[..., 0] / np.maximum(means[..., 1], 1e-300),
            stacked[:, [first, first + 2]],
            resampled[:, [first, first + 2]],
        )
        names = ("outcomes_with_image", "effects_with_image", "outcomes_without", "effects_without")
        row: dict[str, Any] = {name: plain(_column(stacked, resampled, first + j)) for j, name in enumerate(names)}
        rows.append({"visits": count, **row, "gain": plain(gain)})
    return rows


def _calibration(distance: FloatArray, omega: FloatArray, resampling: Resampling) -> list[dict[str, Any]]:
    """Share of subjects whose true effects lie in the central region of N(g(x), Ω_r) that should hold a given share."""
    scaled = np.abs(distance) / np.sqrt(np.diag(omega))
    joint = np.einsum("ni,ij,nj->n", distance, np.linalg.inv(omega), distance)
    k = omega.shape[0]
    inside = [(scaled <= stats.norm.ppf(0.5 + share / 2)).astype(float) for share in SHARES]
    together = [(joint <= stats.chi2.ppf(share, k)).astype(float) for share in SHARES]
    stacked = np.concatenate([*inside, np.stack(together, axis=1)], axis=1)
    resampled = resampling.means(stacked)
    return [
        {
            "nominal": share,
            "each": [plain(_column(stacked, resampled, k * i + j)) for j in range(k)],
            "joint": plain(_column(stacked, resampled, k * len(SHARES) + i)),
        }
        for i, share in enumerate(SHARES)
    ]


def _column(stacked: FloatArray, resampled: FloatArray, index: int) -> Estimate:
    return estimate(lambda means: means[..., 0], stacked[:, [index]], resampled[:, [index]])


def _plain_scores(score: EffectScores) -> dict[str, Any]:
    return {
        "mse": plain(score.mse),
        "r2": plain(score.r2),
        "r2_each": [plain(one) for one in score.r2_each],
        "mse_to_modes": plain(score.mse_to_modes),
        "r2_to_modes": plain(score.r2_to_modes),
        "of_nominal": plain(score.of_nominal),
        "of_realised": plain(score.of_realised),
        "of_oracle": plain(score.of_oracle) if score.of_oracle else None,
    }
