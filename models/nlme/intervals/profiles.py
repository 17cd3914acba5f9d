"""Profile likelihood intervals: a value is held at others than its estimate, and all the rest is estimated again.

The interval has the values at which the objective rises by less than the quantile of χ² with one degree of freedom,
3.84 for 95 % (Pawitan 2001, *In All Likelihood*, section 3.4). It needs no symmetry on any scale.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.parameter_table import SCALES, Z95
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters, inverse_link, link
from image_longitudinal.models.nlme.intervals.refits import Refit, tried
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
RISE = Z95**2  # of the objective at the ends of a 95 % interval
NEAR = 0.02  # distance of the rise from RISE at which a bound is found: 0.5 % of the distance to the estimate
LOWER = 0.1  # fall of the objective below the fit's that shows that the fit was not at its minimum
TRIALS = 14  # refits on each side
FARTHEST = 8.0  # distance on the profile's scale (a logarithm, mostly) beyond which no bound is looked for
FIRST = 0.3  # first step without a standard error


@dataclass(frozen=True)
class ProfilePoint:
    """Objective with the value held; ``converged``: whether the estimation of the others did."""

    value: float
    objective: float
    converged: bool


@dataclass(frozen=True)
class ProfileInterval:
    """Interval of one estimate; a bound that was not found is None, and ``problem`` says why.

    ``points``: all evaluations, by value.
    """

    name: str
    estimate: float
    lower: float | None
    upper: float | None
    points: tuple[ProfilePoint, ...]
    problem: str


@dataclass(frozen=True)
class Profiled:
    """A value that can be held: its name among the estimates and among ``fixed``, and the scale of its profile."""

    name: str
    held: str
    scale: str
    at: Callable[[PopulationModel, float], PopulationModel]


def profiled(found: Fit, name: str) -> Profiled:
    """The estimate of a name: of a parameter, of a variance (``eta_cl``), or of a residual value (``sigma2_additive``).

    Raises:
        ConfigError: no such estimate, a covariance, or a variance with covariances.
    """
    model, effects = found.model, found.model.random_effect_names
    wanted = f"omega({name},{name})" if name in effects else name
    if wanted not in found.names:
        raise ConfigError("no estimate of that name", expected=", ".join(found.names), got=repr(name))
    if wanted in model.parameter_names:
        index = model.parameter_names.index(wanted)

        def typical(own: PopulationModel, value: float) -> PopulationModel:
            parameters = list(own.parameters)
            parameters[index] = replace(parameters[index], typical=value)
            return replace(own, parameters=tuple(parameters))

        return Profiled(wanted, wanted, SCALES[model.parameters[index].distribution], typical)
    if wanted.startswith("omega("):
        first, second = wanted[len("omega(") : -1].split(",")
        row = effects.index(first)
        shared = any(row in group for group in model.shared_omega)
        if first != second or shared or np.count_nonzero(np.asarray(model.omega)[row]) > 1:
            raise ConfigError(
                "a value of omega with covariances cannot be held alone", got=wanted,
                do="profile it in a fit with a diagonal omega, or use a bootstrap or SIR",
            )  # fmt: skip

        def variance(own: PopulationModel, value: float) -> PopulationModel:
            omega = np.array(own.omega)
            omega[row, row] = value
            return replace(own, omega=tuple(tuple(line) for line in omega.tolist()))

        return Profiled(wanted, first, "log", variance)
    endpoints = model.structural.endpoints
    part, _, endpoint = wanted.removesuffix(")").partition("(")
    kind = ("sigma2_additive", "sigma2_proportional", "power").index(part)
    place = 3 * (endpoints.index(endpoint) if endpoint else 0) + kind

    def residual(own: PopulationModel, value: float) -> PopulationModel:
        values = PopulationParameters.of(own)
        error = values.error.copy()
        error[place] = value if part == "power" else np.sqrt(value)
        return replace(values, error=error).into(own)

    return Profiled(wanted, wanted, "log", residual)


def profile(found: Fit, data: PopulationData, refit: Refit, name: str) -> ProfileInterval:
    """The 95 % profile likelihood interval of one estimate.

    Args:
        found: the fit.
        data: the subjects that were fitted.
        refit: fits as ``found`` was fitted.
        name: as in :func:`profiled`.

    Raises:
        ConfigError: see :func:`profiled`.
    """
    own = profiled(found, name)
    estimate, error = found.table[own.name]
    points: list[ProfilePoint] = [ProfilePoint(estimate, found.objective, found.converged)]
    notes, bounds = list[str](), list[float | None]()
    for side in (-1.0, 1.0):
        bound, note, made = _Side(found, data, refit, own, estimate, error, side).bound()
        bounds.append(bound)
        points += made
        notes += [note] if note else []
    lowest = min(points, key=lambda point: point.objective)
    if lowest.objective < found.objective - LOWER:
        fall = found.objective - lowest.objective
        notes.insert(0, f"at {lowest.value:.5g} the objective is {fall:.3f} below the fit's, which is no minimum")
    points.sort(key=lambda point: point.value)
    return ProfileInterval(own.name, estimate, bounds[0], bounds[1], tuple(points), "; ".join(notes))


class _Side:
    """The search for one bound, on the profile's scale: there √rise is nearly linear in the distance."""

    def __init__(
        self, found: Fit, data: PopulationData, refit: Refit, own: Profiled, estimate: float, error: float, side: float
    ) -> None:
        self.found, self.data, self.refit, self.own, self.side = found, data, refit, own, side
        self.kind = {scale: distribution for distribution, scale in SCALES.items()}[own.scale]
        self.origin = float(link(self.kind, estimate))
        slope = {"log": estimate, "logit": estimate * (1.0 - estimate)}.get(own.scale, 1.0)
        known = np.isfinite(error) and error > 0
        self.first = float(np.clip(Z95 * error / abs(slope), 1e-3, 2.0)) if known else FIRST
        if not known and own.scale == "natural":
            self.first = FIRST * max(abs(estimate), 1.0)
        # as far as a natural scale has no unit, in steps of the first
        self.farthest = FARTHEST if own.scale != "natural" else 8.0 * self.first
        self.starts: list[tuple[float, PopulationModel]] = [(0.0, found.model)]
        self.points: list[ProfilePoint] = []

    def bound(self) -> tuple[float | None, str, list[ProfilePoint]]:
        """The bound or None, why there is none (or what is doubtful), and the points evaluated."""
        name = "lower" if self.side < 0 else "upper"
        inside, outside = (0.0, 0.0), None  # distance and √rise on both sides of the bound
        distance, failed = self.first, ""
        for _ in range(TRIALS):
            point = self._at(distance)
            if isinstance(point, str):
                failed, outside_limit = point, distance
                distance = 0.5 * (inside[0] + outside_limit)
                if outside_limit - inside[0] < 1e-3 * max(outside_limit, 1e-3):
                    break
                continue
            rise = point.objective - self.found.objective
            if abs(rise - RISE) < NEAR:
                doubt = "" if point.converged else f"{name} bound: the estimation of the others did not converge there"
                return point.value, doubt, self.points
            here = (distance, float(np.sqrt(max(rise, 0.0))))
            if rise > RISE:
                outside = here
            else:
                inside = here
            if outside is None and distance >= self.farthest:
                what = f"no {name} bound: the objective rises by only {rise:.3g} up to {point.value:.4g}"
                return None, what, self.points
            distance = self._next(inside, outside)
        why = failed or "the objective is not smooth enough"
        return None, f"no {name} bound: {why}", self.points

    def _next(self, inside: tuple[float, float], outside: tuple[float, float] | None) -> float:
        """The distance to try: along the line of √rise, kept inside the bracket, or further out."""
        goal = float(np.sqrt(RISE))
        if outside is None:
            reach = inside[0] * (goal / inside[1] if inside[1] > 1e-3 else 3.0)
            return float(np.clip(reach, 1.1 * inside[0], min(3.0 * inside[0], max(self.farthest, 1.1 * inside[0]))))
        share = (goal - inside[1]) / (outside[1] - inside[1])
        return inside[0] + float(np.clip(share, 0.1, 0.9)) * (outside[0] - inside[0])

    def _at(self, distance: float) -> ProfilePoint | str:
        """The refit at a distance, started at the nearest one before."""
        value = float(inverse_link(self.kind, self.origin + self.side * distance))
        model = min(self.starts, key=lambda start: abs(start[0] - distance))[1]
        try:
            start = self.own.at(model, value)
        except ConfigError as error:  # beyond a bound of the model
            return str(error)
        again = tried(self.refit, start, self.data, (self.own.held,))
        if isinstance(again, str):
            return again
        point = ProfilePoint(value, again.objective, again.converged)
        self.points.append(point)
        self.starts.append((distance, again.model))
        return point
