"""The prior of the flattened retina: an invertible, ordered map between z ~ N(0, I) and real scans' coordinates.

Coordinates x (D) of real scans (curve of the retina, principal components of its flattened image) are far from
jointly normal: disease is a cluster of its own. A mixture of Gaussians describes them, and the Knothe-Rosenblatt map
(Rosenblatt 1952, Ann Math Stat 23:470) makes them from z:

    z_k = Φ⁻¹(F_k(x_k | x_1 … x_k-1))        x_k = F_k⁻¹(Φ(z_k) | x_1 … x_k-1)

F_k is a mixture of normal distributions again. So z is N(0, I) by construction, the map is increasing in every
dimension, and dimension k of z decides nothing of the coordinates before k.

Few scans (hundreds) must not be remembered one by one: every component's covariance is shrunk towards the common one,
and the number of components is the one with the best likelihood of held-out patients (:func:`fit_mixture`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

SHRINKAGE = 1.0  # prior weight of the common covariance: this times D images
ROUNDS = 200  # most rounds of expectation and maximisation
TOLERANCE = 1e-6  # of the mean log-likelihood, in nats
STARTS = 4  # random starts of each fit, of which the likeliest is kept
SEARCH_ROUNDS = 40  # halvings and Newton steps of F⁻¹, at most
FOUND = 1e-13  # a step of F⁻¹ that is not larger is a row's last
TAIL = 7.5  # |z| beyond this is treated as this: float64 cannot tell Φ(8.3) from 1


@dataclass(frozen=True)
class GaussianMixture:
    """Weights (C,), means (C, D) and covariances (C, D, D) of a mixture of Gaussians."""

    weights: Array
    means: Array
    covariances: Array

    def log_densities(self, x: Array) -> Array:
        """log(weight · density) of each component at x (n, D): (n, C)."""
        columns = []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            lower = np.linalg.cholesky(covariance)
            u = np.linalg.solve(lower, (x - mean).T)
            log_norm = np.log(np.diag(lower)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
            columns.append(np.log(weight) - log_norm - 0.5 * (u**2).sum(0))
        return np.stack(columns, axis=1)

    def log_likelihood(self, x: Array) -> float:
        """Mean over x (n, D) of the log density, in nats."""
        return float(_log_sum(self.log_densities(x)).mean())


def fit_components(x: Array, count: int, seed: int) -> GaussianMixture:
    """A mixture of ``count`` Gaussians fitted to x (n, D) by expectation and maximisation, the best of some starts."""
    random = np.random.default_rng(seed)
    fits = [_one_fit(x, count, random) for _ in range(STARTS if count > 1 else 1)]
    return max(fits, key=lambda fit: fit.log_likelihood(x))


def _one_fit(x: Array, count: int, random: np.random.Generator) -> GaussianMixture:
    n, d = x.shape
    common = np.cov(x.T)
    whitened = np.linalg.solve(np.linalg.cholesky(common), (x - x.mean(0)).T).T
    centres = whitened[random.choice(n, count, replace=False)]
    distance = ((whitened[:, None] - centres[None]) ** 2).sum(-1)
    shares = np.eye(count)[distance.argmin(1)]
    last = -np.inf
    for _ in range(ROUNDS):
        sizes = shares.sum(0)
        means = (shares.T @ x + SHRINKAGE * x.mean(0)) / (sizes[:, None] + SHRINKAGE)
        centred = x[None] - means[:, None]
        scatter = np.einsum("nc,cni,cnj->cij", shares, centred, centred)
        within = scatter.sum(0) / n
        weight = SHRINKAGE * d
        covariances = (scatter + weight * within) / (sizes + weight)[:, None, None]
        mixture = GaussianMixture((sizes + 1) / (n + count), means, covariances)
        joint = mixture.log_densities(x)
        total = _log_sum(joint)
        shares = np.exp(joint - total[:, None])
        if total.mean() - last < TOLERANCE:
            break
        last = total.mean()
    return mixture


def fit_mixture(
    x: Array, groups: NDArray[np.int64], counts: tuple[int, ...], folds: int, seed: int
) -> tuple[GaussianMixture, dict[int, float]]:
    """The mixture with the number of components that is likeliest for groups (patients) left out of its fit.

    Args:
        x: coordinates (n, D), each scaled to a standard deviation near 1.
        groups: patient of each row (n,): all rows of a patient are left out together.
        counts: numbers of components to try.
        folds: of the cross-validation.
        seed: of starts and folds.

    Returns:
        The mixture fitted to all rows, and the held-out log-likelihood in nats per row of each count.
    """
    people = np.random.default_rng(seed).permutation(np.unique(groups))
    parts = [np.isin(groups, part) for part in np.array_split(people, folds)]
    scores = {}
    for count in counts:
        total = 0.0
        for part in parts:
            total += fit_components(x[~part], count, seed).log_likelihood(x[part]) * part.sum()
        scores[count] = total / len(x)
    best = max(scores, key=lambda count: scores[count])
    return fit_components(x, best, seed), scores


class KnotheRosenblatt:
    """The map between z ~ N(0, I) and x ~ mixture, both (B, D) float64, dimension after dimension.

    Every row is computed by elementwise operations and sums over its own numbers, so that the batch it is in does not
    change its rounding.
    """

    def __init__(self, weights: Tensor, means: Tensor, lowers: Tensor) -> None:
        """Of a mixture's weights (C,), means (C, D) and Cholesky factors (C, D, D), float64 on one device."""
        self.log_weights, self.means, self.lowers = weights.log(), means, lowers

    def to_coordinates(self, z: Tensor) -> Tensor:
        """x (B, D) of z (B, D)."""
        z = z.double().clamp(-TAIL, TAIL)
        state, columns = self._start(len(z)), []
        for k in range(z.shape[1]):
            mean, deviation, share = self._conditional(k, state)
            x = _quantile(z[:, k], mean, deviation, share)
            columns.append(x)
            self._add(k, x, mean, deviation, state)
        return torch.stack(columns, dim=1)

    def to_normal(self, x: Tensor) -> Tensor:
        """z (B, D) of x (B, D): the inverse of :meth:`to_coordinates`."""
        x = x.double()
        state, columns = self._start(len(x)), []
        for k in range(x.shape[1]):
            mean, deviation, share = self._conditional(k, state)
            columns.append(_normal_score(x[:, k], mean, deviation, share))
            self._add(k, x[:, k], mean, deviation, state)
        return torch.stack(columns, dim=1)

    def _start(self, batch: int) -> _Conditioning:
        return _Conditioning(self.log_weights.expand(batch, -1), [])

    def _conditional(self, k: int, state: _Conditioning) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (B, C), standard deviation (C,) and share (B, C) of every component of x_k given those before."""
        mean = self.means[:, k].expand(len(state.log_shares), -1)
        for j, u in enumerate(state.residuals):
            mean = mean + u * self.lowers[:, k, j]
        return mean, self.lowers[:, k, k], state.log_shares.softmax(1)

    def _add(self, k: int, x: Tensor, mean: Tensor, deviation: Tensor, state: _Conditioning) -> None:
        u = (x[:, None] - mean) / deviation
        state.residuals.append(u)
        state.log_shares = state.log_shares - 0.5 * u**2 - deviation.log()


@dataclass
class _Conditioning:
    """What is known after some coordinates: unnormalised log shares (B, C), standardised residuals (B, C) of each."""

    log_shares: Tensor
    residuals: list[Tensor]


def _quantile(z: Tensor, mean: Tensor, deviation: Tensor, share: Tensor) -> Tensor:
    """x (B,) with F(x) = Φ(z): Newton's method, kept within a bracket that halves where Newton leaves it.

    Each row stays where its own search ended, so that the others do not change it. A GPU goes through all rounds: asked
    whether all rows have ended, it would wait.
    """
    at_z = mean + deviation * z[:, None]
    low, high = at_z.amin(1), at_z.amax(1)
    x = (share * at_z).sum(1)
    upper = z > 0  # work on the smaller tail: 1 - F loses no digits there
    target = torch.special.ndtr(-z.abs())
    ended = torch.zeros_like(upper)
    for _ in range(SEARCH_ROUNDS):
        u = (x[:, None] - mean) / deviation
        tail = (share * torch.special.ndtr(torch.where(upper[:, None], -u, u))).sum(1)
        error = torch.where(upper, target - tail, tail - target)  # F(x) - Φ(z)
        high, low = torch.where(error > 0, x, high), torch.where(error > 0, low, x)
        density = (share * torch.exp(-0.5 * u**2) / deviation).sum(1) / (2 * torch.pi) ** 0.5
        newton = x - error / density.clamp(min=1e-300)
        following = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        ended, x = ended | ((following - x).abs() <= FOUND), torch.where(ended, x, following)
        if x.device.type == "cpu" and bool(ended.all()):
            break
    return x


def _normal_score(x: Tensor, mean: Tensor, deviation: Tensor, share: Tensor) -> Tensor:
    """Φ⁻¹(F(x)), (B,), from the smaller tail."""
    u = (x[:, None] - mean) / deviation
    below, above = (share * torch.special.ndtr(u)).sum(1), (share * torch.special.ndtr(-u)).sum(1)
    score = torch.where(below < above, torch.special.ndtri(below), -torch.special.ndtri(above))
    return score.clamp(-TAIL, TAIL)


def _log_sum(logs: Array) -> Array:
    top = logs.max(1, keepdims=True)
    return np.asarray((top + np.log(np.exp(logs - top).sum(1, keepdims=True)))[:, 0])
