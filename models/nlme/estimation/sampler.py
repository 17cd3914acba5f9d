"""Proposals that follow the estimates of a search, and draws from them."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from image_longitudinal.core.random import stream_key
from image_longitudinal.models.nlme.estimation.fit import starting_points
from image_longitudinal.models.nlme.estimation.importance_sampling import ENOUGH, Draws
from image_longitudinal.models.nlme.estimation.proposals import Proposal
from image_longitudinal.models.nlme.estimation.sampled_likelihood import (
    Posteriors,
    SampledLikelihood,
    hardly_informed,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Sampler:
    """Proposals that follow ψ, and draws from them for a :class:`.sampled_likelihood.SampledLikelihood`."""

    def __init__(self, search: SampledLikelihood, seed: int) -> None:
        self.search, self.seed, self.sets = search, seed, 0
        self.posteriors: Posteriors | None = None
        self.proposal: Proposal | None = None

    def propose(self, psi: FloatArray, *, starts: bool) -> None:
        """Proposals at the modes at ψ; ``starts``: search these from several starts."""
        objective, values = self.search.objective, self.search.coordinates.unpack(psi)
        objective.find_modes(values, starting_points(values.omega) if starts else None)
        own = Proposal.around(objective.eta.copy(), objective.posterior_covariance(values), values.omega)
        if self.posteriors is not None:
            own = own.following(self.search.bent(values.omega), self.search.effective() > ENOUGH)
        self.proposal = own

    def draw(self, psi: FloatArray, draws: IntArray) -> None:
        """A new set of draws (n,) for the search, around ψ."""
        assert self.proposal is not None
        search, proposal, values = self.search, self.proposal, self.search.coordinates.unpack(psi)
        objective = search.objective
        center, ids = objective.typical_phi(values)[:, objective.random], objective.data.ids
        key = stream_key(self.seed, "importance", self.sets)
        self.sets += 1

        def drawn(positions: IntArray, n: int) -> Draws:
            return proposal.take(positions).draw(ids[positions], center[positions], values.omega, n, key)

        moving = [] if self.posteriors is None else hardly_informed(values.omega, self.posteriors.covariance)
        search.use(draws, drawn, center, moving)

    def evaluate(self, psi: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Each subject's objective (n,) and gradient (n, m) at ψ; the posteriors there."""
        found = self.search.individual_objectives(psi)
        self.posteriors = self.search.posteriors()
        return found

    def objectives(self, psi: FloatArray) -> FloatArray:
        """As :meth:`evaluate`, without the gradient."""
        found = self.search.objectives(psi)
        self.posteriors = self.search.posteriors()
        return found


def gradients_of_both(
    first: FloatArray, second: FloatArray, first_gradients: FloatArray, second_gradients: FloatArray
) -> FloatArray:
    """Gradients (n, m) of subjects by two sets of draws, from the objectives (n,) and gradients (n, m) by each.

    What n draws tell of a logarithm is biased by b / n: twice what both sets tell together minus the mean of what each
    tells is not (Quenouille's jackknife).
    """
    share = expit(0.5 * (second - first))[:, None]  # of the first set, in the likelihood of both
    both = share * first_gradients + (1.0 - share) * second_gradients
    return np.asarray(2.0 * both - 0.5 * (first_gradients + second_gradients))
