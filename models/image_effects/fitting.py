"""The fit of η | x ~ N(g(x), Ω_r) to an event table and the images beside it.

A round learns g on the evidence of the outcomes (:mod:`.evidence`) and makes Ω_r the likeliest one around held-out g;
then the evidence is made again at that g and Ω_r. Each round is a Gauss-Newton step on the marginal likelihood, with
exact gradients at its start. Rounds end when the marginal likelihood of held-out subjects stops rising. The two-step
form regresses empirical Bayes estimates on images instead, and has no second round.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.image_effects.evidence import By, Evidence, evidence
from image_longitudinal.models.image_effects.learners import CrossFit, Head, Learner, Learning, Targets
from image_longitudinal.models.image_effects.residual_omega import likeliest_omega
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.ebes import individual_modes
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]

ROUNDS = 4
GAIN = 0.5  # of minus twice the log-likelihood of all subjects: a smaller one ends the rounds
FEWEST = 4  # subjects a fold


@dataclass(frozen=True, eq=False)
class ImageEffects:
    """Random effects η ~ N(g(x), Ω_r) given images x.

    ``head`` is g, centred on the training subjects; ``held_out`` (n, k) is g of each of these by fits that have not
    seen it. ``omega`` is Ω_r, ``total`` Ω without images, both the likeliest, (k, k). ``objectives``: minus twice the
    log-likelihood of all subjects without images, and after each round with held-out g. ``before`` is the evidence at
    g = 0, ``after`` that at the end.
    """

    model: PopulationModel
    head: Head
    held_out: FloatArray
    omega: FloatArray
    total: FloatArray
    objectives: tuple[float, ...]
    before: Evidence
    after: Evidence

    @property
    def gain(self) -> float:
        """By how much held-out g lowers minus twice the log-likelihood of all subjects."""
        return self.objectives[0] - min(self.objectives[1:])


def fit_image_effects(
    model: PopulationModel, data: PopulationData, learner: Learner, *, learning: Learning = "likelihood",
    by: By = "focei", rounds: int = ROUNDS, workers: int = 1, report: Callable[[int, float], None] | None = None,
) -> ImageEffects:  # fmt: skip
    """Fit g and Ω_r.

    Args:
        model: a population model that was fitted to the table without images: its typical values and residual error
            are kept.
        data: the table of n subjects.
        learner: holds their images, in the same order.
        learning: ``likelihood``, or ``two-step``.
        by: how likelihoods are approximated, as in :func:`.evidence.evidence`.
        rounds: at most.
        workers: threads; the result does not depend on it.
        report: called with the round and minus twice the log-likelihood.

    Raises:
        ConfigError: no random effects, too few subjects, or another number of them than images have.
        SimulationError: the equations of a subject cannot be solved.
    """
    check_subjects(model, data, learner)
    start = PopulationParameters.of(model).omega
    none = np.zeros((len(data), len(start)))
    before, total = evidence(model, data, none, start, by=by, workers=workers), start
    likelier = likeliest_omega(before, none, start, start)
    center = before.posterior(none, likelier)[0]
    there = evidence(model, data, none, likelier, by=by, start=center, workers=workers)
    if there.objective(none, likelier).sum() < before.objective(none, start).sum():  # anew, not extrapolated
        before, total = there, likeliest_omega(there, none, likelier, start)
    objectives = [float(before.objective(none, total).sum())]
    known, omega = before, total
    best: tuple[CrossFit, FloatArray, Evidence] | None = None
    for index in range(1, (1 if learning == "two-step" else rounds) + 1):
        if learning == "two-step":
            targets = Targets.of_estimates(individual_modes(model, data, n_threads=workers).eta, total)
        else:
            targets = Targets.of_likelihood(known, omega, total)
        found = learner.cross_fit(targets)
        new = likeliest_omega(known, found.held_out, omega, start)
        center = known.posterior(found.held_out, new)[0]
        made = evidence(model, data, found.held_out, new, by=by, start=center, workers=workers)
        new = likeliest_omega(made, found.held_out, new, start)
        objectives.append(float(made.objective(found.held_out, new).sum()))
        if report:
            report(index, objectives[-1])
        if best is not None and objectives[-1] > min(objectives[1:-1]):
            break
        best = found, new, made
        if index > 1 and objectives[-1] > objectives[-2] - GAIN:
            break
        known, omega = made, new
    assert best is not None
    found, omega, known = best
    return ImageEffects(model, found.head, found.held_out, omega, total, tuple(objectives), before, known)


def check_subjects(model: PopulationModel, data: PopulationData, learner: Learner) -> None:
    """Check that images can be learned from these subjects.

    Raises:
        ConfigError: as in :func:`fit_image_effects`.
    """
    if not model.n_random_effects:
        raise ConfigError("images explain random effects", where=f"model {model.name!r}", got="none")
    if model.shared_omega:
        what = "images explain random effects of subjects, not of occasions"
        raise ConfigError(what, where=f"model {model.name!r}", do="fit a model without variability between occasions")
    if len(data) != len(learner):
        raise ConfigError("images and table do not fit", expected=f"images of {len(data)} subjects", got=len(learner))
    if len(data) < FEWEST * learner.folds:
        least = f"{FEWEST * learner.folds} subjects for {learner.folds} folds"
        raise ConfigError("too few subjects to learn from images", expected=f"at least {least}", got=len(data))
