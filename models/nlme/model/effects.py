"""Covariate effects, treatment effects and inter-occasion variability added to a model, its equations untouched."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Parameter, PopulationModel, check_omega
from image_longitudinal.models.nlme.model.structural import ARM, OCCASION, Expression, StructuralModel

Change = Callable[[SimpleNamespace], SimpleNamespace]  # of individual parameters


def with_covariate(
    model: PopulationModel,
    parameter: str,
    covariate: str,
    *,
    effect: str = "power",
    reference: float,
    coefficient: float,
) -> PopulationModel:
    """The model with a parameter that depends on a covariate.

    With covariate c, reference r and coefficient β the individual parameter is multiplied by (c / r)^β (``power``) or
    exp(β (c - r)) (``exponential``), or β (c - r) is added to it (``linear``). β becomes a parameter called
    ``parameter_covariate`` that is the same in every subject and estimated like any other. The event table
    gives the covariate and its interpolation between visits.
    ``coefficient`` is its start value. ConfigError: an unknown parameter or effect, or a reference that is not above 0
    for a power.
    """
    effects: dict[str, Callable[[Any, Any, Any], Any]] = {
        "power": lambda value, c, beta: value * (c / reference) ** beta,
        "exponential": lambda value, c, beta: value * s.exp(beta * (c - reference)),
        "linear": lambda value, c, beta: value + beta * (c - reference),
    }
    check_known(model, [parameter])
    if effect not in effects or (effect == "power" and not reference > 0):
        expected, got = f"{', '.join(effects)}; a reference above 0 for power", f"{effect!r}, reference {reference}"
        raise ConfigError("unusable covariate effect", expected=expected, got=got)
    name = f"{parameter}_{covariate}"

    def changed(p: SimpleNamespace) -> SimpleNamespace:
        value = effects[effect](getattr(p, parameter), getattr(p, covariate), getattr(p, name))
        return SimpleNamespace(**{**vars(p), parameter: value})

    structural = transformed(model.structural, changed, (name,), covariate, name)
    added = Parameter(name, coefficient, "normal", random=False)
    return replace(model, name=structural.name, structural=structural, parameters=(*model.parameters, added))


def with_occasions(
    model: PopulationModel, parameters: Sequence[str], occasions: int, omega: ArrayLike
) -> PopulationModel:
    """The model with inter-occasion variability.

    Each of the parameters gets a further random effect κ for every occasion, which acts on the parameter's own scale
    like its η; all occasions share one covariance matrix (NONMEM's BLOCK SAME). The occasion of a row is the covariate
    ``occ``: 1, 2, ..., ``occasions``; other labels in a file are numbered when it is read.

    ``parameters``: names of the q parameters that vary; ``occasions``: their largest number; ``omega`` (q, q):
    covariance of κ. ConfigError: an unknown parameter, or an Ω that is no covariance matrix.
    """
    check_known(model, parameters)
    block = check_omega(omega, len(parameters), f"{model.name} (occasions)")
    distributions = {own.name: own.distribution for own in model.parameters}
    kappas = [[f"kappa_{name}_{k}" for name in parameters] for k in range(1, occasions + 1)]

    def changed(p: SimpleNamespace) -> SimpleNamespace:
        values = vars(p).copy()
        for column, name in enumerate(parameters):
            kappa: Expression = 0.0
            for k, names in enumerate(kappas, 1):
                kappa = s.where(s.equal(getattr(p, OCCASION), float(k)), getattr(p, names[column]), kappa)
            values[name] = shifted(values[name], kappa, distributions[name])
        return SimpleNamespace(**values)

    k, new = model.n_random_effects, tuple(name for names in kappas for name in names)
    structural = replace(transformed(model.structural, changed, new, OCCASION, "occasions"), occasions=occasions)
    full = np.zeros((k + len(new), k + len(new)))
    full[:k, :k], full[k:, k:] = model.omega, np.kron(np.eye(occasions), block)
    groups = tuple(tuple(range(start, start + len(parameters))) for start in range(k, len(full), len(parameters)))
    return replace(
        model,
        name=structural.name,
        structural=structural,
        parameters=(*model.parameters, *(Parameter(name, 0.0, "normal", fixed=True) for name in new)),
        omega=tuple(tuple(float(value) for value in row) for row in full),
        shared_omega=groups,
    )


def with_treatment(
    model: PopulationModel, parameter: str, arm: int, *, mean: float, variance: float, name: str
) -> PopulationModel:
    """The model with an effect of one arm on a parameter, which differs between subjects.

    Where the covariate ``arm`` is the number of the arm, τ + η_τ is added on the parameter's own scale, like its η. τ
    becomes a parameter called ``name`` with a random effect of its own, independent of the others, or without one if
    the variance is 0.

    Args:
        model, parameter: what the arm acts on.
        arm: its number in the covariate ``arm``.
        mean, variance: of τ + η_τ; start values.
        name: of the new parameter.

    Raises:
        ConfigError: an unknown parameter, or a negative variance.
    """
    check_known(model, [parameter])
    if variance < 0:
        raise ConfigError("impossible variance of a treatment effect", expected="0 or above", got=variance)
    distribution = next(own.distribution for own in model.parameters if own.name == parameter)

    def changed(p: SimpleNamespace) -> SimpleNamespace:
        shift = s.where(s.equal(getattr(p, ARM), float(arm)), getattr(p, name), 0.0)
        return SimpleNamespace(**{**vars(p), parameter: shifted(getattr(p, parameter), shift, distribution)})

    structural = transformed(model.structural, changed, (name,), ARM, name)
    added, k = Parameter(name, mean, "normal", random=variance > 0), model.n_random_effects
    omega = np.zeros((k + added.random, k + added.random))
    omega[:k, :k] = model.omega
    if added.random:
        omega[k, k] = variance
    return replace(
        model,
        name=structural.name,
        structural=structural,
        parameters=(*model.parameters, added),
        omega=tuple(tuple(float(value) for value in row) for row in omega),
    )


def transformed(
    model: StructuralModel, changed: Change, new: tuple[str, ...], covariate: str, suffix: str
) -> StructuralModel:
    """The structural model with its functions applied to changed parameters, and without a hand-written kernel.

    ``new``: names of further parameters; ``covariate``: on which the change depends; ``suffix``: of the model's name.
    """
    initial, dosing, likelihood = model.initial, model.dosing, model.likelihood
    return replace(
        model,
        name=f"{model.name}+{suffix}",
        parameters=(*model.parameters, *new),
        covariates=tuple(dict.fromkeys((*model.covariates, covariate))),
        rhs=lambda t, x, p: model.rhs(t, x, changed(p)),
        output=lambda t, x, p: model.output(t, x, changed(p)),
        initial=None if initial is None else lambda p: initial(changed(p)),
        dosing=None if dosing is None else lambda p: dosing(changed(p)),
        likelihood=None if likelihood is None else lambda t, x, p: likelihood(t, x, changed(p)),
        kernel=None,
    )


def shifted(value: Expression, kappa: Expression, distribution: str) -> Expression:
    """A parameter value with κ added on the scale on which random effects add."""
    if distribution == "log-normal":
        return value * s.exp(kappa)
    if distribution == "normal":
        return value + kappa
    return value / (value + (1.0 - value) * s.exp(-kappa))


def check_known(model: PopulationModel, names: Sequence[str]) -> None:
    """ConfigError unless the model has parameters of these names."""
    for name in names:
        if name not in model.parameter_names:
            expected = ", ".join(model.parameter_names)
            raise ConfigError(f"model {model.name!r} has no such parameter", expected=expected, got=repr(name))
