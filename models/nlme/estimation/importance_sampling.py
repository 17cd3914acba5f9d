"""The marginal likelihood as weighted means over fixed draws, or nodes, of each subject's random effects.

FOCE and Laplace replace each subject's integral over its random effects by a Gaussian around one mode, which biases
estimates for subjects with little information. Here it is a weighted mean over draws from a proposal fitted to the
subject (as NONMEM's IMP), or over the nodes of a quadrature. Fixed draws make it smooth with an exact gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from image_longitudinal.core.errors import SimulationError
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates, by_coordinates, central_differences
from image_longitudinal.models.nlme.estimation.fit import Evaluated, PopulationSearch
from image_longitudinal.models.nlme.estimation.objective import Gradient, Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.estimation.quasi_random import even_normals
from image_longitudinal.models.nlme.kernels.likelihood import subject_densities

FloatArray = NDArray[np.float64]
WIDTHS = (1.0, 2.0, 4.0)  # of the mixture's components, relative to the fitted standard deviation; wide for the tails
WEIGHTS = (0.55, 0.25, 0.12)  # of these components; the rest of the draws come from the population's distribution
STEP = 1e-4  # central differences in parameters without random effect
ENOUGH = 10.0  # effective draws; with more, the moments of the draws are a better proposal than the previous one


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of every subject's parameters, on the scale where random effects add.

    ``phi`` (n, S, k): of the parameters with a random effect; ``log_q`` (n, S): log density of the proposal.
    """

    phi: FloatArray
    log_q: FloatArray


