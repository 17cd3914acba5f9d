"""Maximum likelihood by stochastic approximation EM (Kuhn & Lavielle 2005, Comput Stat Data Anal 49:1020).

Markov chains draw each subject's random effects under the present population (:mod:`.chains`); their first and second
moments, averaged over iterations, give typical values and Ω. Residual errors, typical values without random effect, and
those of random effects on which the data say little, follow the gradient of the likelihood (Fisher's identity) by
Newton steps of the same step sizes: Robbins & Monro. While the chains explore, variances may fall by 5 % an iteration
only (simulated annealing). Censored observations contribute their probability (M3). Of many subjects, most iterations
take a part of them alone.

Where much of the information is missing, averages over iterations are slow to come close to the maximum. How far it is
is measured by importance sampling; if it is not near, a step by the likelihood's own gradient follows, after which an
estimate is as good as the maximum (Le Cam 1956, Proc Third Berkeley Symp 1:129). The likelihood at the end, and how far
its maximum still is, are measured with draws of their own. A fit of many subjects ends with the last steps of
:mod:`.maximum_likelihood`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.chains import Chains
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import CHECKED_IN_FIRST, SAMPLE, Evaluated, Fit, spread
from image_longitudinal.models.nlme.estimation.maximum_likelihood import (
    MOST,
    SOLVER_TOLERANCE,
    SOLVER_TOLERANCE_OF_MANY,
    last_steps,
    measure,
    sampled_fit,
)
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.estimation.quadrature import FINE, MOST_EFFECTS, place
from image_longitudinal.models.nlme.estimation.sampled_likelihood import (
    SampledLikelihood,
    affordable,
    hardly_informed,
    positive,
)
from image_longitudinal.models.nlme.estimation.sampler import Sampler
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BURN_IN, SMOOTHING = 200, 150
CHAINS = 300  # at least, over all subjects
DECREASE = 0.7  # smoothing takes steps m^-0.7: 1 / m would leave directions in which EM is slow where they were
AVERAGED = 0.7  # share of the smoothing, its end, over whose estimates the result is the mean (Polyak & Juditsky 1992)
COOLING = 0.95  # of a variance from one iteration to the next, at least, in the first half of the burn-in
LONGEST = 0.5  # step of a logarithm
AIMED = (1, 2, 4, 8, 16, 32, 64, 128)  # iterations before which the proposals are fitted again; and before smoothing
# root mean square distance from the maximum, in standard errors, with which a fit counts as converged; that is measured
# with the noise of the draws, of up to 0.35 (maximum_likelihood.ACCEPTED)
ACCEPTED = 0.4
NEAR = 0.2  # the same, beyond which a step by the gradient follows
STEPS = 4  # of that, at most: the first is Newton's
FEW, LATER = 100, 8  # draws per subject for proposals; the share of iterations, its inverse, that take all of many


def saem_fit(
    model: PopulationModel, data: PopulationData, *, omega: str = "full", fixed: tuple[str, ...] = (),
    burn_in: int = BURN_IN, smoothing: int = SMOOTHING, draws: int = 300, seed: int = 1, covariance: str = "sandwich",
    n_threads: int = 1, progress: Evaluated | None = None,
) -> Fit:  # fmt: skip
    """Maximise the likelihood by SAEM.

    ``eta`` and ``searches_converged`` of the result are those of :func:`.maximum_likelihood.maximum_likelihood`.

    Args:
        model: the population model; its values are the start values.
        data: the subjects; with fewer than 300, each has several chains.
        omega, fixed: as in :func:`.fit.fit`.
        burn_in, smoothing: iterations with steps of 1, and with decreasing ones.
        draws: per subject, to begin with, for the likelihood at the end.
        seed: of chains and draws.
        covariance: as in :func:`.maximum_likelihood.maximum_likelihood`.
        n_threads: the result does not depend on it.
        progress: called with (iteration, minus twice the log density of observations and random effects).

    Raises:
        ConfigError: no random effects, no iterations, or options that do not fit the model.
        SimulationError: a subject cannot be evaluated at the start values.
    """
    if not model.n_random_effects or burn_in < 1 or smoothing < 1:
        expected = "at least one random effect, and one iteration of each phase"
        got = f"{model.n_random_effects} random effects, {burn_in} and {smoothing} iterations"
        raise ConfigError("SAEM cannot be used", expected=expected, got=got)
    coordinates, evaluations = Coordinates(model, omega, fixed), 0
    many = len(data) >= CHECKED_IN_FIRST * SAMPLE and len(coordinates.names) > 0
    objective_of = partial(
        Objective, model, n_threads=n_threads, tolerance=SOLVER_TOLERANCE_OF_MANY if many else SOLVER_TOLERANCE
    )
    iterate = partial(_iterations, objective_of, coordinates=coordinates, seed=seed, progress=progress)
    if many:
        psi = iterate(spread(data, SAMPLE), coordinates.start, burn_in, smoothing, cooling=burn_in // 2)
        values, evaluations = coordinates.unpack(psi), burn_in + smoothing
        burn_in, smoothing = max(1, burn_in // LATER), max(1, smoothing // LATER)
        psi = iterate(data, values, burn_in, smoothing, cooling=0, aimed=())
    else:
        psi = iterate(data, coordinates.start, burn_in, smoothing, cooling=burn_in // 2)
    evaluations += burn_in + smoothing
    search = SampledLikelihood(objective_of(data), coordinates)
    sampler, count = Sampler(search, seed), np.full(len(data), draws)
    if many:
        return last_steps(sampler, psi, "SAEM", draws, MOST, covariance, evaluations, STEPS)
    sampler.propose(psi, starts=True)
    sampler.draw(psi, np.minimum(count, FEW))
    sampler.objectives(psi)  # the posteriors, by which proposals improve
    psi = _nearer(sampler, psi, count)
    measured = measure(sampler, psi, count)
    gain = _gain(search, psi)
    distance = np.sqrt(gain / max(1, len(psi)))
    away = f"by its gradient, the likelihood's maximum is {gain:.2g} lower, {distance:.2g} standard errors away"
    converged = distance <= ACCEPTED
    message = f"converged; {away}" if converged else f"{away}: take more iterations"
    return sampled_fit(search, psi, "SAEM", covariance, measured, evaluations, converged, distance, message)


def _iterations(
    objective_of: Callable[[PopulationData], Objective], data: PopulationData, start: PopulationParameters,
    burn_in: int, smoothing: int, *, cooling: int, aimed: tuple[int, ...] = AIMED, coordinates: Coordinates, seed: int,
    progress: Evaluated | None,
) -> FloatArray:  # fmt: skip
    """The mean ψ (m,) of the end of the smoothing.

    In the first ``cooling`` iterations variances fall slowly; before those ``aimed`` proposals are fitted again.
    """
    copies = max(1, -(-CHAINS // max(1, len(data))))
    many = PopulationData.concatenate([data] * copies) if copies > 1 else data
    values, chains = start, Chains(objective_of(many), seed)
    chains.begin(values)
    update, kept = _Update(coordinates, chains), list[FloatArray]()
    for number in range(burn_in + smoothing if coordinates.names else 0):
        if number in aimed or number == burn_in:
            chains.aim(values)
        chains.sweep(values)
        smooth = number - burn_in + 1  # iteration of the smoothing, from 1 on
        values = update(values, max(1, smooth) ** -DECREASE, cooling=number < cooling)
        if smooth > max(0, round((1.0 - AVERAGED) * smoothing)):
            kept.append(coordinates.pack(values))
        if progress:
            progress(number + 1, -2.0 * float(chains.joint.sum()) / copies)
    return np.asarray(np.mean(kept, axis=0)) if kept else coordinates.pack(values)


def _nearer(sampler: Sampler, psi: FloatArray, draws: IntArray) -> FloatArray:
    """ψ after a step to the maximum of the likelihood by ``draws`` (n,), as far as they are trusted, if it is far."""
    if not len(psi):
        return psi
    sampler.propose(psi, starts=False)
    sampler.draw(psi, draws)
    gradients = sampler.evaluate(psi)[1]
    if np.sqrt(sampler.search.left_to_gain(psi, gradients) / len(psi)) <= NEAR:
        return psi
    return sampler.search.maximise(psi, gradients, STEPS)[0]


def _gain(search: SampledLikelihood, psi: FloatArray) -> float:
    """Decrease of the objective that the gradient at ψ promises; of few subjects, by quadrature if that is possible."""
    if not len(psi):
        return 0.0
    n, k = search.objective.eta.shape
    if affordable("sandwich", n, len(psi)) == "sandwich" and k <= MOST_EFFECTS:
        place(search, psi, FINE, starts=False)
    return search.left_to_gain(psi, search.individual_objectives(psi)[1])


class _Update:
    """The population after an iteration; keeps the averages over iterations."""

    def __init__(self, coordinates: Coordinates, chains: Chains) -> None:
        self.coordinates, self.chains, self.random = coordinates, chains, chains.random
        self.reference = coordinates.start.mu[self.random]  # moments are around it
        self.mean = np.zeros(len(self.random))
        self.square = np.zeros((len(self.random), len(self.random)))
        free = set(coordinates.mu)
        self.by_mean = [b for b, i in enumerate(self.random) if int(i) in free]
        self.held = [b for b in range(len(self.random)) if b not in self.by_mean]
        self.others = [i for i in coordinates.mu if i not in self.random]

    def __call__(self, values: PopulationParameters, size: float, *, cooling: bool) -> PopulationParameters:
        """Population parameters after an iteration with a step size; ``cooling``: variances fall slowly."""
        moments = self.chains.phi[:, self.random] - self.reference
        self.mean += size * (moments.mean(axis=0) - self.mean)
        self.square += size * (moments.T @ moments / len(moments) - self.square)
        mu = values.mu.copy()
        newton, little = list(self.others), list[int]()
        if not cooling:
            little = hardly_informed(values.omega, self.chains.scale)
            if newton or {int(self.random[b]) for b in little} & set(self.coordinates.mu):
                newton = list(self.coordinates.mu)  # all together: they depend on each other
        at_mean = [b for b in self.by_mean if int(self.random[b]) not in newton]
        if at_mean:
            mu[self.random[at_mean]] = self._means(values, at_mean)
        if newton:
            mu[newton] += size * self._newton(values, newton)
        free, bounds = self.coordinates.mu, self.coordinates.bounds
        mu[free] = bounds.bounded(bounds.free(mu[free]))
        return PopulationParameters(mu, self._omega(values, mu, cooling), self._error(values, size, cooling))

    def _means(self, values: PopulationParameters, positions: list[int]) -> FloatArray:
        """Typical values of random effects at some positions, given those that are held."""
        found = self.reference + self.mean
        if self.held:
            off = found[self.held] - values.mu[self.random[self.held]]
            across = values.omega[np.ix_(positions, self.held)]
            found[positions] -= across @ np.linalg.solve(values.omega[np.ix_(self.held, self.held)], off)
        return np.asarray(found[positions])

    def _omega(self, values: PopulationParameters, mu: FloatArray, cooling: bool) -> FloatArray:
        if not self.coordinates.cells:
            return values.omega
        shift = mu[self.random] - self.reference
        cross = np.outer(shift, self.mean)
        omega = self.coordinates.structured(self.square - cross - cross.T + np.outer(shift, shift))
        variances = np.maximum(np.diag(omega), 1e-12)
        if cooling:
            raised = np.sqrt(np.maximum(variances, COOLING * np.diag(values.omega)) / variances)
            omega = omega * np.outer(raised, raised)
        scale = np.sqrt(np.maximum(np.diag(omega), 1e-12))
        lowest = float(np.linalg.eigvalsh(omega / np.outer(scale, scale))[0])
        if lowest < 1e-6:  # a correlation of ±1, or a variance of 0
            omega = omega + (1e-6 - min(lowest, 0.0)) * np.diag(scale**2)
        return np.asarray(omega)

    def _error(self, values: PopulationParameters, size: float, cooling: bool) -> FloatArray:
        error, positions = values.error.copy(), self.coordinates.errors
        if positions:
            chains = self.chains
            first, second = chains.densities.by_error(chains.predicted, values.error, positions)
            down = np.log(COOLING) / 2.0 if cooling else -LONGEST
            for column, i in enumerate(positions):
                known = np.isfinite(first[:, column]) & np.isfinite(second[:, column])
                rows = chains.per_row[known].sum()
                step = first[known, column].sum() / max(-second[known, column].sum(), 0.1 * rows)
                error[i] *= np.exp(size * np.clip(step, down, LONGEST))
        return error

    def _newton(self, values: PopulationParameters, positions: list[int]) -> FloatArray:
        """A Newton step of some typical values towards the maximum of the likelihood.

        The score of the present draws minus its regression on the score by the random effects, whose posterior mean is
        0: what is left does not change with draws that the data hold. Its information is that of the linearised model;
        with a likelihood the curvature at the modes, as a regression that followed the draws would have its own mean.
        """
        random = self.random
        score, information = self.chains.densities.by_phi(self.chains.phi, values)
        if not self.chains.expected:
            information = self.chains.information
        precision = np.linalg.inv(values.omega)
        eta = self.chains.phi[:, random] - values.mu[random]
        across = information[:, random, :]  # (n, k, p)
        regression = np.linalg.solve(across[:, :, random] + precision, across)
        of_effects = score[:, random] - eta @ precision
        gradient = (score - np.einsum("nkp,nk->np", regression, of_effects)).sum(axis=0)
        left = (information - np.einsum("nkp,nkq->npq", across, regression)).sum(axis=0)
        some = np.ix_(positions, positions)
        if not self.chains.expected:
            left[some] = positive(left[some])
        ridge = 1e-8 * np.diag(np.diag(left)[positions]) + 1e-12 * np.eye(len(positions))
        return np.clip(np.linalg.solve(left[some] + ridge, gradient[positions]), -LONGEST, LONGEST)
