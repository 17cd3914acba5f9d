"""Ω around g: the covariance under which the outcomes of subjects that g has not seen are likeliest.

Fisher scoring on the marginal likelihood of the evidence. Nothing holds it below Ω without images: a g that says
nothing leaves as much or more, and an overfitted one leaves more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.image_effects.evidence import Evidence

FloatArray = NDArray[np.float64]

ITERATIONS, HALVINGS = 50, 12
SETTLED = 1e-6  # predicted rise of the log-likelihood per √subject that ends the search
LEAST = 1e-3  # of ``total`` in every direction: a variance that vanishes leaves no Ω⁻¹
# Times ``total`` in every direction: evidence is true near the Ω at which it was made. Where outcomes moved a mean but
# narrowed nothing, its likelihood rises with the variance for ever.
MOST = 10.0


@dataclass(frozen=True, eq=False)
class OmegaScores:
    """Each subject's score (n, m) and information (n, m, m) for the m = k (k + 1) / 2 entries of Ω's lower triangle."""

    score: FloatArray
    information: FloatArray

    def each(self) -> FloatArray:
        """The step of Fisher scoring by each row alone, (n, m)."""
        size = np.sqrt(np.maximum(np.einsum("rmm->rm", self.information), 1e-300))
        scaled = self.information / (size[:, :, None] * size[:, None, :])
        scaled = scaled + 1e-9 * np.eye(self.score.shape[1])  # a direction on which outcomes say nothing stays
        return np.asarray(np.linalg.solve(scaled, (self.score / size)[:, :, None])[:, :, 0] / size)

    def total(self) -> "OmegaScores":
        """The sums over subjects, as one row."""
        return OmegaScores(self.score.sum(0)[None], self.information.sum(0)[None])


def omega_scores(known: Evidence, mean: FloatArray, omega: FloatArray) -> OmegaScores:
    """Scores of the subjects of ``known`` for Ω, with η ~ N(``mean`` (n, k), Ω)."""
    score, information = known.score(mean, omega)
    basis = _basis(len(omega))
    outer = 0.5 * (score[:, :, None] * score[:, None, :] - information)
    moved = np.einsum("nab,mbc->nmac", information, basis)
    second = 0.5 * np.einsum("nmac,pca->nmp", moved @ information[:, None], basis)
    return OmegaScores(np.einsum("nab,mab->nm", outer, basis), second)


def likeliest_omega(known: Evidence, mean: FloatArray, start: FloatArray, total: FloatArray) -> FloatArray:
    """The maximum-likelihood Ω (k, k) with η ~ N(``mean`` (n, k), Ω); ``mean`` by fits that have not seen the subjects.

    Args:
        known: of n subjects.
        mean: g of each subject, (n, k).
        start: where the search begins, (k, k).
        total: Ω of the population: between its ``LEAST`` part and ``MOST`` times as much is left in every direction.
    """
    omega = bounded(start, total)
    for _ in range(ITERATIONS):
        value = float(known.objective(mean, omega).sum())
        scores = omega_scores(known, mean, omega).total()
        step = scores.each()[0]
        rise = 0.5 * float(scores.score[0] @ step)
        if rise < SETTLED * np.sqrt(len(mean)):
            break
        for halving in range(HALVINGS):
            trial = moved(omega, 0.5**halving * step, total)
            if float(known.objective(mean, trial).sum()) < value:
                break
        else:
            break
        omega = trial
    return omega


def moved(omega: FloatArray, step: FloatArray, total: FloatArray) -> FloatArray:
    """Ω (k, k) after a step (m,) of its lower triangle, bounded as by :func:`bounded`."""
    return bounded(omega + np.einsum("m,mab->ab", step, _basis(len(omega))), total)


def bounded(omega: FloatArray, total: FloatArray) -> FloatArray:
    """Ω with at least the fraction ``LEAST`` of ``total`` in every direction, and at most ``MOST`` times as much."""
    factor = np.linalg.cholesky(total)
    inverse = np.linalg.inv(factor)
    fractions, axes = np.linalg.eigh(inverse @ omega @ inverse.T)
    kept = factor @ ((axes * np.clip(fractions, LEAST, MOST)) @ axes.T) @ factor.T
    return np.asarray(0.5 * (kept + kept.T))


def _basis(k: int) -> FloatArray:
    """The symmetric matrices (m, k, k) that an entry of the lower triangle multiplies."""
    rows, columns = np.tril_indices(k)
    out = np.zeros((len(rows), k, k))
    out[np.arange(len(rows)), rows, columns] = out[np.arange(len(rows)), columns, rows] = 1.0
    return out
