"""Does a data set hold what its design says? Every statement as a test with an estimate, an interval and a p-value.

The statements are judged together: with m of them, one fails when its p-value is below 0.01 / m (Bonferroni), so that a
data set made as designed fails any of them once in a hundred data sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from image_longitudinal.models.design.association import AssociationSums
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import simulate

FloatArray = NDArray[np.float64]

FAMILY = 0.01  # probability that a data set made as designed fails any check
SAMPLE = 20_000  # values a test of distribution takes: it would call float32's rounding a departure given millions


@dataclass(frozen=True)
class Check:
    """One statement about the design: what it is, what was found with its 95 % interval, what was expected."""

    group: str
    name: str
    level: float | None
    value: float
    low: float
    high: float
    expected: float
    p: float


def failures(checks: Sequence[Check]) -> list[Check]:
    """The checks that fail when all are judged together."""
    return [check for check in checks if check.p < FAMILY / max(len(checks), 1)]


def association_checks(level: float, linked: FloatArray, used: FloatArray, names: Sequence[str]) -> list[Check]:
    """Share of each effect's variance that is tied to the image: ``linked`` and ``used`` effects, (n, k)."""
    checks = []
    for name, x, y in zip(names, linked.T, used.T, strict=True):
        value, low, high = AssociationSums.of(x, y).r_squared()
        r = np.corrcoef(x, y)[0, 1]
        if level == 1:
            p = 1.0 if np.array_equal(x, y) else 0.0
        else:
            z = (np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)) - np.arctanh(np.sqrt(level))) * np.sqrt(len(x) - 3)
            p = float(2 * stats.norm.sf(abs(z)))
        checks.append(Check("association", f"R² of {name} on the image's entry", level, value, low, high, level, p))
    return checks


def effect_checks(
    level: float, linked: FloatArray, used: FloatArray, omega: FloatArray, names: Sequence[str]
) -> list[Check]:
    """Mean, variance and shape of the effects, and that what the image does not hold is independent of what it does."""
    checks, sd = [], np.sqrt(np.diag(omega))
    for name, y, scale in zip(names, used.T, sd, strict=True):
        checks += [
            _mean("random effects", f"mean of {name}", level, y / scale),
            _variance("random effects", f"variance of {name}", level, y / scale),
            _shape("random effects", f"{name} is normal", level, y / scale),
        ]
    if level < 1:
        noise = (used - np.sqrt(level) * linked) / np.sqrt(1 - level)
        for i, first in enumerate(names):
            for j, second in enumerate(names):
                checks.append(
                    _correlation("independence", f"noise of {first} and {second}", level, noise[:, i], linked[:, j])
                )
    return checks


def residual_checks(
    model: PopulationModel, level: float, observed: NDArray[np.floating], eta: FloatArray, workers: int = 1
) -> list[Check]:
    """Outcomes less the model's prediction, in residual standard deviations: (n, T) outcomes of effects (n, k)."""
    prediction = simulate(model, eta, n_threads=workers)
    seen = np.asarray(observed, np.float64)
    if model.residual.kind == "log-normal":
        scaled = np.log(seen / prediction) / model.residual.standard_deviation(prediction)
    else:
        scaled = (seen - prediction) / np.maximum(model.residual.standard_deviation(prediction), 1e-12)
    flat = scaled.ravel()
    checks = [
        _mean("residuals", "mean", level, flat),
        _variance("residuals", "variance", level, flat),
        _shape("residuals", "normal", level, flat),
    ]
    if scaled.shape[1] > 1:
        before, after = scaled[:, :-1].ravel(), scaled[:, 1:].ravel()
        checks.append(_correlation("residuals", "correlation of neighbouring visits", level, before, after))
    return checks


def balance_checks(groups: dict[str, FloatArray], names: Sequence[str]) -> list[Check]:
    """Effects (n, k) of every split against those of the first: equal means."""
    (_, reference), *others = groups.items()
    checks = []
    for split, values in others:
        for name, x, y in zip(names, reference.T, values.T, strict=True):
            if len(y) < 2:
                continue
            gap, error = y.mean() - x.mean(), np.sqrt(y.var(ddof=1) / len(y) + x.var(ddof=1) / len(x))
            p = float(2 * stats.norm.sf(abs(gap) / error))
            found = (float(gap), float(gap - 1.96 * error), float(gap + 1.96 * error), p)
            checks.append(_of(found, "balance", f"mean of {name}, {split} less train", None, 0.0))
    return checks


