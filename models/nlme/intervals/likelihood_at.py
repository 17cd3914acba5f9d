"""The objective of a fit at other estimates than its own, by the method of the fit."""

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.draws import coordinates_of
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.maximum_likelihood import SOLVER_TOLERANCE
from image_longitudinal.models.nlme.estimation.objective import TOLERANCE, Objective
from image_longitudinal.models.nlme.estimation.quadrature import place
from image_longitudinal.models.nlme.estimation.sampled_likelihood import SampledLikelihood
from image_longitudinal.models.nlme.estimation.sampler import Sampler
from image_longitudinal.models.nlme.kernels.individual import METHODS

FloatArray = NDArray[np.float64]
SAMPLED = ("IMP", "SAEM")


class LikelihoodAt:
    """Minus twice the log-likelihood without N·log 2π as a function of a fit's coordinates ψ.

    Each value is a function of ψ alone: searches of modes start at the fit's random effects, and draws are the same
    everywhere. One object for each thread.

    Args:
        found: the fit.
        data: the subjects that were fitted.
        order: of the quadrature, for AGQ.
        draws: per subject, for IMP and SAEM.
        seed: of these draws.
    """

    def __init__(self, found: Fit, data: PopulationData, *, order: int = 5, draws: int = 300, seed: int = 1) -> None:
        self.found, self.order, self.draws, self.seed = found, order, draws, seed
        method = "Laplace" if found.method == "AGQ" and order == 1 else found.method
        if method not in (*METHODS, "AGQ", *SAMPLED):
            raise ConfigError("no likelihood of a fit by this method", got=repr(method))
        self.coordinates: Coordinates = coordinates_of(found)
        self.method = method
        if method in METHODS:
            self.objective = Objective(found.model, data, method)
        else:
            tolerance = TOLERANCE if method == "AGQ" else SOLVER_TOLERANCE
            self.objective = Objective(found.model, data, tolerance=tolerance)

    def __call__(self, psi: FloatArray) -> float:
        """The objective at ψ (m,); infinite where it does not exist."""
        self.objective.restart(self.found.eta)
        try:
            value = float(self._individual(psi).sum())
        except (SimulationError, np.linalg.LinAlgError):
            return np.inf
        return value if np.isfinite(value) else np.inf

    def _individual(self, psi: FloatArray) -> FloatArray:
        if self.method in METHODS:
            return self.objective.evaluate(self.coordinates.unpack(psi))
        search = SampledLikelihood(self.objective, self.coordinates)
        if self.method == "AGQ":
            place(search, psi, self.order, starts=False)
            return search.objectives(psi)
        sampler = Sampler(search, self.seed)
        sampler.propose(psi, starts=False)
        sampler.draw(psi, np.full(len(self.objective.data), self.draws))
        return sampler.objectives(psi)
