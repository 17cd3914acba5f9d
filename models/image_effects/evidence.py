"""What the outcomes of each subject say about its random effects, as a Gaussian whose gradients are those of the model.

With η ~ N(g, Ω), the marginal log-likelihood ℓ of a subject has the derivatives (Fisher's identity)

    ∂ℓ/∂g = Ω⁻¹ (m - g),        ∂ℓ/∂Ω⁻¹ = ½ (Ω - C - (m - g)(m - g)ᵀ),

with the mean m and covariance C of η given the outcomes. By ``focei``, both derivatives come from the approximate
objective, through the movement of the modes (kernels.individual), and m and C are what they imply. By ``imp``, m and C
are weighted means over draws from a proposal fitted to the subject. Either way the Gaussian likelihood

    exp(hᵀη - ½ ηᵀ J η),    J = C⁻¹ - Ω⁻¹,    h = C⁻¹ m - Ω⁻¹ g

has the same derivatives, at the g and Ω at which it was made. So a network g and Ω can be trained on it in mini-batches
at no cost of solving equations; it is made again where they end (a Gauss-Newton, or natural-gradient, step).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.random import stream_key
from image_longitudinal.models.evaluation.ridge import row_chunks
from image_longitudinal.models.evaluation.subject_likelihood import OffsetObjective
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import starting_points
from image_longitudinal.models.nlme.estimation.importance_sampling import (
    ENOUGH,
    ImportanceSearch,
    draw_from_proposal,
    linearised_covariance,
)
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
By = Literal["focei", "imp"]

NARROWEST = 1e-4  # of the prior's variance, in any direction: what outcomes leave of it at least
# A subject: with few draws posteriors are too narrow, which makes Ω too small (300 subjects with 4 visits, smallest
# eigenvalue of Ω by 100, 400 and 1,600 draws: .016, .073, .111; by FOCEI .131). Many subjects have many visits.
LEAST_DRAWS, MOST_DRAWS, ALL_DRAWS = 100, 1_000, 300_000
TOGETHER = 2_000  # subjects: draws and visits of each are in memory
KEY = stream_key(1, "image-evidence")  # draws are a quadrature rule: the same for every fit


@dataclass(frozen=True, eq=False)
class Evidence:
    """Gaussian likelihoods exp(``constant`` + ``shift``ᵀ η - ½ ηᵀ ``precision`` η) of n subjects' k random effects.

    ``precision`` (n, k, k), positive semidefinite; ``shift`` (n, k); ``constant`` (n,).
    """

    precision: FloatArray
    shift: FloatArray
    constant: FloatArray

    def __len__(self) -> int:
        return len(self.shift)

    def take(self, rows: ArrayLike) -> "Evidence":
        """The subjects at some positions."""
        chosen = np.asarray(rows)
        return Evidence(self.precision[chosen], self.shift[chosen], self.constant[chosen])

    def posterior(self, mean: FloatArray, omega: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean (n, k) and covariance (n, k, k) of η given the outcomes, under N(``mean`` (n, k), Ω)."""
        prior = np.linalg.inv(omega)
        covariance: FloatArray = np.linalg.inv(self.precision + prior)
        center: FloatArray = np.einsum("nab,nb->na", covariance, self.shift + mean @ prior)
        return center, covariance

    def score(self, mean: FloatArray, omega: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Derivative (n, k) of each log-likelihood by its subject's g, and minus its second derivative, (n, k, k)."""
        prior = np.linalg.inv(omega)
        center, covariance = self.posterior(mean, omega)
        score: FloatArray = (center - mean) @ prior
        return score, np.asarray(prior - prior @ covariance @ prior, np.float64)

    def objective(self, mean: FloatArray, omega: FloatArray) -> FloatArray:
        """Minus twice the marginal log-likelihood of each subject under N(``mean`` (n, k), Ω), (n,)."""
        prior = np.linalg.inv(omega)
        center = self.posterior(mean, omega)[0]
        precision = self.precision + prior
        volume = np.linalg.slogdet(precision)[1] + np.linalg.slogdet(omega)[1]
        inner = np.einsum("na,nab,nb->n", center, precision, center)
        return np.asarray(volume + np.einsum("na,ab,nb->n", mean, prior, mean) - inner - 2 * self.constant)


def evidence(
    model: PopulationModel, data: PopulationData, mean: FloatArray, omega: FloatArray, *, by: By = "focei",
    start: FloatArray | None = None, workers: int = 1,
) -> Evidence:  # fmt: skip
    """The evidence of each subject of a table, with the derivatives of the model's likelihood at g = ``mean``.

    Args:
        model: the population model; its typical values and residual error are used.
        data: the subjects' outcomes and events.
        mean: g of each subject, (n, k).
        omega: Ω around it, (k, k).
        by: ``focei``, or ``imp`` for importance sampling, where modes are poor summaries.
        start: η (n, k) to look for the modes from; several starts across the prior if None.
        workers: threads; the result does not depend on it.

    Raises:
        SimulationError: the equations of a subject cannot be solved at its mode.
    """
    base = PopulationParameters.of(model)
    values, parts = PopulationParameters(base.mu, omega, base.error), []
    draws = min(max(ALL_DRAWS // len(data), LEAST_DRAWS), MOST_DRAWS)
    for rows in row_chunks(len(data), TOGETHER):
        whole = rows.stop - rows.start == len(data)
        some = data if whole else data.subset(rows.start, rows.stop)
        objective = OffsetObjective.over(values.into(model), some, mean[rows], workers=workers)
        if start is not None:
            objective.eta[:] = start[rows] - mean[rows]
        else:
            objective.find_modes(values, starting_points(omega))
        if by == "focei":
            gradient = objective.gradient(values)
            center = -0.5 * gradient.by_mu[:, objective.random] @ omega
            second = omega + gradient.by_precision
            covariance = second - center[:, :, None] * center[:, None, :]
            parts.append(_expanded(mean[rows], omega, center, covariance, gradient.objective))
        else:
            objective.find_modes(values)
            parts.append(_expanded(mean[rows], omega, *_sampled(objective, values, rows.start, draws)))
    return Evidence(*(np.concatenate(own) for own in zip(*(vars(part).values() for part in parts), strict=True)))


def _sampled(
    objective: OffsetObjective, values: PopulationParameters, first: int, draws: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean (n, k) of η - g, covariance (n, k, k), -2 log-likelihood (n,), by draws of subjects numbered from ``first``.

    A subject with few effective draws keeps mode and linearised covariance.
    """
    model, ids = objective.model, objective.data.ids + first
    coordinates = Coordinates(model, "full", (*model.parameter_names, "residual"))
    search, psi = ImportanceSearch(objective, coordinates, None), coordinates.pack(coordinates.start)
    mean, covariance = objective.eta, linearised_covariance(objective, values, objective.eta)
    center, found = objective.typical_phi(values)[:, objective.random], np.empty(len(mean))
    for _ in range(2):  # the second with proposals fitted to the first's posteriors
        search.use(draw_from_proposal(ids, center, mean, covariance, values.omega, draws, KEY))
        found = search.individual_objectives(psi)[0]
        better, wider, effective = search.moments()
        enough = effective > ENOUGH
        mean = np.where(enough[:, None], better, mean)
        ridge = 1e-6 * np.diag(np.diag(values.omega))
        covariance = np.where(enough[:, None, None], wider + ridge, covariance)
    return mean, covariance, found


def _expanded(
    mean: FloatArray, omega: FloatArray, center: FloatArray, covariance: FloatArray, objective: FloatArray
) -> Evidence:
    """Evidence with posterior means g + ``center`` (n, k), covariances as far as they narrow Ω, and objectives."""
    factor = np.linalg.cholesky(omega)
    inverse = np.linalg.inv(factor)
    whitened = inverse @ covariance @ inverse.T
    fractions, axes = np.linalg.eigh(0.5 * (whitened + np.swapaxes(whitened, 1, 2)))
    fractions = np.clip(fractions, NARROWEST, 1.0)
    whitening = np.swapaxes(axes, 1, 2) @ inverse
    precision = np.swapaxes(whitening, 1, 2) @ ((1 / fractions - 1)[:, :, None] * whitening)
    total = precision + np.linalg.inv(omega)
    shift = np.einsum("nab,nb->na", total, mean + center) - mean @ np.linalg.inv(omega)
    found = Evidence(precision, shift, np.zeros(len(mean)))
    return Evidence(precision, shift, 0.5 * (found.objective(mean, omega) - objective))
