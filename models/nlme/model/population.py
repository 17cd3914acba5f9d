"""Population models: a structural model with typical values, random effects, residual error and a default design."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import likelihoods_of

DISTRIBUTIONS = ("log-normal", "normal", "logit-normal")


@dataclass(frozen=True)
class Parameter:
    """One individual parameter.

    Args:
        name: as in the structural model.
        typical: value of a subject whose random effect is 0.
        distribution: how a random effect η enters: typical·exp(η) (``log-normal``), typical + η (``normal``), or
            1 / (1 + exp(-(logit(typical) + η))) (``logit-normal``, for fractions).
        random: False for a parameter that is the same in every subject.
        fixed: whether estimation leaves the typical value as it is.
        lower: below which estimation does not take the typical value; None without a bound.
        upper: likewise, above.

    Raises:
        ConfigError: an unknown distribution, a typical value outside its range or not between its bounds.
    """

    name: str
    typical: float
    distribution: str = "log-normal"
    random: bool = True
    fixed: bool = False
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        ranges = {"log-normal": (0.0, np.inf), "normal": (-np.inf, np.inf), "logit-normal": (0.0, 1.0)}
        what = f"parameter {self.name!r} has an"
        if self.distribution not in ranges:
            expected = ", ".join(DISTRIBUTIONS)
            raise ConfigError(f"{what} unknown distribution", expected=expected, got=repr(self.distribution))
        low, high = ranges[self.distribution]
        if not low < self.typical < high:
            raise ConfigError(
                f"{what} impossible typical value", expected=f"above {low}, below {high}", got=self.typical
            )
        bounds = [value for value in (self.lower, self.typical, self.upper) if value is not None]
        if bounds != sorted(set(bounds)) or min(bounds) < low or max(bounds) > high:
            expected = f"lower < typical < upper, within {low} to {high}"
            raise ConfigError(f"{what} unusable bound", expected=expected, got=bounds)

    def individual(self, eta: Any, exp: Any, typical: Any = None) -> Any:
        """Individual values from random effects: arrays with ``exp`` = numpy.exp, symbolic with pytensor's."""
        typical = self.typical if typical is None else typical
        if self.distribution == "log-normal":
            return typical * exp(eta)
        if self.distribution == "normal":
            return typical + eta
        odds = typical / (1.0 - typical) * exp(eta)
        return odds / (1.0 + odds)


@dataclass(frozen=True)
class Design:
    """Default doses and observation times of every subject."""

    times: tuple[float, ...]
    doses: tuple[Dose, ...]