def latent_checks(chunks: Iterable[NDArray[np.floating]]) -> list[Check]:
    """Latents (m, D), some at a time: entries are N(0, 1) and uncorrelated. The worst entry of each kind is judged."""
    n, total, gram, first = 0, np.zeros(0), np.zeros((0, 0)), []
    for chunk in chunks:
        z = np.asarray(chunk, np.float64)
        if n == 0:
            total, gram = np.zeros(z.shape[1]), np.zeros((z.shape[1],) * 2)
        if n < SAMPLE:
            first.append(z[: SAMPLE - n])
        n, total, gram = n + len(z), total + z.sum(0), gram + z.T @ z
    mean = total / n
    covariance = (gram - n * np.outer(mean, mean)) / max(n - 1, 1)
    d = len(mean)
    variance, sample = np.atleast_1d(np.diag(covariance)), np.concatenate(first)
    shapes = [float(stats.kstest(column, "norm").pvalue) for column in sample.T]
    off = _correlations(covariance)
    worst_mean, worst_variance = int(np.abs(mean).argmax()), int(np.abs(np.log(variance)).argmax())
    checks = [
        _of(_mean_of(mean[worst_mean], 1.0, n), "latents", f"mean of entry {worst_mean}, the farthest", None, 0.0, d),
        _of(
            _variance_of(variance[worst_variance], n),
            "latents", f"variance of entry {worst_variance}, the farthest", None, 1.0, d,
        ),
        Check("latents", "smallest p-value of normality over entries", None, min(shapes), 0.0, 1.0, 0.5,
              min(1.0, d * min(shapes))),
    ]  # fmt: skip
    if len(off):
        r = float(off[np.abs(off).argmax()])
        checks.append(_of(_correlation_of(r, n), "latents", "largest correlation of two entries", None, 0.0, len(off)))
    return checks


Found = tuple[float, float, float, float]  # value, 95 % interval, p


def _of(found: Found, group: str, name: str, level: float | None, expected: float, among: int = 1) -> Check:
    """A check; ``among`` is how many candidates the found value is the worst of."""
    value, low, high, p = found
    return Check(group, name, level, float(value), float(low), float(high), expected, float(min(1.0, p * among)))


def _mean(group: str, name: str, level: float | None, x: FloatArray) -> Check:
    return _of(_mean_of(x.mean(), x.std(ddof=1), len(x)), group, name, level, 0.0)


def _variance(group: str, name: str, level: float | None, x: FloatArray) -> Check:
    return _of(_variance_of(x.var(ddof=1), len(x)), group, name, level, 1.0)


def _shape(group: str, name: str, level: float | None, x: FloatArray) -> Check:
    """Kolmogorov-Smirnov distance from N(0, 1)."""
    found = stats.kstest(x[:SAMPLE], "norm")
    return Check(group, name, level, float(found.statistic), 0.0, float(found.statistic), 0.0, float(found.pvalue))


def _correlation(group: str, name: str, level: float | None, x: FloatArray, y: FloatArray) -> Check:
    return _of(_correlation_of(float(np.corrcoef(x, y)[0, 1]), len(x)), group, name, level, 0.0)


def _mean_of(mean: float, sd: float, n: int) -> Found:
    error = sd / np.sqrt(n)
    return mean, mean - 1.96 * error, mean + 1.96 * error, 2 * stats.norm.sf(abs(mean) / error)


def _variance_of(variance: float, n: int) -> Found:
    freedom = n - 1
    low, high = (float(freedom * variance / stats.chi2.ppf(q, freedom)) for q in (0.975, 0.025))
    tail = stats.chi2.cdf(freedom * variance, freedom)
    return variance, low, high, 2 * min(tail, 1 - tail)


def _correlation_of(r: float, n: int) -> Found:
    z, error = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1 / np.sqrt(max(n - 3, 1))
    return r, np.tanh(z - 1.96 * error), np.tanh(z + 1.96 * error), 2 * stats.norm.sf(abs(z) / error)


def _correlations(covariance: FloatArray) -> FloatArray:
    sd = np.sqrt(np.diag(covariance))
    return np.asarray((covariance / np.outer(sd, sd))[np.triu_indices(len(sd), 1)])
