"""Checks of a data set against its design, judged together: one of m fails when its p-value is below 0.01 / m.

So of a hundred data sets generated as designed at most one fails any check (Bonferroni).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from image_longitudinal.models.design.association import AssociationSums
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import simulate

FloatArray = NDArray[np.float64]

FAMILY = 0.01  # probability that a data set generated as designed fails any check
SAMPLE = 20_000  # most values in a test of a distribution: with millions it would detect the rounding of float32


@dataclass(frozen=True)
class Check:
    """One statement about the design: the value found with its 95 % interval, the value expected, and the p-value.

    ``passed`` is decided by :func:`judged`, over all checks together.
    """

    group: str
    name: str
    level: float | None
    value: float
    low: float
    high: float
    expected: float
    p: float
    passed: bool = True


def judged(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks with their verdicts, judged together."""
    return tuple(replace(check, passed=not check.p < FAMILY / len(checks)) for check in checks)


def association_checks(level: float, linked: FloatArray, used: FloatArray, names: Sequence[str]) -> list[Check]:
    """R² of each random effect on its linked latent dimension: ``linked`` and ``used`` effects, (n, k)."""
    checks = []
    for name, x, y in zip(names, linked.T, used.T, strict=True):
        value, low, high = AssociationSums.of(x, y).r_squared()
        r = np.corrcoef(x, y)[0, 1]
        if level == 1:
            p = 1.0 if np.array_equal(x, y) else 0.0
        else:
            z = (np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)) - np.arctanh(np.sqrt(level))) * np.sqrt(len(x) - 3)
            p = float(2 * stats.norm.sf(abs(z)))
        checks.append(Check("association", f"R² of {name} on its latent dimension", level, value, low, high, level, p))
    return checks


def effect_checks(
    level: float, linked: FloatArray, used: FloatArray, omega: FloatArray, names: Sequence[str]
) -> list[Check]:
    """Mean, variance and normality of the effects (n, k), and independence of their noise from the linked effects."""
    checks, sd = [], np.sqrt(np.diag(omega))
    for name, y, scale in zip(names, used.T, sd, strict=True):
        labels = (f"mean of {name}", f"variance of {name}", f"{name} is normal")
        checks += _standard_normal("random effects", labels, level, y / scale)
    if level < 1:
        noise = (used - np.sqrt(level) * linked) / np.sqrt(1 - level)
        for first, x in zip(names, noise.T, strict=True):
            for second, y in zip(names, linked.T, strict=True):
                found = _correlation(np.corrcoef(x, y)[0, 1], len(x))
                checks.append(_check(found, "independence", f"noise of {first} and {second}", level, 0.0))
    return checks


def residual_checks(
    model: PopulationModel, level: float, observed: NDArray[np.floating], eta: FloatArray, workers: int = 1
) -> list[Check]:
    """Residuals of outcomes (n, T) at effects (n, k), in standard deviations: N(0, 1) and uncorrelated."""
    prediction = simulate(model, eta, n_threads=workers)
    observed, sd = np.asarray(observed, np.float64), np.maximum(model.residual.standard_deviation(prediction), 1e-12)
    log_normal = model.residual.kind == "log-normal"
    scaled = (np.log(observed / prediction) if log_normal else observed - prediction) / sd
    checks = _standard_normal("residuals", ("mean", "variance", "normal"), level, scaled.ravel())
    if scaled.shape[1] > 1:
        before, after = scaled[:, :-1].ravel(), scaled[:, 1:].ravel()
        found = _correlation(np.corrcoef(before, after)[0, 1], len(before))
        checks.append(_check(found, "residuals", "correlation of neighbouring visits", level, 0.0))
    return checks


