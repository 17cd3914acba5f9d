"""Compile ahead of time what fits and simulations need, so that no first run waits for it.

    python -m image_longitudinal.models.nlme.compile_solvers [MODEL ...]

Without names: what serves every model, and the library's models that need little of their own (``make setup`` does
that). Compiled code is kept in the user's cache folder (:mod:`models.nlme.kernels.cached`), per version of the sources,
of numba and of the processor.
"""

import sys
from collections.abc import Sequence

import numpy as np

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.densities import Densities
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

FIRST = "one-compartment"  # what serves every model is compiled with it
INTEGRATED = "one-compartment-mm"  # and with this one what all integrated models share
USUAL = (FIRST, "two-compartment", "pk-emax", INTEGRATED, "depot-central-mm")
SUBJECTS = 8


def compile_solvers(names: Sequence[str] = USUAL) -> None:
    """Compile the solvers of library models and all that estimation needs, unless the cache has them.

    Raises:
        ConfigError: an unknown model.
    """
    for model in [get_model(name) for name in names]:
        data = _simulated(model)
        if model.name == FIRST:
            fit(model, data, omega="diagonal", max_iterations=1)
            infusion = [Dose(0.0, 100.0, model.structural.states[-1], duration=2.0)]
            simulate(model, np.zeros((1, model.n_random_effects)), doses=infusion)
        _differentiated(model, data)


def _simulated(model: PopulationModel) -> PopulationData:
    """A few subjects under the model's own design."""
    ids, design = np.arange(SUBJECTS), model.design
    eta = np.linspace(-0.1, 0.1, SUBJECTS * model.n_random_effects).reshape(SUBJECTS, -1)
    observed = observe(model, simulate(model, eta), key=1, ids=ids)
    return PopulationData.of_design(model.structural, observed, design.times, design.doses, ids=ids)


def _differentiated(model: PopulationModel, data: PopulationData) -> None:
    """Everything that methods of estimation ask of the subjects' likelihoods, once."""
    objective, values = Objective(model, data), PopulationParameters.of(model)
    objective.evaluate(values, np.zeros((1, model.n_random_effects)))
    objective.posterior_covariance(values)
    densities, phi = Densities(objective), objective.typical_phi(values)
    densities(densities.predictions(phi), values.error)
    densities.by_phi(phi, values)
    densities.hessians(phi, values)


if __name__ == "__main__":
    compile_solvers(sys.argv[1:] or USUAL)