class ImportanceSearch(PopulationSearch):
    """-2 log likelihood in the coordinates ψ of a fit, subject by subject, from fixed draws.

    ``weights`` (n, S) and ``eta`` (n, S, k) of the last evaluation describe the individual posteriors.
    """

    def __init__(self, objective: Objective, coordinates: Coordinates, progress: Evaluated | None) -> None:
        super().__init__(objective, coordinates, progress)
        data, random = objective.data, objective.random
        normal = ~data.censored & objective.model.has_residual_error(data.endpoint)
        self.constant = np.log(2 * np.pi) * np.add.reduceat(normal, data.row_start[:-1], dtype=float)
        others = [i for i in range(len(objective.model.parameters)) if i not in random]
        self._kept = np.empty((0, 0))  # predictions: large, and as large in the next round
        self.shifted = [i for i in others if i in coordinates.mu]  # estimated, without a random effect

    def use(self, draws: Draws, center: FloatArray | None = None, moving: Sequence[int] = ()) -> None:
        """Set the draws of the following evaluations.

        Draws are of φ, so that predictions stay while μ and Ω change. ``moving``: random effects whose η stay instead:
        of small variance, for which a change of μ with φ fixed would leave the population.

        Args:
            draws: the draws.
            center: φ at η = 0 at which they were drawn, (n, k); needed for ``moving``.
            moving: positions among the random effects.
        """
        self.draws = draws
        self.cached: tuple[bytes, FloatArray] | None = None
        self.held = None if center is None else draws.phi - center[:, None]
        self.moving = [b for b in moving if self.objective.random[b] in self.coordinates.mu]
        self.solved = [*self.shifted, *(int(self.objective.random[b]) for b in self.moving)]

    def objectives(self, psi: FloatArray) -> FloatArray:
        """Each subject's -2 log likelihood without T·log 2π, (n,), without its gradient, which takes most of the time.

        A draw at which the equations cannot be integrated has no weight.
        """
        return self._weigh(self.coordinates.unpack(psi), differentiate=False)[0]

    def individual_objectives(self, psi: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As :meth:`objectives`, and their gradient (n, m)."""
        values = self.coordinates.unpack(psi)
        objectives, by_residual = self._weigh(values, differentiate=True)
        center, errors = self.objective.typical_phi(values), self.coordinates.errors
        w, precision = self.weights, np.linalg.inv(values.omega)
        by_mu = np.zeros((len(w), len(values.mu)))
        by_mu[:, self.objective.random] = -2.0 * np.einsum("ns,nsk->nk", w, self.eta) @ precision

        def at_center(shift: FloatArray) -> FloatArray:
            moved = center.copy()
            moved[:, self.solved] += shift
            return self._log_density(self._solve(moved, np.empty_like(self._kept)), values)[0]

        changes = central_differences(at_center, np.zeros(len(self.solved)), STEP)
        for i, change in zip(self.solved, changes, strict=True):
            by_mu[:, i] = -2.0 * self._mean(change) / (2 * STEP)
        by_error = np.zeros((len(w), len(values.error)))
        for i in errors:
            by_error[:, i] = -2.0 * self._mean(by_residual[:, :, i])
        by_precision = self._second_moment(self.eta) - values.omega
        gradient = Gradient(objectives, by_mu, by_precision, by_error)
        return objectives, by_coordinates(self.coordinates, values, gradient)

    def _weigh(self, values: PopulationParameters, *, differentiate: bool) -> tuple[FloatArray, FloatArray]:
        """Set ``eta`` and ``weights``; objectives (n,), and what :meth:`_log_density` differentiates."""
        self.evaluations += 1
        center = self.objective.typical_phi(values)
        self.eta = self.draws.phi - center[:, None, self.objective.random]
        if self.moving and self.held is not None:
            self.eta[:, :, self.moving] = self.held[:, :, self.moving]
        density, by_residual = self._log_density(self._predictions(center), values, differentiate=differentiate)
        log_weight = density + log_normal(self.eta, values.omega) - self.draws.log_q
        self.log_weight, total = log_weight, logsumexp(log_weight, axis=1)
        if not np.isfinite(total).all():
            subject = self.objective.data.names[int(np.argmin(np.isfinite(total)))]
            raise SimulationError("no draw of a subject can be evaluated", where=f"subject {subject}")
        self.weights = np.exp(log_weight - total[:, None])
        return -2.0 * (total - np.log(log_weight.shape[1])) - self.constant, by_residual

    def _mean(self, change: FloatArray) -> FloatArray:
        """Weighted mean (n,) of derivatives (n, S), which do not exist where a draw is impossible."""
        return np.einsum("ns,ns->n", self.weights, np.where(self.weights > 0, change, 0.0))

    def _second_moment(self, x: FloatArray) -> FloatArray:
        """Weighted mean (n, k, k) of the outer products of x (n, S, k)."""
        return np.asarray(np.swapaxes(self.weights[:, :, None] * x, 1, 2) @ x)

    def moments(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean (n, k) and covariance (n, k, k) of the individual posteriors, and the effective number of draws (n,)."""
        w = self.weights
        mean = np.einsum("ns,nsk->nk", w, self.eta)
        deviation = self.eta - mean[:, None]
        return mean, self._second_moment(deviation), 1.0 / (w**2).sum(axis=1)

    def _predictions(self, center: FloatArray) -> FloatArray:
        """Predictions at the draws (S, N); they change only with parameters that have no random effect."""
        key = center[:, self.solved].tobytes()
        if self.cached is None or self.cached[0] != key:
            shape = self.draws.phi.shape[1], len(self.objective.data.times)
            if self._kept.shape != shape:
                self._kept = np.empty(shape)
            self._solve(center, self._kept)
            self.cached = key, self._kept
        return self.cached[1]

    def _solve(self, center: FloatArray, out: FloatArray) -> FloatArray:
        """``out`` (S, N) ← predictions at the draws."""

        def one(draw: int) -> None:
            phi = center.copy()
            phi[:, self.objective.random] = self.draws.phi[:, draw]
            for b in self.moving:
                phi[:, self.objective.random[b]] = center[:, self.objective.random[b]] + self.eta[:, draw, b]
            out[draw] = self.objective.predict_where_possible(phi)

        self.objective.in_threads(one, range(len(out)))
        return out

    def _log_density(
        self, predicted: FloatArray, values: PopulationParameters, *, differentiate: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """log p(y | draw), (n, S); its derivatives by the logarithms of the residual values, (n, S, e) or empty."""
        data, kinds, n, draws = self.objective.data, self.objective.kinds, len(self.objective.data), len(predicted)
        out, by_error = np.empty((draws, n)), np.empty((draws, n if differentiate else 0, len(values.error)))

        def one(draw: int) -> None:
            subject_densities(
                kinds, values.error, data.observed, data.endpoint, data.censored, data.row_start, predicted[draw],
                out[draw], by_error[draw],
            )  # fmt: skip

        self.objective.in_threads(one, range(draws))
        return np.ascontiguousarray(out.T), np.swapaxes(by_error, 0, 1)


def log_normal(x: FloatArray, covariance: FloatArray) -> FloatArray:
    """Log density of N(0, Σ) at x (..., k); Σ (k, k) or one per leading entry (n, k, k) for x (n, S, k)."""
    squared, logs = whitened(x, covariance)
    return np.asarray(-0.5 * squared - np.expand_dims(logs, -1) - 0.5 * x.shape[-1] * np.log(2 * np.pi))


def whitened(x: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """xᵀ Σ⁻¹ x and half the logarithm of |Σ|, for x and Σ as in :func:`log_normal`."""
    factor = np.linalg.cholesky(covariance)
    white = x @ np.swapaxes(np.linalg.inv(factor), -1, -2)  # (faster than to solve, for many small systems)
    logs = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1)
    return np.einsum("...k,...k->...", white, white), logs


def draw_from_proposal(
    ids: NDArray[np.int64], center: FloatArray, mean: FloatArray, covariance: FloatArray, omega: FloatArray, n: int,
    key: int,
) -> Draws:  # fmt: skip
    """``n`` draws per subject from a mixture of Gaussians around its ``mean`` and the population's N(0, Ω).

    Each component gives a fixed number of draws (a deterministic mixture); the density is that of the mixture.

    Args:
        ids: subject ids (n,): draws depend on key, id and position alone.
        center: φ of the parameters with random effects at η = 0, (n, k).
        mean, covariance: of η, (n, k) and (n, k, k).
        omega: covariance of the population, (k, k).
        n: draws per subject.
        key: stream key.
    """
    k = mean.shape[1]
    z = even_normals(key, ids, n, k)
    factor, prior = np.linalg.cholesky(covariance), np.linalg.cholesky(omega)
    cuts = np.round(np.cumsum(WEIGHTS) * n).astype(int)
    eta, start = np.empty_like(z), 0
    for width, stop in zip(WIDTHS, cuts, strict=True):
        eta[:, start:stop] = mean[:, None] + width * np.einsum("nkl,nsl->nsk", factor, z[:, start:stop])
        start = stop
    eta[:, start:] = z[:, start:] @ prior.T
    counts = np.diff([0, *cuts, n])
    logs = [log_normal(eta - mean[:, None], width**2 * covariance) for width in WIDTHS] + [log_normal(eta, omega)]
    log_q = logsumexp([np.log(count / n) + one for count, one in zip(counts, logs, strict=True) if count], axis=0)
    return Draws(center[:, None] + eta, np.asarray(log_q))


def linearised_covariance(objective: Objective, values: PopulationParameters, eta: FloatArray) -> FloatArray:
    """Covariance (n, k, k) of each individual posterior, with the model linearised at ``eta`` (n, k)."""
    return np.linalg.inv(data_information(objective, values, eta) + np.linalg.inv(values.omega))


def data_information(objective: Objective, values: PopulationParameters, eta: FloatArray) -> FloatArray:
    """Information (n, k, k) of each subject's data on its random effects, linearised at ``eta`` (n, k)."""
    f, g = objective.predict(values, eta)
    model, data = values.into(objective.model), objective.data
    sd = model.standard_deviation(f, data.endpoint) * np.where(model.logarithmic(data.endpoint), f, 1.0)
    scaled = g / np.where(sd > 0, sd, np.inf)[:, None]
    outer = scaled[:, :, None] * scaled[:, None, :]
    return np.asarray(np.add.reduceat(outer, data.row_start[:-1], axis=0))
