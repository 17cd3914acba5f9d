"""What the likelihood's integrals are sampled from: heavy-tailed around each subject's mode, and the population.

A proposal whose tails are lighter than the posterior's makes weights without a variance. Each subject has a mixture of
two multivariate t distributions and the population's own N(0, Ω), which bounds the weights by the likelihood itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp, ndtri

from image_longitudinal.models.nlme.estimation.importance_sampling import Draws, log_normal, whitened
from image_longitudinal.models.nlme.estimation.quasi_random import even_uniforms

FloatArray = NDArray[np.float64]
DEGREES = 4  # of freedom: χ² of 4 is -2 log of a product of two uniform draws, so that inversion is exact and fast
SHARES = (0.5, 0.35)  # of the draws, from the two t distributions; the rest from the population
WIDE = 3.0  # width of the second one while nothing better is known than mode and curvature


@dataclass(frozen=True, eq=False)
class Proposal:
    """Centers (n, k) and scale matrices (n, k, k) of two t distributions of each subject's η."""

    centers: tuple[FloatArray, FloatArray]
    scales: tuple[FloatArray, FloatArray]

    @classmethod
    def around(cls, mode: FloatArray, covariance: FloatArray) -> "Proposal":
        """At the modes (n, k), with their inverse Hessian (n, k, k): once as it is, once wide."""
        return cls((mode, mode), (covariance, WIDE**2 * covariance))

    def with_moments(self, mean: FloatArray, covariance: FloatArray, known: NDArray[np.bool_]) -> "Proposal":
        """The second distribution of subjects that are ``known`` (n,) at their posterior mean and covariance."""
        center = np.where(known[:, None], mean, self.centers[1])
        scale = np.where(known[:, None, None], covariance, self.scales[1])
        return Proposal((self.centers[0], center), (self.scales[0], scale))

    def take(self, positions: NDArray[np.int64]) -> "Proposal":
        """That of the subjects at some positions."""
        (a, b), (c, d) = self.centers, self.scales
        return Proposal((a[positions], b[positions]), (c[positions], d[positions]))

    def draw(self, ids: NDArray[np.int64], center: FloatArray, omega: FloatArray, n: int, key: int) -> Draws:
        """``n`` quasi-random draws per subject; each component gives a fixed number, the density is the mixture's.

        Args:
            ids: subject ids (n,): draws depend on key, id and position alone.
            center: φ of the parameters with random effects at η = 0, (n, k).
            omega: covariance of the population, (k, k).
            n: draws per subject.
            key: stream key.
        """
        k = center.shape[1]
        u = even_uniforms(key, ids, n, k + 2)
        z = ndtri(u[:, :, :k])
        stretch = np.sqrt(DEGREES / (-2.0 * np.log(u[:, :, k]) - 2.0 * np.log(u[:, :, k + 1])))
        cuts = [0, *np.round(np.cumsum(SHARES) * n).astype(int), n]
        eta = np.empty_like(z)
        for mean, scale, a, b in zip(self.centers, self.scales, cuts, cuts[1:-1], strict=False):
            factor = np.linalg.cholesky(scale)
            eta[:, a:b] = mean[:, None] + z[:, a:b] @ np.swapaxes(factor, 1, 2) * stretch[:, a:b, None]
        eta[:, cuts[2] :] = z[:, cuts[2] :] @ np.linalg.cholesky(omega).T
        logs = [log_t(eta - mean[:, None], scale) for mean, scale in zip(self.centers, self.scales, strict=True)]
        logs.append(log_normal(eta, omega))
        counts = np.diff(cuts)
        log_q = logsumexp([np.log(count / n) + one for count, one in zip(counts, logs, strict=True) if count], axis=0)
        return Draws(center[:, None] + eta, np.asarray(log_q))


def log_t(x: FloatArray, scale: FloatArray) -> FloatArray:
    """Log density of the multivariate t with :data:`DEGREES` of freedom at x (n, S, k), scale matrices (n, k, k)."""
    k = x.shape[-1]
    squared, logs = whitened(x, scale)
    constant = float(gammaln(0.5 * (DEGREES + k)) - gammaln(0.5 * DEGREES) - 0.5 * k * np.log(DEGREES * np.pi))
    return np.asarray(constant - logs[:, None] - 0.5 * (DEGREES + k) * np.log1p(squared / DEGREES))
