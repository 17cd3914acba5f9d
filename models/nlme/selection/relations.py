"""Relations of parameters with covariates that a search may add to a model, all in one model.

A relation whose coefficients are 0 changes nothing. So one model with all candidates, compiled once, is every smaller
model too: with some coefficients held at 0.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.kernels.records import COVARIATES
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.effects import check_known, shifted, transformed
from image_longitudinal.models.nlme.model.population import Parameter, PopulationModel
from image_longitudinal.models.nlme.model.structural import given_covariates

FloatArray = NDArray[np.float64]
Kind = Literal["power", "exponential", "linear", "categorical"]
KINDS = ("power", "exponential", "linear", "categorical")
MOST_LEVELS = 10  # values of a category
INSIDE = 0.999  # of the way to the bound at which a linear factor is 0 for some subject


@dataclass(frozen=True)
class Relation:
    """How a parameter depends on a covariate c, with reference r and coefficient β.

    The parameter is multiplied by (c / r)^β (``power``), exp(β (c - r)) (``exponential``), 1 + β (c - r) (``linear``),
    or exp(β_level) for every level of c but r (``categorical``). For a fraction the logarithm of this factor is added
    to its logit; it has no linear relation. The factor of a linear relation stays positive for values of c from
    ``low`` to ``high``.
    """

    parameter: str
    covariate: str
    kind: Kind
    reference: float
    levels: tuple[float, ...] = ()
    low: float = -np.inf
    high: float = np.inf

    @property
    def pair(self) -> tuple[str, str]:
        """Parameter and covariate."""
        return self.parameter, self.covariate

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the coefficients, which are parameters of the model."""
        stem = f"{self.parameter}_{self.covariate}"
        if self.kind != "categorical":
            return (f"{stem}_{self.kind}",)
        return tuple(f"{stem}_{level:g}".replace("-", "minus").replace(".", "_") for level in self.levels)

    def __str__(self) -> str:
        return f"{self.parameter}:{self.covariate}:{self.kind}"

    def log_factor(self, p: SimpleNamespace) -> Any:
        """Logarithm of the factor, of symbolic parameters and covariates."""
        c, beta = getattr(p, self.covariate), [getattr(p, name) for name in self.coefficients]
        if self.kind == "power":
            return beta[0] * s.log(c / self.reference)
        if self.kind == "exponential":
            return beta[0] * (c - self.reference)
        if self.kind == "linear":
            return s.log(1.0 + beta[0] * (c - self.reference))
        total: Any = 0.0
        for level, own in zip(self.levels, beta, strict=True):
            total = s.where(s.equal(c, level), own, total)
        return total

    def parameters(self, start: Mapping[str, float]) -> tuple[Parameter, ...]:
        """The coefficients, started at 0 or at other values by name."""
        lower = upper = None
        if self.kind == "linear":
            lower = -INSIDE / (self.high - self.reference) if self.reference < self.high < np.inf else None
            upper = INSIDE / (self.reference - self.low) if -np.inf < self.low < self.reference else None
        return tuple(
            Parameter(name, start.get(name, 0.0), "normal", random=False, lower=lower, upper=upper)
            for name in self.coefficients
        )


def with_relations(
    model: PopulationModel, relations: Sequence[Relation], *, start: Mapping[str, float] | None = None, name: str = ""
) -> PopulationModel:
    """The model with relations, whose coefficients are further parameters without random effects.

    Args:
        model: of whose parameters they are.
        relations: at most one for each parameter and covariate, unless all but one of them are held at 0.
        start: start values of coefficients by name, else 0.
        name: of the new model; without one, the model's with the relations.

    Raises:
        ConfigError: an unknown parameter, or a linear relation of a fraction.
    """
    check_known(model, [relation.parameter for relation in relations])
    kinds = {own.name: own.distribution for own in model.parameters}
    for relation in relations:
        if relation.kind == "linear" and kinds[relation.parameter] == "logit-normal":
            raise ConfigError("a fraction has no linear relation", got=str(relation), do="take exponential or power")

    def changed(p: SimpleNamespace) -> SimpleNamespace:
        values = vars(p).copy()
        for relation in relations:
            kind = kinds[relation.parameter]
            # on a parameter's own scale a log-normal one is multiplied; so is one on the natural scale
            scale = "log-normal" if kind == "normal" else kind
            values[relation.parameter] = shifted(values[relation.parameter], relation.log_factor(p), scale)
        return SimpleNamespace(**values)

    structural = model.structural
    for relation in relations:  # covariates and coefficients, in order; the change itself once
        structural = replace(structural, covariates=tuple(dict.fromkeys((*structural.covariates, relation.covariate))))
    new = tuple(own for relation in relations for own in relation.parameters(start or {}))
    if relations:
        names = tuple(own.name for own in new)
        structural = transformed(structural, changed, names, relations[0].covariate, "covariates")
    own_name = name or ("+".join([model.name, *map(str, relations)]) if relations else model.name)
    return replace(model, name=own_name, structural=structural, parameters=(*model.parameters, *new))


