"""Fitting a population model: the estimates that minimise the population objective, and their covariance."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.core.progress import Counter, Step, report
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.convergence import Nearby, look_around
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates, by_coordinates, central_differences
from image_longitudinal.models.nlme.estimation.minimise import minimise
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.plateaus import escape
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.estimation.uncertainty import corrected_score, covariance_of
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
Evaluated = Callable[[int, float], None]  # called with (evaluation, objective)
DIFFERENCE = 1e-3  # central differences in coordinates that are logarithms or of order 1
INFEASIBLE = 1e15  # objective of a trial that cannot be evaluated: finite, so that the line search can interpolate
TOLERANCE = 1e-5  # predicted decrease at convergence per √subject: the rounding of the sum grows like that
FEW = 20  # subjects per estimate, below which intervals by sandwich are corrected
WARM_UP = 30  # at most; each costs as much as one gradient
ROUNDS = 2  # of minimisation, if a search from several starts finds better modes
RESTARTS = 4  # further minimisations, from a lower point near the end of one
SAMPLE = 2000  # subjects, spread evenly over all, of the first fit if there are many more:
CHECKED_IN_FIRST = 4  # times as many; the end of the first fit is then tested in every direction, not that of the last


@dataclass(frozen=True, eq=False)
class Sampling:
    """How well a likelihood by sampling is known.

    ``draws`` (n,): of each subject; ``effective`` (n,): as many independent ones from the individual posterior would
    say as much; ``pareto_k`` (n,): shape of the weights' tail, reliable up to 0.7; ``error``: Monte Carlo standard
    error of the objective.
    """

    draws: NDArray[np.int64]
    effective: FloatArray
    pareto_k: FloatArray
    error: float


@dataclass(frozen=True, eq=False)
class Fit:
    """Estimates of one population fit.

    ``model`` holds the estimates. ``objective`` is minus twice the log-likelihood without N·log 2π; ``objectives``
    (n,) those of the subjects. ``eta`` (n, k) are the empirical Bayes estimates, ``searches_converged`` (n,) whether
    each search ended at a mode. ``names`` label ``estimates`` and ``standard_errors`` (m,) on the natural scale
    (typical values, Ω entries, residual variances) and ``covariance`` (m, m); NaN if no covariance was computed or it
    does not exist, and for quantities that the data do not hold. ``interval_covariance`` (m, m): what intervals are
    made from, a sandwich corrected for few subjects; None if that is ``covariance``. ``shrinkage`` (k,) is
    1 - sd(η̂) / ω. If ``converged`` is False, ``message`` says why. ``sampling``: of methods whose likelihood is
    sampled (imp, SAEM).
    """

    model: PopulationModel
    method: str
    objective: float
    objectives: FloatArray
    eta: FloatArray
    searches_converged: NDArray[np.bool_]
    names: tuple[str, ...]
    estimates: FloatArray
    standard_errors: FloatArray
    covariance: FloatArray
    condition_number: float
    shrinkage: FloatArray
    converged: bool
    message: str
    evaluations: int
    sampling: Sampling | None = None
    interval_covariance: FloatArray | None = None

    @property
    def table(self) -> dict[str, tuple[float, float]]:
        """Estimate and standard error by name."""
        pairs = zip(self.names, self.estimates, self.standard_errors, strict=True)
        return {name: (float(value), float(error)) for name, value, error in pairs}


class PopulationSearch(ABC):
    """An objective in the coordinates ψ of a fit with its gradient, subject by subject."""

    def __init__(self, objective: Objective, coordinates: Coordinates, progress: Evaluated | None) -> None:
        self.objective, self.coordinates, self.progress, self.evaluations = objective, coordinates, progress, 0
        self._derivatives: tuple[bytes, FloatArray, FloatArray, FloatArray] | None = None

    @abstractmethod
    def individual_objectives(self, psi: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Each subject's objective (n,) and gradient (n, m)."""

    def total(self, psi: FloatArray) -> tuple[float, FloatArray]:
        """The sums of :meth:`individual_objectives`."""
        objectives, gradient = self.individual_objectives(psi)
        value = float(objectives.sum())
        if self.progress:
            self.progress(self.evaluations, value)
        return value, gradient.sum(axis=0)

    def derivatives(self, psi: FloatArray, *, hessian: bool = True) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Each subject's gradient (n, m) at ψ, and the objective's Hessian (m, m) by differences of the gradient.

        Third, where there are few enough that it matters, each subject's part of the Hessian (n, m, m), else an array
        without rows. Those of the last ψ are kept. Without ``hessian`` it is empty. ``objective.eta`` are the modes at
        ψ before and after.
        """
        key = psi.tobytes()
        if self._derivatives is not None and self._derivatives[0] == key:
            return self._derivatives[1:]
        m = len(psi)
        few = hessian and len(self.objective.data) < FEW * m
        kept = self.objective.eta.copy()

        def gradients(point: FloatArray) -> FloatArray:
            self.objective.eta[:] = kept
            return self.individual_objectives(point)[1]

        own, second, parts = gradients(psi), np.empty((0, 0)), np.empty((0, m, m))
        if hessian:
            counter = Counter("curvature at the estimates", len(psi), "estimates") if self.progress else None
            columns = central_differences(
                lambda x: gradients(x) if few else gradients(x).sum(axis=0), psi, DIFFERENCE, counter
            )
            second = np.stack(columns, axis=-1) / (2 * DIFFERENCE)
            second = 0.5 * (second + np.swapaxes(second, -1, -2))
            if few:
                second, parts = second.sum(axis=0), second
            self._derivatives = key, own, second, parts
        self.objective.eta[:] = kept
        return own, second, parts

    def covariance(self, psi: FloatArray, kind: str) -> tuple[FloatArray, FloatArray | None, str]:
        """Covariance (m, m) of the estimates on their natural scale, and a message if it or a part does not exist.

        ``kind`` as in :func:`fit`. The Hessian is of differences of the gradient. Between the two: what intervals are
        made from, as in :class:`Fit`.
        """
        m = len(psi)
        nothing = np.full((m, m), np.nan)
        if kind == "none" or not m:
            return nothing, None, ""
        kept = self.objective.eta.copy()
        own, information, parts = self.derivatives(psi, hessian=kind != "gradient")
        score = 0.25 * own.T @ own
        information = score if kind == "gradient" else 0.5 * information
        self.objective.eta[:] = kept
        jacobian = np.stack(central_differences(self.coordinates.natural, psi, 1e-6), axis=1) / 2e-6
        matrix = covariance_of(information, score, jacobian, kind)
        if matrix is None:
            return nothing, None, "no standard errors: the objective is not convex at the estimates"
        corrected = None
        if kind == "sandwich" and len(parts):
            corrected = covariance_of(information, corrected_score(0.5 * own, 0.5 * parts), jacobian, kind)
        lost = [name for name, own in zip(self.coordinates.names, np.diag(matrix), strict=True) if np.isnan(own)]
        message = f"no standard error of {', '.join(lost)}: the data do not hold it" if lost else ""
        return matrix, corrected, message

    def result(
        self, psi: FloatArray, method: str, covariance: str, objectives: FloatArray, eta: FloatArray,
        searches_converged: NDArray[np.bool_], converged: bool, message: str,
    ) -> Fit:  # fmt: skip
        """The fit that ends at ψ; ``covariance`` as in :func:`fit`, the rest as in :class:`Fit`."""
        values = self.coordinates.unpack(psi)
        matrix, for_intervals, problem = self.covariance(psi, covariance)
        known = np.isfinite(np.diag(matrix))
        own = matrix[np.ix_(known, known)]
        correlation = own / np.sqrt(np.outer(np.diag(own), np.diag(own)))
        exists = len(own) > 0 and np.isfinite(correlation).all()
        sd = eta.std(axis=0, ddof=1) if len(eta) > 1 else np.zeros(len(values.omega))
        return Fit(
            model=values.into(self.objective.model),
            method=method,
            objective=float(objectives.sum()),
            objectives=objectives,
            eta=eta,
            searches_converged=searches_converged,
            names=self.coordinates.names,
            estimates=self.coordinates.natural(psi),
            standard_errors=np.sqrt(np.diag(matrix)),
            covariance=matrix,
            condition_number=float(np.linalg.cond(correlation)) if exists else float("nan"),
            shrinkage=1.0 - sd / np.sqrt(np.diag(values.omega)),
            converged=converged,
            message="; ".join(part for part in (message, problem) if part),
            evaluations=self.evaluations,
            interval_covariance=for_intervals,
        )


class _Search(PopulationSearch):
    """The approximate objective; its gradient is analytic for FOCEI, of differences otherwise."""

    best: float  # objective of this minimisation so far, with its modes
    eta: FloatArray

    def individual_objectives(self, psi: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Each subject's objective (n,) and gradient (n, m)."""
        if self.objective.analytic:
            values = self.coordinates.unpack(psi)
            gradient = self.objective.gradient(values)
            return gradient.objective, by_coordinates(self.coordinates, values, gradient)
        here = self.objective.evaluate(self.coordinates.unpack(psi))
        kept = self.objective.eta.copy()

        def objectives(point: FloatArray) -> FloatArray:
            self.objective.eta[:] = kept
            return self.objective.evaluate(self.coordinates.unpack(point))

        columns = central_differences(objectives, psi, DIFFERENCE)
        self.objective.eta[:] = kept
        return here, np.stack(columns, axis=1) / (2 * DIFFERENCE)

    def total(self, psi: FloatArray) -> tuple[float, FloatArray]:
        """Objective and gradient; :data:`INFEASIBLE` for a point that cannot be evaluated."""
        self.evaluations += 1
        self.objective.eta[:] = self.eta  # every trial starts from the modes at the best point so far
        try:
            value, gradient = super().total(psi)
        except (SimulationError, np.linalg.LinAlgError):
            return INFEASIBLE, np.zeros(len(psi))
        if value < self.best:
            self.best, self.eta = value, self.objective.eta.copy()
        return value, gradient

    def warm_up(self, psi: FloatArray) -> FloatArray:
        """Fixed-point steps of the approximate EM algorithm from ψ, while each decreases the objective enough.

        From a distant start they are safer than quasi-Newton steps: μ moves by the mean random effect, Ω becomes their
        mean second moment (uncertainty within subjects included), each residual value follows its own score.
        """
        c, objective = self.coordinates, self.objective
        best, kept = np.inf, psi
        worthwhile = 1.0 + 0.01 * len(objective.data)
        for _ in range(WARM_UP):
            self.evaluations += 1
            values = c.unpack(psi)
            gradient = objective.gradient(values)
            total = float(gradient.objective.sum())
            if self.progress:
                self.progress(self.evaluations, total)
            if not total < best - worthwhile:
                return psi if total < best else kept
            best, kept = total, psi
            mu, omega, error = values.mu.copy(), values.omega.copy(), values.error.copy()
            moves = np.zeros(len(mu))
            moves[objective.random] = -0.5 * omega @ gradient.by_mu[:, objective.random].mean(axis=0)
            mu[c.mu] += moves[c.mu]
            if c.cells:
                omega = c.structured(omega + gradient.by_precision.mean(axis=0))
            score = gradient.by_error.sum(axis=0) / (2.0 * len(objective.data.times))
            error[c.errors] *= np.sqrt(np.clip(1.0 - score[c.errors], 0.1, 10.0))
            if np.linalg.eigvalsh(omega)[0] <= 1e-6 * np.trace(omega):
                return psi
            psi = c.pack(PopulationParameters(mu, omega, error))
        return psi

    def look_around(self, psi: FloatArray) -> Nearby:
        """Tests of ψ as a minimum; ``objective.eta`` are the modes at ψ before and after."""
        kept = self.objective.eta.copy()

        def value(point: FloatArray) -> float:
            self.objective.eta[:] = kept
            return float(self.objective.evaluate(self.coordinates.unpack(point)).sum())

        gradients, hessian, _ = self.derivatives(psi)
        found = look_around(value, psi, gradients.sum(axis=0), hessian, shown=self.progress is not None)
        self.objective.eta[:] = kept
        return found

    def minimise(self, psi: FloatArray, limit: int) -> tuple[FloatArray, bool, str]:
        """The minimum found from ψ, with ``objective.eta`` at its modes; see :func:`.minimise.minimise`."""
        if self.objective.analytic:
            psi = self.warm_up(psi)
        self.best, self.eta = INFEASIBLE, self.objective.eta.copy()
        gradients = self.individual_objectives(psi)[1]
        curvature = 0.5 * gradients.T @ gradients  # the expected Hessian (the information identity)
        curvature += 1e-3 * np.diag(np.diag(curvature) + 1e-6)
        found = minimise(self.total, psi, curvature, limit, TOLERANCE * np.sqrt(len(self.objective.data)))
        self.objective.eta[:] = self.eta
        return found


