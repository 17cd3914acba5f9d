"""Quadrature nodes and proposals that follow a curved posterior.

Where data hold a combination of two random effects and leave both open, the posterior is a narrow, curved ridge. Nodes
placed by mode and Hessian leave it, and the integral is too small. Here each subject's nodes are those of a Gaussian
with the posterior's mean and covariance (Naylor & Smith 1982, Appl Stat 31:214), bent along its widest direction:
across it, center and width are functions of the place along it, regressed on the nodes of an earlier placement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.estimation.importance_sampling import Draws

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
STEEPEST = 0.5  # change of the logarithm of the width per standard deviation along the widest direction
MOST_BENT = 0.5  # of the widest direction's deviation: how far the center moves across it, per squared deviation along
FARTHEST = 4.0  # deviations along the widest direction, up to which the rest changes
SMALLEST = 1e-5  # standard deviation of a direction, in those of the population


@dataclass(frozen=True, eq=False)
class BentGaussian:
    """A distribution of each subject's η, from independent standard normal τ and z (k - 1).

    ``center`` (n, k), and ``axes`` (n, k, k): what (t, y) are components along, widest first. Along the first,
    t = ``width`` (n,) τ; across it, y = (1, τ, τ²) ``bend`` (n, 3, k - 1) + exp(``slope`` (n,) τ) ``factor``
    (n, k - 1, k - 1) z. Beyond :data:`FARTHEST`, y has the distribution that it has there.
    """

    center: FloatArray
    axes: FloatArray
    width: FloatArray
    bend: FloatArray
    factor: FloatArray
    slope: FloatArray

    @classmethod
    def straight(cls, center: FloatArray, covariance: FloatArray, omega: FloatArray) -> "BentGaussian":
        """The Gaussian with a center (n, k) and covariance (n, k, k); ``omega`` (k, k): its units."""
        axes, deviations = _principal(covariance, omega)
        n, k = center.shape
        factor = deviations[:, 1:, None] * np.eye(k - 1)
        return cls(center, axes, deviations[:, 0], np.zeros((n, 3, k - 1)), factor, np.zeros(n))

    @classmethod
    def fitted(cls, eta: FloatArray, weights: FloatArray, omega: FloatArray) -> "BentGaussian":
        """That fitted to η (n, S, k) with weights (n, S), which sum to 1; ``omega`` (k, k): its units."""
        n, _, k = eta.shape
        center = np.einsum("ns,nsk->nk", weights, eta)
        deviation = eta - center[:, None]
        covariance = np.swapaxes(weights[:, :, None] * deviation, 1, 2) @ deviation
        axes, deviations = _principal(covariance, omega)
        width = deviations[:, 0]
        along = deviation @ np.swapaxes(np.linalg.inv(axes), 1, 2)
        tau, across = along[:, :, 0] / width[:, None], along[:, :, 1:]
        basis = _basis(tau)
        weighted = np.swapaxes(weights[:, :, None] * basis, 1, 2)
        bend = np.linalg.solve(weighted @ basis + 1e-6 * np.eye(3), weighted @ across)
        bend *= np.minimum(1.0, MOST_BENT * width / np.maximum(np.abs(bend[:, 2]).max(axis=1, initial=0.0), 1e-300))[
            :, None, None
        ]
        left = across - basis @ bend
        floor = SMALLEST**2 * np.eye(k - 1)
        slope = np.zeros(n)
        if k > 1:  # E[(q - 1) τ] = 2 slope for q, the mean square of what is left, and small slopes
            own = np.linalg.inv(_spread(left, weights) + floor)
            q = np.einsum("nsk,nsk->ns", left @ own, left) / (k - 1)
            slope = np.clip(0.5 * ((q - 1.0) * _near(tau) * weights).sum(axis=1), -STEEPEST, STEEPEST)
            left = left * np.exp(-slope[:, None] * _near(tau))[:, :, None]
        factor = np.linalg.cholesky(_spread(left, weights) + floor)
        return cls(center, axes, width, bend, np.asarray(factor, dtype=np.float64), slope)

    @classmethod
    def joined(cls, parts: Sequence["BentGaussian"]) -> "BentGaussian":
        """That of the subjects of several, one after the other."""
        return cls(*(np.concatenate([getattr(one, name) for one in parts]) for name in cls.__dataclass_fields__))

    def instead(self, other: "BentGaussian", where: NDArray[np.bool_]) -> "BentGaussian":
        """This one, with ``other`` for the subjects ``where`` (n,)."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__]
        return BentGaussian(*(np.where(where.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))

    def take(self, positions: IntArray) -> "BentGaussian":
        """That of the subjects at some positions."""
        return BentGaussian(*(getattr(self, name)[positions] for name in self.__dataclass_fields__))

    def placed(self, center: FloatArray, nodes: FloatArray, logs: FloatArray) -> Draws:
        """Nodes as draws whose mean of weights is the quadrature.

        Args:
            center: φ at η = 0, (n, k).
            nodes: of a standard normal distribution, (S, k).
            logs: logarithms of their weights, which sum to 1, (S,).
        """
        k = nodes.shape[1]
        eta, volume = self.at(np.broadcast_to(nodes, (len(center), *nodes.shape)))
        normal = -0.5 * (nodes**2).sum(axis=1) - 0.5 * k * np.log(2.0 * np.pi)
        return Draws(center[:, None] + eta, normal - logs - np.log(len(nodes)) - volume)

    def at(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """η (n, S, k) of standard x = (τ, z) (n, S, k), and the logarithms (n, S) of the volumes of a unit of x."""
        tau, z = x[:, :, 0], x[:, :, 1:]
        stretch = self.slope[:, None] * _near(tau)
        across = _basis(tau) @ self.bend + np.exp(stretch)[:, :, None] * (z @ np.swapaxes(self.factor, 1, 2))
        parts = np.concatenate([(self.width[:, None] * tau)[:, :, None], across], axis=2)
        return self.center[:, None] + parts @ np.swapaxes(self.axes, 1, 2), self._volume(stretch)

    def standard(self, eta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The inverse of :meth:`at`: x (n, S, k) of η, and the volumes there."""
        parts = (eta - self.center[:, None]) @ np.swapaxes(np.linalg.inv(self.axes), 1, 2)
        tau = parts[:, :, 0] / self.width[:, None]
        stretch = self.slope[:, None] * _near(tau)
        left = (parts[:, :, 1:] - _basis(tau) @ self.bend) * np.exp(-stretch)[:, :, None]
        z = left @ np.swapaxes(np.linalg.inv(self.factor), 1, 2)
        return np.concatenate([tau[:, :, None], z], axis=2), self._volume(stretch)

    def _volume(self, stretch: FloatArray) -> FloatArray:
        same = np.log(self.width) + np.log(np.diagonal(self.factor, axis1=1, axis2=2)).sum(axis=1)
        same += np.linalg.slogdet(self.axes)[1]
        return np.asarray(same[:, None] + self.factor.shape[1] * stretch)


def grid(order: int, k: int) -> tuple[FloatArray, FloatArray]:
    """Nodes (S, k) of a standard normal distribution and the logarithms of their weights, (S,), which sum to 1.

    ``order`` along each direction, 2 ``order`` - 1 along the first.
    """
    rules = [np.polynomial.hermite.hermgauss(m) for m in [2 * order - 1] + [order] * (k - 1)]
    nodes = np.stack(np.meshgrid(*[x for x, _ in rules], indexing="ij"), axis=-1).reshape(-1, k)
    logs = np.stack(np.meshgrid(*[np.log(w) for _, w in rules], indexing="ij"), axis=-1).reshape(-1, k).sum(axis=1)
    return np.sqrt(2.0) * nodes, logs - 0.5 * k * np.log(np.pi)


def _basis(tau: FloatArray) -> FloatArray:
    near = _near(tau)
    return np.stack([np.ones_like(near), near, near**2], axis=-1)


def _near(tau: FloatArray) -> FloatArray:
    return np.clip(tau, -FARTHEST, FARTHEST)


def _spread(x: FloatArray, weights: FloatArray) -> FloatArray:
    return np.asarray(np.swapaxes(weights[:, :, None] * x, 1, 2) @ x)


def _principal(covariance: FloatArray, omega: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Principal axes (n, k, k), widest first, of covariances in units ``omega``, and standard deviations along them."""
    unit = np.linalg.cholesky(omega)
    inverse = np.linalg.inv(unit)
    values, vectors = np.linalg.eigh(inverse @ covariance @ inverse.T)
    return unit @ vectors[:, :, ::-1], np.sqrt(np.maximum(values[:, ::-1], SMALLEST**2))
