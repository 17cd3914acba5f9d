"""What the likelihood's integrals are sampled from: heavy-tailed around each subject's mode, and the population.

A proposal whose tails are lighter than the posterior's makes weights without a variance. Each subject has a mixture of
two multivariate t distributions, of which the second follows a curved posterior, and the population's own N(0, Ω),
which bounds the weights by the likelihood itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp, ndtri

from image_longitudinal.models.nlme.estimation.bent_nodes import BentGaussian
from image_longitudinal.models.nlme.estimation.importance_sampling import Draws, log_normal, whitened
from image_longitudinal.models.nlme.estimation.quasi_random import even_uniforms

FloatArray = NDArray[np.float64]
DEGREES = 4  # of freedom: χ² of 4 is -2 log of a product of two uniform draws, so that inversion is exact and fast
SHARES = (0.5, 0.35)  # of the draws, from the two t distributions; the rest from the population
WIDE = 3.0  # width of the second one while nothing better is known than mode and curvature


@dataclass(frozen=True, eq=False)
class Proposal:
    """Two t distributions of each subject's η: center (n, k) and scale (n, k, k) of the first, shape of the second."""

    center: FloatArray
    scale: FloatArray
    second: BentGaussian

    @classmethod
    def around(cls, mode: FloatArray, covariance: FloatArray, omega: FloatArray) -> "Proposal":
        """At the modes (n, k), with their inverse Hessian (n, k, k): once as it is, once wide; Ω (k, k): units."""
        return cls(mode, covariance, BentGaussian.straight(mode, WIDE**2 * covariance, omega))

    def following(self, posteriors: BentGaussian, known: NDArray[np.bool_]) -> "Proposal":
        """The second distribution of subjects that are ``known`` (n,) as their posteriors."""
        return Proposal(self.center, self.scale, self.second.instead(posteriors, known))

    def take(self, positions: NDArray[np.int64]) -> "Proposal":
        """That of the subjects at some positions."""
        return Proposal(self.center[positions], self.scale[positions], self.second.take(positions))

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
        first, second = slice(cuts[0], cuts[1]), slice(cuts[1], cuts[2])
        t = z * stretch[:, :, None]
        eta[:, first] = self.center[:, None] + t[:, first] @ np.swapaxes(np.linalg.cholesky(self.scale), 1, 2)
        eta[:, second] = self.second.at(t[:, second])[0]
        eta[:, cuts[2] :] = z[:, cuts[2] :] @ np.linalg.cholesky(omega).T
        standard, volume = self.second.standard(eta)
        bent = _log_t_of((standard**2).sum(axis=2), k) - volume
        logs = [log_t(eta - self.center[:, None], self.scale), bent, log_normal(eta, omega)]
        counts = np.diff(cuts)
        log_q = logsumexp([np.log(count / n) + one for count, one in zip(counts, logs, strict=True) if count], axis=0)
        return Draws(center[:, None] + eta, np.asarray(log_q))


def log_t(x: FloatArray, scale: FloatArray) -> FloatArray:
    """Log density of the multivariate t with :data:`DEGREES` of freedom at x (n, S, k), scale matrices (n, k, k)."""
    k = x.shape[-1]
    squared, logs = whitened(x, scale)
    return _log_t_of(squared, k) - logs[:, None]


def _log_t_of(squared: FloatArray, k: int) -> FloatArray:
    """Log density of the standard t of dimension k at squared distances."""
    constant = float(gammaln(0.5 * (DEGREES + k)) - gammaln(0.5 * DEGREES) - 0.5 * k * np.log(DEGREES * np.pi))
    return np.asarray(constant - 0.5 * (DEGREES + k) * np.log1p(squared / DEGREES))
