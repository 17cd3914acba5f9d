"""Markov chains of every subject's random effects, whose stationary distribution is the individual posterior.

Each sweep proposes once from a mixture of the population and a t distribution around the subject's mode, whatever the
present state (an independence sampler: Karimi, Lavielle & Moulines 2020, Comput Stat Data Anal 141:123), and then moves
at random on the scale of the subject's posterior. The first crosses between modes, the second follows their shape.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from image_longitudinal.core.random import stream_key, uniforms
from image_longitudinal.models.nlme.estimation.densities import Densities
from image_longitudinal.models.nlme.estimation.fit import starting_points
from image_longitudinal.models.nlme.estimation.importance_sampling import log_normal
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.estimation.proposals import DEGREES, log_t

FloatArray = NDArray[np.float64]
WALKS = 2  # random moves per sweep
FROM_POPULATION = 0.1  # of the independent proposals


class Chains:
    """One chain per row of the data; a row's draws depend on seed, key and row alone.

    ``phi`` (n, p): the present parameters, on the scale on which random effects add; ``predicted`` (N,): there.
    """

    def __init__(self, objective: Objective, seed: int) -> None:
        self.objective, self.densities, self.seed = objective, Densities(objective), seed
        self.random, self.sweeps = objective.random, 0
        self.rows = np.arange(len(objective.data))
        # whether there is an expected information; of other models that at the modes is used, which follows no draws
        self.expected = objective.model.structural.likelihood is None
        self.per_row = np.diff(objective.data.row_start)

    def begin(self, values: PopulationParameters) -> None:
        """Start at the modes."""
        self.aim(values, starts=True)
        self.phi = self.objective.typical_phi(values)
        self.phi[:, self.random] += self.objective.eta
        self.predicted = self.densities.predictions(self.phi)

    def aim(self, values: PopulationParameters, *, starts: bool = False) -> None:
        """Fit the proposals to the individual posteriors under ``values``; ``starts``: search from several starts."""
        self.objective.find_modes(values, starting_points(values.omega) if starts else None)
        self.mode = self.objective.typical_phi(values)[:, self.random] + self.objective.eta
        self.scale = self.objective.posterior_covariance(values)
        self.factor = np.linalg.cholesky(self.scale)
        if not self.expected:
            phi = self.objective.typical_phi(values)
            phi[:, self.random] = self.mode
            self.information = self.densities.hessians(phi, values)

    def sweep(self, values: PopulationParameters) -> None:
        """Move every chain, with the posterior under ``values`` as its stationary distribution."""
        k = len(self.random)
        u = uniforms(stream_key(self.seed, "chains", self.sweeps), self.rows, (WALKS + 1) * (k + 1) + 3)
        self.sweeps += 1
        center = self.objective.typical_phi(values)
        # parameters without random effect follow the population
        others = np.setdiff1d(np.arange(center.shape[1]), self.random)
        if len(others) and not np.array_equal(self.phi[:, others], center[:, others]):
            self.phi[:, others] = center[:, others]
            self.predicted = self.densities.predictions(self.phi)
        self.center = center[:, self.random]
        self.joint = self._joint(self.phi, self.predicted, values)
        proposed = self._independent(u[:, : k + 3], values)
        self._move(proposed, u[:, k + 3], values, lambda phi: self._log_proposal(phi, values))
        width = 2.38 / np.sqrt(k)
        for walk in range(WALKS):
            own = u[:, k + 4 + walk * (k + 1) : k + 4 + (walk + 1) * (k + 1)]
            step = width * np.einsum("nkl,nl->nk", self.factor, ndtri(own[:, :k]))
            self._move(self.phi[:, self.random] + step, own[:, k], values, None)

    def _independent(self, u: FloatArray, values: PopulationParameters) -> FloatArray:
        """A proposal (n, k) from the mixture, by uniform draws (n, k + 3)."""
        k = len(self.random)
        z = ndtri(u[:, :k])
        stretch = np.sqrt(DEGREES / (-2.0 * np.log(u[:, k]) - 2.0 * np.log(u[:, k + 1])))
        near = self.mode + np.einsum("nkl,nl->nk", self.factor, z) * stretch[:, None]
        far = self.center + z @ np.linalg.cholesky(values.omega).T
        return np.where((u[:, k + 2] < FROM_POPULATION)[:, None], far, near)

    def _log_proposal(self, phi: FloatArray, values: PopulationParameters) -> FloatArray:
        """Log density (n,) of :meth:`_independent` at φ (n, k)."""
        near = log_t((phi - self.mode)[:, None], self.scale)[:, 0]
        far = log_normal(phi - self.center, values.omega)
        return np.logaddexp(np.log(1.0 - FROM_POPULATION) + near, np.log(FROM_POPULATION) + far)

    def _joint(self, phi: FloatArray, predicted: FloatArray, values: PopulationParameters) -> FloatArray:
        return self.densities(predicted, values.error) + log_normal(phi[:, self.random] - self.center, values.omega)

    def _move(
        self, proposed: FloatArray, u: FloatArray, values: PopulationParameters,
        log_proposal: Callable[[FloatArray], FloatArray] | None,
    ) -> None:  # fmt: skip
        """Accept or reject φ (n, k) by uniform draws (n,); without ``log_proposal`` it is symmetric."""
        phi = self.phi.copy()
        phi[:, self.random] = proposed
        predicted = self.densities.predictions(phi)
        joint = self._joint(phi, predicted, values)
        ratio = joint - self.joint
        if log_proposal is not None:
            ratio += log_proposal(self.phi[:, self.random]) - log_proposal(proposed)
        accepted = (np.log(u) < ratio) | ((self.joint == -np.inf) & (joint > -np.inf))
        self.phi[accepted] = phi[accepted]
        self.joint[accepted] = joint[accepted]
        by_row = np.repeat(accepted, self.per_row)
        self.predicted[by_row] = predicted[by_row]
