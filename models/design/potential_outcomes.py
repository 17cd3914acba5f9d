"""Outcomes of every subject under every arm, with the same random effects, residual draws and visits.

The observed outcomes are those of the arm taken: picked from the potential ones, not computed again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.doses import single_doses
from image_longitudinal.core.random import stream_key
from image_longitudinal.core.study_config import Arm
from image_longitudinal.models.design.covariates import adjust_parameters
from image_longitudinal.models.design.functionals import summarise
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters, observe, simulate_individuals
from image_longitudinal.models.nlme.simulation.visits import Visits

if TYPE_CHECKING:
    from image_longitudinal.models.design.study import StudyDesign, StudySubjects

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PotentialOutcomes:
    """Subjects (n,) under every arm (A).

    ``parameters`` (A, n, p): individual parameters; ``dv`` (A, n, T): observations; ``functionals``: noise-free, at the
    planned times, (A, n) by name; ``visits``: own times and whether seen, (n, T) each, None if all keep the planned
    times.
    """

    parameters: FloatArray
    dv: FloatArray
    functionals: Mapping[str, FloatArray]
    visits: tuple[FloatArray, NDArray[np.bool_]] | None

    def taken(self, arm: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Parameters (n, p) and observations (n, T) under the arm (n,) that each subject takes."""
        rows = np.arange(len(arm))
        return self.parameters[arm, rows], self.dv[arm, rows]


def potential_outcomes(design: "StudyDesign", subjects: "StudySubjects") -> PotentialOutcomes:
    """The outcomes of subjects under every arm of a design."""
    model, outcomes, ids = design.model, design.outcomes, subjects.ids
    visits = None
    if outcomes.irregular:
        visits = visits_of(design).draw(design.seed, ids)
    times: ArrayLike = outcomes.times if visits is None else visits[0]
    key = stream_key(design.seed, "residual", float(design.level))
    every, predictions, summaries = [], [], []
    for number, arm in enumerate(design.arms):
        shifts = {name: values for (of, name), values in subjects.effects.items() if of == number}
        parameters = arm_parameters(design, subjects.eta, shifts, subjects.covariates)
        predicted = arm_prediction(design, arm, parameters, subjects.covariates, times, ids)
        predictions.append(predicted)
        if visits is not None:
            predicted = arm_prediction(design, arm, parameters, subjects.covariates, outcomes.times, ids)
        summaries.append(summarise(predicted, outcomes.times))
        every.append(parameters)
    functionals = {name: np.stack([summary[name] for summary in summaries]) for name in summaries[0]}
    observed = observe(model, np.stack(predictions), key=key, ids=ids)
    return PotentialOutcomes(np.stack(every), observed, functionals, visits)


def visits_of(design: "StudyDesign") -> Visits:
    """The visit schedule, the same under every arm: no visit with a dose of any arm moves."""
    outcomes = design.outcomes
    fixed = sorted({dose.time for arm in design.arms for dose in arm_doses(design, arm)})
    return Visits(outcomes.times, tuple(fixed), outcomes.jitter, outcomes.missed, outcomes.dropout)


def arm_parameters(
    design: "StudyDesign", eta: FloatArray, shifts: Mapping[str, FloatArray], covariates: Mapping[str, FloatArray]
) -> FloatArray:
    """Individual parameters (n, p) from random effects (n, k), an arm's effects (n,) by parameter, and covariates."""
    parameters = shifted(design.model, individual_parameters(design.model, eta), shifts)
    return adjust_parameters(design.model, parameters, design.study.covariates, covariates)


def arm_prediction(
    design: "StudyDesign", arm: Arm, parameters: FloatArray, covariates: Mapping[str, FloatArray], times: ArrayLike,
    ids: ArrayLike | None = None,
) -> FloatArray:  # fmt: skip
    """Noise-free predictions (n, T) from individual parameters (n, p) under an arm's doses and covariates."""
    set_by_arm = {one.name: np.full(len(parameters), one.value) for one in arm.covariates}
    known = {**covariates, **set_by_arm}
    used = {name: known[name] for name in design.model.structural.covariates}
    return simulate_individuals(design.model, parameters, times, arm_doses(design, arm), ids=ids, covariates=used)


def arm_functional(
    design: "StudyDesign", arm: Arm, parameters: FloatArray, covariates: Mapping[str, FloatArray]
) -> FloatArray:
    """The study's functional (n,) at the planned times, from individual parameters (n, p) under an arm."""
    predicted = arm_prediction(design, arm, parameters, covariates, design.outcomes.times)
    return summarise(predicted, design.outcomes.times)[design.study.functional]


def arm_doses(design: "StudyDesign", arm: Arm) -> list[Dose]:
    """The doses of an arm."""
    given = design.outcomes.given if arm.doses is None else single_doses(arm.doses)
    return [
        Dose(time, amount, compartment, amount / rate if rate else 0.0) for time, amount, compartment, rate in given
    ]


def shifted(model: PopulationModel, parameters: FloatArray, shifts: Mapping[str, FloatArray]) -> FloatArray:
    """Individual parameters (n, p) after an arm's effects (n,), each on its parameter's own scale."""
    if not shifts:
        return parameters
    out = parameters.copy()
    for name, shift in shifts.items():
        column = model.parameter_names.index(name)
        kind, value = model.parameters[column].distribution, out[:, column]
        if kind == "log-normal":
            out[:, column] = value * np.exp(shift)
        elif kind == "normal":
            out[:, column] = value + shift
        else:
            out[:, column] = value / (value + (1.0 - value) * np.exp(-shift))
    return out
