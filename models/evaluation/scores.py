"""Scores of predicted random effects, with bootstrap intervals over subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.bootstrap import Estimate, Resampling, estimate

FloatArray = NDArray[np.float64]
Figure = Callable[[FloatArray], FloatArray]  # means (..., M) → (...,)


def squares(truth: FloatArray, predicted: FloatArray) -> FloatArray:
    """Per subject and effect what MSE and R² are made of: (n, 3k), squared errors, truths, squared truths."""
    return np.concatenate([np.square(truth - predicted), truth, np.square(truth)], axis=1)


def mse(means: FloatArray) -> FloatArray:
    """Mean squared error over effects, of means (..., 3k) of :func:`squares`."""
    return np.asarray(_thirds(means)[0].mean(-1))


def r_squared(means: FloatArray) -> FloatArray:
    """1 - Σ squared error / Σ squared distance from the mean, summed over effects too, of means (..., 3k)."""
    error, truth, square = _thirds(means)
    return np.asarray(1 - error.sum(-1) / np.maximum((square - truth**2).sum(-1), 1e-300))


def r_squared_of(effect: int) -> Figure:
    """R² of one effect."""

    def figure(means: FloatArray) -> FloatArray:
        error, truth, square = (part[..., effect] for part in _thirds(means))
        return np.asarray(1 - error / np.maximum(square - truth**2, 1e-300))

    return figure


def ratio(first: Figure, second: Figure) -> Figure:
    """``first`` of the front half of the columns over ``second`` of the back half."""

    def figure(means: FloatArray) -> FloatArray:
        half = means.shape[-1] // 2
        below = second(means[..., half:])
        return np.asarray(first(means[..., :half]) / np.where(np.abs(below) < 1e-12, np.nan, below))

    return figure


@dataclass(frozen=True)
class EffectScores:
    """Scores of one source of random effects at one level; shares are fractions of R²."""

    mse: Estimate
    r2: Estimate
    r2_each: tuple[Estimate, ...]
    mse_to_modes: Estimate
    r2_to_modes: Estimate
    of_nominal: Estimate
    of_realised: Estimate
    of_oracle: Estimate | None


def score_effects(
    sources: Mapping[str, FloatArray],
    *,
    truth: FloatArray,
    modes: FloatArray,
    ceiling: FloatArray,
    nominal: float,
    resampling: Resampling,
    oracle: str | None = "oracle",
) -> dict[str, EffectScores]:
    """Score each source's η (n, k) on the test subjects.

    Args:
        sources: predicted random effects by name.
        truth: the true ones, (n, k).
        modes: the empirical Bayes estimates, (n, k).
        ceiling: E[η | z], (n, k), whose R² on these very subjects is the realised ceiling.
        nominal: the association level, the ceiling in an infinite population.
        resampling: the bootstrap.
        oracle: name of the source that bounds the reader.
    """
    k = truth.shape[1]
    blocks = [squares(truth, ceiling)]
    for eta in sources.values():
        blocks += [squares(truth, eta), squares(modes, eta)]
    columns = np.concatenate(blocks, axis=1)
    resampled = resampling.means(columns)
    place = {"ceiling": 0} | {name: 3 * k * (1 + 2 * i) for i, name in enumerate(sources)}

    def of(figure: Figure, *starts: int) -> Estimate:
        chosen = np.concatenate([np.arange(start, start + 3 * k) for start in starts])
        return estimate(figure, columns[:, chosen], resampled[:, chosen])

    scores = {}
    for name, start in place.items():
        if name == "ceiling":
            continue
        scores[name] = EffectScores(
            mse=of(mse, start),
            r2=of(r_squared, start),
            r2_each=tuple(of(r_squared_of(effect), start) for effect in range(k)),
            mse_to_modes=of(mse, start + 3 * k),
            r2_to_modes=of(r_squared, start + 3 * k),
            of_nominal=of(r_squared, start).scaled(1 / nominal),
            of_realised=of(ratio(r_squared, r_squared), start, 0),
            of_oracle=of(ratio(r_squared, r_squared), start, place[oracle]) if oracle in place else None,
        )
    return scores


def realised_ceiling(truth: FloatArray, ceiling: FloatArray, resampling: Resampling) -> Estimate:
    """R² of E[η | z] on these subjects."""
    columns = squares(truth, ceiling)
    return estimate(r_squared, columns, resampling.means(columns))


def mean_of(values: FloatArray, resampling: Resampling) -> Estimate:
    """The mean of one number per subject, (n,)."""
    columns = values[:, None]
    return estimate(lambda means: means[..., 0], columns, resampling.means(columns))


def _thirds(means: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    k = means.shape[-1] // 3
    return means[..., :k], means[..., k : 2 * k], means[..., 2 * k :]
