"""Empirical Bayes estimates: each subject's most likely random effects given observations and population."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import starting_points
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EmpiricalBayes:
    """Modes of the individual posteriors.

    ``eta`` (n, k); ``joint`` (n,): minus the joint log-density of observations and random effects there, without the
    constants in 2π and |Ω|; ``converged`` (n,): whether the search ended at a mode.
    """

    eta: FloatArray
    joint: FloatArray
    converged: NDArray[np.bool_]


def empirical_bayes(
    model: PopulationModel,
    observed: ArrayLike,
    times: ArrayLike | None = None,
    doses: Sequence[Dose] | None = None,
    *,
    starts: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    n_threads: int = 1,
) -> EmpiricalBayes:
    """Estimates for subjects that share one design.

    The individual objective has several minima: each search explores several starts and finishes in the deepest valley.
    A subject's result depends on its own observations alone, so a large population may be cut into chunks.

    Args:
        model: the population model, e.g. that of a fit.
        observed: (n, T).
        times: observation times (T,); the model's design if None.
        doses: the doses; the model's design if None.
        starts: (S, k) starts in addition to 0; spread over the prior if None.
        ids: subject ids (n,), to name a subject in an error.
        n_threads: the result does not depend on it.

    Raises:
        ConfigError: observations that are missing or do not fit the design.
    """
    at = model.design.times if times is None else times
    given = model.design.doses if doses is None else doses
    return individual_modes(
        model,
        PopulationData.of_design(model.structural, observed, at, given, ids=ids),
        starts=starts,
        n_threads=n_threads,
    )


def individual_modes(
    model: PopulationModel, data: PopulationData, *, starts: ArrayLike | None = None, n_threads: int = 1
) -> EmpiricalBayes:
    """As :func:`empirical_bayes`, for subjects with different designs."""
    values = PopulationParameters.of(model)
    objective = Objective(model, data, n_threads=n_threads)
    joint, converged = objective.find_modes(values, starting_points(values.omega) if starts is None else starts)
    return EmpiricalBayes(objective.eta, joint, converged)