def balance_checks(groups: dict[str, FloatArray], names: Sequence[str]) -> list[Check]:
    """Effects (n, k) of every split have the means of the first split's."""
    (_, reference), *others = groups.items()
    checks = []
    for split, values in others:
        for name, x, y in zip(names, reference.T, values.T, strict=True):
            if len(y) < 2:
                continue
            gap, error = y.mean() - x.mean(), np.sqrt(y.var(ddof=1) / len(y) + x.var(ddof=1) / len(x))
            p = float(2 * stats.norm.sf(abs(gap) / error))
            found = (float(gap), float(gap - 1.96 * error), float(gap + 1.96 * error), p)
            checks.append(_check(found, "balance", f"mean of {name}, {split} less train", None, 0.0))
    return checks


def latent_checks(chunks: Iterable[NDArray[np.floating]]) -> list[Check]:
    """Latent dimensions, in chunks (m, D), are N(0, 1) and uncorrelated; the worst of each kind is judged."""
    n, total, gram, first = 0, np.zeros(()), np.zeros(()), []
    for chunk in chunks:
        z = np.asarray(chunk, np.float64)
        if n < SAMPLE:
            first.append(z[: SAMPLE - n])
        n, total, gram = n + len(z), total + z.sum(0), gram + z.T @ z
    mean = total / n
    covariance = (gram - n * np.outer(mean, mean)) / max(n - 1, 1)
    d, variance = len(mean), np.diag(covariance)
    smallest = min(float(stats.kstest(column, "norm").pvalue) for column in np.concatenate(first).T)
    i, j = int(np.abs(mean).argmax()), int(np.abs(np.log(variance)).argmax())
    checks = [
        _check(_mean(mean[i], 1.0, n), "latents", f"worst mean, of dimension {i}", None, 0.0, d),
        _check(_variance(variance[j], n), "latents", f"worst variance, of dimension {j}", None, 1.0, d),
        _check(
            (smallest, 0.0, 1.0, smallest), "latents", "smallest p-value of normality over dimensions", None, 0.5, d
        ),
    ]
    if d > 1:
        sd = np.sqrt(variance)
        off = (covariance / np.outer(sd, sd))[np.triu_indices(d, 1)]
        found = _correlation(off[np.abs(off).argmax()], n)
        checks.append(_check(found, "latents", "largest correlation of two dimensions", None, 0.0, len(off)))
    return checks


Found = tuple[float, float, float, float]  # value, 95 % interval, p


def _check(found: Found, group: str, name: str, level: float | None, expected: float, among: int = 1) -> Check:
    """A check of the worst of ``among`` candidates."""
    value, low, high, p = map(float, found)
    return Check(group, name, level, value, low, high, expected, min(1.0, p * among))


def _standard_normal(group: str, labels: tuple[str, str, str], level: float, x: FloatArray) -> list[Check]:
    """Mean, variance and Kolmogorov-Smirnov distance from N(0, 1)."""
    distance = stats.kstest(x[:SAMPLE], "norm")
    return [
        _check(_mean(x.mean(), x.std(ddof=1), len(x)), group, labels[0], level, 0.0),
        _check(_variance(x.var(ddof=1), len(x)), group, labels[1], level, 1.0),
        _check((distance.statistic, 0.0, distance.statistic, distance.pvalue), group, labels[2], level, 0.0),
    ]


def _mean(mean: float, sd: float, n: int) -> Found:
    error = sd / np.sqrt(n)
    return mean, mean - 1.96 * error, mean + 1.96 * error, 2 * stats.norm.sf(abs(mean) / error)


def _variance(variance: float, n: int) -> Found:
    freedom = n - 1
    low, high = (float(freedom * variance / stats.chi2.ppf(q, freedom)) for q in (0.975, 0.025))
    tail = stats.chi2.cdf(freedom * variance, freedom)
    return variance, low, high, 2 * min(tail, 1 - tail)


def _correlation(r: float, n: int) -> Found:
    z, error = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1 / np.sqrt(max(n - 3, 1))
    return r, np.tanh(z - 1.96 * error), np.tanh(z + 1.96 * error), 2 * stats.norm.sf(abs(z) / error)