def starting_points(omega: FloatArray, size: float = 1.5) -> FloatArray:
    """Starts for the search of modes: a grid at 0 and ±``size`` standard deviations, (3^k, k).

    From 5 random effects on, 0 and the ends of the axes alone, (1 + 2k, k).
    """
    k = len(omega)
    if k < 5:
        points = np.array(list(product((0.0, -1.0, 1.0), repeat=k)))
    else:
        points = np.concatenate([np.zeros((1, k)), np.eye(k), -np.eye(k)])
    return size * points * np.sqrt(np.diag(omega))


def fit(
    model: PopulationModel, data: PopulationData, method: str = "FOCEI", *, omega: str = "full",
    fixed: Sequence[str] = (), covariance: str = "sandwich", n_threads: int = 1, max_iterations: int = 200,
    progress: Evaluated | None = None,
) -> Fit:  # fmt: skip
    """Estimate typical values, Ω and residual error, starting at the values of ``model``.

    BFGS in unconstrained coordinates, with the outer product of the subjects' gradients as first curvature. Modes are
    searched from several starts before and after; if the second search finds better ones, the fit continues, as it does
    if a variance that went to nearly 0 lowers the objective with some size again, or if a test in every direction
    (:mod:`.convergence`) finds a lower point. A fit of 8,000 or more subjects starts at the estimates of a fit of 2,000
    of them, and only that one is tested in every direction.

    Args:
        model: the population model; its values are the start values.
        method: FO, FOCE, FOCEI or Laplace.
        omega: ``full`` or ``diagonal``.
        fixed: parameters to hold at their start; ``omega`` and ``residual`` hold those.
        covariance: ``sandwich`` (R⁻¹ S R⁻¹, NONMEM's default), ``hessian`` (R⁻¹), ``gradient`` (S⁻¹, nearly free),
            or ``none``.
        n_threads: the result does not depend on it.
        max_iterations: of BFGS, per round.
        progress: called with (evaluation, objective).

    Raises:
        ConfigError: options, start values or data that do not fit the model.
        SimulationError: the objective does not exist at the start values.
    """
    if covariance not in ("sandwich", "hessian", "gradient", "none"):
        expected = "sandwich, hessian, gradient or none"
        raise ConfigError("unknown kind of covariance", expected=expected, got=repr(covariance))
    if method != "Laplace" and model.structural.likelihood is not None:
        what = f"{method} linearises the model, which the likelihood of an endpoint does not allow"
        raise ConfigError(what, where=f"model {model.name!r}", do="fit by laplace, agq, imp or saem")
    objective = Objective(model, data, method, n_threads=n_threads)
    coordinates = Coordinates(model, omega, fixed)
    search = _Search(objective, coordinates, progress)
    psi = coordinates.pack(coordinates.start)
    if len(data) >= CHECKED_IN_FIRST * SAMPLE and len(psi):  # most iterations with few subjects, the last with all
        some = spread(data, SAMPLE)
        options: dict[str, Any] = {"omega": omega, "fixed": fixed, "covariance": "none", "n_threads": n_threads}
        first = fit(model, some, method, max_iterations=max_iterations, progress=progress, **options)
        psi = coordinates.pack(PopulationParameters.of(first.model))
        search.evaluations = first.evaluations
    converged, message = True, "nothing to estimate"
    shown = progress is not None
    _restart_modes(objective, coordinates.unpack(psi), shown)
    for _ in range(ROUNDS if len(psi) else 0):
        psi, converged, message = search.minimise(psi, max_iterations)
        if method == "FO" or not _restart_modes(objective, coordinates.unpack(psi), shown):
            break
    nearby = None
    for restart in range(RESTARTS + 1 if len(psi) else 0):
        point = escape(objective, coordinates, psi)
        if point is None and len(data) < CHECKED_IN_FIRST * SAMPLE:
            nearby = search.look_around(psi)
            point = nearby.lower
        if point is None or restart == RESTARTS:
            break
        psi, converged, message = search.minimise(point, max_iterations)
        _restart_modes(objective, coordinates.unpack(psi), shown)
    if converged and nearby is not None and not nearby.is_minimum:
        converged = False
        message = f"the objective still falls along {coordinates.names[nearby.steepest]}"
    values = coordinates.unpack(psi)
    searches = objective.find_modes(values)[1]
    objectives = objective.at_modes(values, gradient=False).objective + objective.constant_per_subject
    return search.result(psi, method, covariance, objectives, objective.eta, searches, converged, message)


def first_method(model: PopulationModel) -> str:
    """The method of a fit from which others start: FOCEI, or Laplace for a model with a likelihood."""
    return "FOCEI" if model.structural.likelihood is None else "Laplace"


def spread(data: PopulationData, n: int) -> PopulationData:
    """``n`` subjects, spread evenly over all."""
    return data.take(np.linspace(0, len(data) - 1, n).astype(np.int64))


def _restart_modes(objective: Objective, values: PopulationParameters, shown: bool) -> bool:
    """Search modes from several starts; whether any subject's mode improved by more than rounding."""
    if objective.method == "FO":
        return False
    starts = starting_points(values.omega)
    if shown:
        report(Step(f"searching each subject's random effects from {len(starts)} starts"))
    before = objective.find_modes(values)[0]
    after = objective.find_modes(values, starts)[0]
    return bool((before - after > 1e-4).any())