@dataclass(frozen=True)
class PopulationModel:
    """Distribution of a population's subjects.

    Args:
        name: name in the library and on the command line.
        structural: the structural model.
        parameters: one for each parameter of the structural model.
        omega: covariance of the random effects, (k, k) in the order of the random parameters.
        residual: residual error (of the first endpoint); ``LIKELIHOOD`` for an endpoint that has a likelihood.
        other_residuals: those of the structural model's further endpoints, in order.
        design: default doses and observation times.
        units: of time, amounts and outcome, for tables and figures.
        source: publication of model and values.
        shared_omega: groups of random effects (positions in Ω, all groups of one size) that share one block of Ω and
            nothing else, such as the occasions of a subject; see :func:`models.nlme.model.effects.with_occasions`.

    Raises:
        ConfigError: parameters that do not match the structural model, or an Ω that is no covariance matrix.
    """

    name: str
    structural: StructuralModel
    parameters: tuple[Parameter, ...]
    omega: tuple[tuple[float, ...], ...]
    residual: ResidualError
    design: Design
    units: dict[str, str] = field(default_factory=dict, compare=False)
    source: str = ""
    other_residuals: tuple[ResidualError, ...] = ()
    shared_omega: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        names = tuple(parameter.name for parameter in self.parameters)
        if names != self.structural.parameters:
            what = f"population model {self.name!r} does not give each structural parameter once, in order"
            raise ConfigError(what, expected=list(self.structural.parameters), got=list(names))
        check_omega(self.omega, self.n_random_effects, self.name)
        if len(self.residuals) != len(self.structural.endpoints):
            what = f"population model {self.name!r} does not give each endpoint its residual error"
            expected, got = ", ".join(self.structural.endpoints), f"{len(self.residuals)} residual errors"
            raise ConfigError(what, expected=expected, got=got)
        if (self.structural.likelihood is None) == any(own.kind == "likelihood" for own in self.residuals):
            what = f"population model {self.name!r}: residual error LIKELIHOOD and the structural model's likelihood"
            raise ConfigError(what, expected="both or neither", got=[own.kind for own in self.residuals])

    @property
    def residuals(self) -> tuple[ResidualError, ...]:
        """Residual error of every endpoint."""
        return (self.residual, *self.other_residuals)

    def standard_deviation(self, prediction: Any, endpoint: NDArray[np.int64]) -> Any:
        """Residual standard deviation of each row (log-normal: on the log scale); NumPy or PyTensor, elementwise.

        ``endpoint``: 0-based endpoint of each row, broadcast from the right.
        """
        if len(self.residuals) == 1:
            return self.residual.standard_deviation(prediction)
        parts = [own.standard_deviation(prediction) * (endpoint == i) for i, own in enumerate(self.residuals)]
        return sum(parts[1:], parts[0])

    def scatter(
        self, prediction: NDArray[np.float64], endpoint: NDArray[np.int64], noise: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Observations of rows from predictions and standard normal draws, all (N,); endpoints are 0-based.

        NaN in rows of an endpoint with a likelihood (:mod:`models.nlme.simulation.outcomes`).
        """
        out = np.empty_like(prediction)
        for index, residual in enumerate(self.residuals):
            rows = endpoint == index
            out[rows] = np.nan if residual.kind == "likelihood" else residual.scatter(prediction[rows], noise[rows])
        return out

    def logarithmic(self, endpoint: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows have log-normal residual error."""
        return np.isin(endpoint, [i for i, own in enumerate(self.residuals) if own.kind == "log-normal"])

    def has_residual_error(self, endpoint: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows have (normal) residual error: all but those of endpoints with a likelihood."""
        return ~np.isin(endpoint, [i for i, own in enumerate(self.residuals) if own.kind == "likelihood"])

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the individual parameters, in the order of arrays (n, p)."""
        return self.structural.parameters

    @property
    def random_effect_names(self) -> tuple[str, ...]:
        """Names of the random effects, in the order of arrays (n, k): ``eta_`` and the parameter's name."""
        return tuple(f"eta_{parameter.name}" for parameter in self.parameters if parameter.random)

    @property
    def n_random_effects(self) -> int:
        """Number k of random effects per subject."""
        return len(self.random_effect_names)

    @property
    def typical_values(self) -> dict[str, float]:
        """Parameter values of a subject whose random effects are all 0."""
        return {parameter.name: parameter.typical for parameter in self.parameters}


def check_likelihoods(model: PopulationModel) -> None:
    """ConfigError unless the endpoints with a likelihood are those with residual error LIKELIHOOD."""
    if model.structural.likelihood is None:
        return
    names = zip(model.structural.endpoints, likelihoods_of(model.structural), model.residuals, strict=True)
    for name, own, residual in names:
        if (own is None) == (residual.kind == "likelihood"):
            what = f"endpoint {name!r} of model {model.name!r} does not have one of residual error and likelihood"
            got = f"residual error {residual.kind!r} and {'no' if own is None else 'a'} likelihood"
            raise ConfigError(what, expected="LIKELIHOOD as residual error of each endpoint of likelihood", got=got)


def check_omega(omega: ArrayLike, n: int, model: str) -> NDArray[np.float64]:
    """Ω as float64 (n, n); ConfigError unless it is symmetric and positive definite of that size."""
    matrix = np.asarray(omega, dtype=np.float64)
    expected = f"a symmetric positive definite {n} x {n} matrix"
    if matrix.shape != (n, n) or not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T, rtol=1e-12):
        raise ConfigError(f"unusable omega of model {model!r}", expected=expected, got=matrix.tolist())
    smallest = float(np.linalg.eigvalsh(matrix)[0]) if n else 1.0
    if smallest <= 1e-14 * float(np.trace(matrix) if n else 1.0):
        got = f"smallest eigenvalue {smallest:g}"
        raise ConfigError(f"singular omega of model {model!r}", expected=expected, got=got)
    return matrix
