"""Where the maximum of the likelihood of many subjects is, by more draws than a fit takes; how far fits are from it.

Near the maximum a Newton step by the gradient of all subjects, with the outer product of theirs as information, ends at
it up to some percent of the step. The gradient is by importance sampling with 2,000 draws a subject or more (32,000
where few are effective) and other random numbers than the fits have, in two sets: what they differ by tells the error.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates, central_differences
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.estimation.sampled_likelihood import SampledLikelihood
from image_longitudinal.models.nlme.estimation.sampler import Sampler, gradients_of_both

FloatArray = NDArray[np.float64]
TOGETHER = 500  # subjects, as memory allows
SETTLED, DRAWS = (200, 300), 1000  # draws by which proposals are fitted, and of each of two sets by which gradients are
ENOUGH, MOST = 0.35, 16  # share of effective draws below which a subject gets more, and how many times as many at most
SEED = 1001


class Maximum(NamedTuple):
    """Estimates (m,) at the maximum, their standard errors (m,), and what is known of it, in standard errors.

    ``error``: Monte Carlo error of the estimates, the largest; ``last_step``: the largest change from where it began.
    """

    estimates: FloatArray
    standard_errors: FloatArray
    error: float
    last_step: float

    def distance(self, fit: Fit) -> float:
        """The largest of a fit's estimates from the maximum, in standard errors."""
        return float(np.abs((fit.estimates - self.estimates) / self.standard_errors).max())


def maximum_near(fits: Iterable[Fit], data: PopulationData, workers: int) -> Maximum:
    """The maximum of the likelihood of all subjects near the mean of some fits, of full Ω."""
    fits = list(fits)
    coordinates = Coordinates(fits[0].model, "full", ())
    psi = np.mean([coordinates.pack(PopulationParameters.of(one.model)) for one in fits], axis=0)
    m = len(psi)
    gradient, difference, information = np.zeros(m), np.zeros(m), np.zeros((m, m))
    for first in range(0, len(data), TOGETHER):
        part = data.subset(first, min(first + TOGETHER, len(data)))
        objective = Objective(fits[0].model, part, n_threads=workers)
        own, between = _gradients(SampledLikelihood(objective, coordinates), psi)
        gradient += own.sum(axis=0)
        difference += between.sum(axis=0)
        information += 0.25 * own.T @ own
    covariance = np.linalg.inv(information)
    jacobian = np.stack(central_differences(coordinates.natural, psi, 1e-6), axis=1) / 2e-6
    errors = np.sqrt(np.diag(jacobian @ covariance @ jacobian.T))
    end = coordinates.natural(psi - 0.5 * covariance @ gradient)
    error = 0.25 * jacobian @ covariance @ difference / errors  # half of what the two sets' steps differ by
    step = (end - coordinates.natural(psi)) / errors
    return Maximum(end, errors, float(np.abs(error).max()), float(np.abs(step).max()))


def _gradients(search: SampledLikelihood, psi: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gradients of subjects (n, m) by two sets of draws, without the bias inverse to their number; their difference."""
    sampler, n = Sampler(search, SEED), len(search.draws)
    for count in SETTLED:
        sampler.propose(psi, starts=count == SETTLED[0])
        sampler.draw(psi, np.full(n, count))
        sampler.objectives(psi)
    halvings = np.ceil(np.log2(np.maximum(ENOUGH * search.draws / search.effective(), 1.0))).astype(int)
    sampler.propose(psi, starts=False)
    sets = []
    for _ in range(2):
        sampler.draw(psi, DRAWS * np.minimum(2**halvings, MOST))
        sets.append(sampler.evaluate(psi))
    (first, by_first), (second, by_second) = sets
    return gradients_of_both(first, second, by_first, by_second), by_first - by_second