def without(model: PopulationModel, kept: Collection[str], coefficients: Collection[str]) -> PopulationModel:
    """The model with all ``coefficients`` but the ``kept`` ones held at 0."""
    parameters = tuple(
        replace(own, typical=0.0, fixed=True)
        if own.name in coefficients and own.name not in kept
        else replace(own, fixed=False)
        if own.name in coefficients
        else own
        for own in model.parameters
    )
    return replace(model, parameters=parameters)


def candidates_of(texts: Sequence[str]) -> list[tuple[str, str, Kind]]:
    """Parameter, covariate and kind of ``PARAMETERS:COVARIATES:KINDS``, each a name or several between commas.

    Raises:
        ConfigError: another form, an unknown kind, or a candidate given twice.
    """
    found: list[tuple[str, str, Kind]] = []
    for text in texts:
        parts = [[name.strip() for name in part.split(",") if name.strip()] for part in text.split(":")]
        if len(parts) != 3 or not all(parts):
            expected = "PARAMETER:COVARIATE:KIND, such as cl,v:weight:power"
            raise ConfigError("unreadable candidate", expected=expected, got=repr(text))
        if unknown := [kind for kind in parts[2] if kind not in KINDS]:
            raise ConfigError("unknown relation", expected=", ".join(KINDS), got=", ".join(unknown))
        found += [(p, c, kind) for p in parts[0] for c in parts[1] for kind in parts[2]]  # type: ignore[misc]
    if twice := sorted({":".join(one) for one in found if found.count(one) > 1}):
        raise ConfigError("candidates given twice", got=", ".join(twice))
    if not found:
        raise ConfigError("no candidates", expected="PARAMETER:COVARIATE:KIND, such as cl,v:weight:power")
    return found


def knowing(model: PopulationModel, covariates: Sequence[str]) -> PopulationModel:
    """The model that reads further covariates from tables, which nothing depends on."""
    names = tuple(dict.fromkeys((*model.structural.covariates, *covariates)))
    return replace(model, structural=replace(model.structural, covariates=names, kernel=None))


def relations_for(
    candidates: Sequence[tuple[str, str, Kind]], model: PopulationModel, data: PopulationData
) -> list[Relation]:
    """The candidates with references and levels from the subjects' first values.

    The reference is the median; of a category, its most frequent value, which the others are compared with.

    Args:
        candidates: parameter, covariate, kind.
        model: of :func:`knowing`, for which ``data`` were read.
        data: the subjects.

    Raises:
        ConfigError: an unknown parameter, a covariate with one value only, a power of values that are not positive, a
            category with many values.
    """
    check_known(model, [parameter for parameter, _, _ in candidates])
    places = {name: column for column, name in enumerate(given_covariates(model.structural))}
    told = np.flatnonzero(data.kind == COVARIATES)  # at other events there is nothing
    first = told[np.searchsorted(told, data.event_start[:-1])]
    relations = []
    for parameter, covariate, kind in candidates:
        own, everywhere = data.covariates[first, places[covariate]], data.covariates[told, places[covariate]]
        values, counts = np.unique(own, return_counts=True)
        text = f"{parameter}:{covariate}:{kind}"
        if len(values) < 2:
            raise ConfigError("a covariate without differences", where=text, got=f"{values[0]:g} in every subject")
        if kind == "power" and everywhere.min() <= 0:
            raise ConfigError("a power of values that are not positive", where=text, got=f"{everywhere.min():g}")
        if kind == "categorical":
            levels = np.unique(everywhere)
            if len(levels) > MOST_LEVELS:
                expected = f"at most {MOST_LEVELS} values"
                raise ConfigError("a category with many values", where=text, expected=expected, got=len(levels))
            reference = float(values[counts.argmax()])
            others = tuple(float(level) for level in levels if level != reference)
            relations.append(Relation(parameter, covariate, kind, reference, others))
            continue
        low, high = float(everywhere.min()), float(everywhere.max())
        relations.append(Relation(parameter, covariate, kind, float(np.median(own)), (), low, high))
    return relations
