"""The population objective: minus twice the approximate marginal log-likelihood, subject by subject."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters, inverse_link
from image_longitudinal.models.nlme.kernels import individual
from image_longitudinal.models.nlme.kernels.codegen import solver_kernel
from image_longitudinal.models.nlme.kernels.curvature import curvatures
from image_longitudinal.models.nlme.kernels.individual import METHODS
from image_longitudinal.models.nlme.kernels.modes import modes
from image_longitudinal.models.nlme.kernels.records import EstimationProblem, EventArrays
from image_longitudinal.models.nlme.model.population import DISTRIBUTIONS, PopulationModel, check_likelihoods
from image_longitudinal.models.nlme.model.residual_error import KINDS
from image_longitudinal.models.nlme.simulation.simulate import predict

FloatArray = NDArray[np.float64]
T = TypeVar("T")
R = TypeVar("R")
TOLERANCE = 1e-8  # per step of the solvers: the objective is differentiated by differences of predictions
_LOADING = Lock()  # of kernels: no thread may see one that another is still loading
CONSTANT_VARIANCE = ("additive", "log-normal")  # FOCE with and without interaction are the same for these


@dataclass(frozen=True, eq=False)
class Gradient:
    """Each subject's objective (n,), and its derivatives by μ (n, p), Ω⁻¹ (n, k, k) and log residual values."""

    objective: FloatArray
    by_mu: FloatArray
    by_precision: FloatArray
    by_error: FloatArray


class Objective:
    """FO, FOCE, FOCEI or Laplace objective of one data set, without the constant N·log 2π.

    ``eta`` (n, k) holds the modes of the random effects, from which the next search starts. A search also begins with
    what the last one learned about curvature, so that its rounding depends on what was evaluated before, unless
    :meth:`restart` was called. Results do not depend on the number of threads.

    Raises:
        ConfigError: an unknown method, or log-normal residual error with an observation that is not positive.
    """

    def __init__(
        self, model: PopulationModel, data: PopulationData, method: str = "FOCEI", *, n_threads: int = 1,
        tolerance: float = TOLERANCE,
    ) -> None:  # fmt: skip
        if method not in METHODS:
            raise ConfigError("unknown estimation method", expected=", ".join(METHODS), got=repr(method))
        kinds = [residual.kind for residual in model.residuals]
        logarithmic = model.logarithmic(data.endpoint)
        if (data.observed[logarithmic] <= 0).any():
            row = int(np.flatnonzero(logarithmic & (data.observed <= 0))[0])
            where = f"subject {data.names[data.subject_of_row[row]]}, time {data.times[row]:g}"
            positive = "log-normal residual error needs positive observations"
            raise ConfigError(positive, where=where, got=data.observed[row])
        check_likelihoods(model)
        if method == "FO" and data.censored.any():
            censored = f"{data.censored.sum()} censored"
            raise ConfigError("FO cannot use censored observations", expected="FOCEI or Laplace", got=censored)
        self.model, self.data, self.method, self.n_threads, self.tolerance = model, data, method, n_threads, tolerance
        with _LOADING:
            self.solver = solver_kernel(
                model.structural, plain=data.is_plain, stepwise=data.is_stepwise, boluses=data.is_boluses
            )
        # with constant variance the two coincide, and only FOCEI has the analytic gradient
        constant_variance = set(kinds) <= set(CONSTANT_VARIANCE)
        effective = "FOCEI" if method == "FOCE" and constant_variance else method
        self.code, self.kinds = METHODS.index(effective), np.array([KINDS.index(kind) for kind in kinds])
        self.analytic = effective == "FOCEI"
        self.interaction = effective in ("FOCEI", "Laplace")
        self.random = np.array([i for i, p in enumerate(model.parameters) if p.random], dtype=np.int64)
        self.scales = np.array([DISTRIBUTIONS.index(p.distribution) for p in model.parameters], dtype=np.int64)
        constant = 2.0 * float(np.log(data.observed[logarithmic & ~data.censored]).sum())
        self.constant_per_subject = constant / max(1, len(data))
        self.arrays = data.arrays
        self.eta = np.zeros((len(data), model.n_random_effects))
        self._beyond = np.zeros((*self.eta.shape, model.n_random_effects))  # what the last search learned of curvature
        pieces = np.linspace(0, len(data), min(len(data), 8 * n_threads if n_threads > 1 else 1) + 1).astype(int)
        self.pieces = [(slice(a, b), data.subset(a, b)) for a, b in pairwise(pieces)]

    def find_modes(
        self, values: PopulationParameters, starts: ArrayLike | None = None
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Move ``eta`` to the modes: the best over the present ``eta`` and the rows of ``starts`` (S, k).

        Returns:
            ℓ at the mode (half of minus twice the joint log-density, without constants), (n,), and which searches
            converged, (n,).
        """
        n, k = self.eta.shape
        extra = np.empty((0, k)) if starts is None else np.ascontiguousarray(starts, dtype=np.float64).reshape(-1, k)
        joint, good = np.empty(n), np.empty(n, dtype=np.bool_)

        def run(piece: tuple[slice, PopulationData]) -> None:
            rows, data = piece
            modes(
                self.problem(values, data), self.eta[rows], self._beyond[rows], extra, self._mu(values, data),
                self._typical(values, data), joint[rows], good[rows],
            )  # fmt: skip

        self.in_threads(run, self.pieces)
        return joint, good

    def restart(self, eta: FloatArray) -> None:
        """Let the next search start at random effects (n, k), and as if there had been none before it."""
        self.eta[:] = eta
        self._beyond[:] = 0.0

    def at_modes(self, values: PopulationParameters, *, gradient: bool) -> Gradient:
        """Each subject's objective at the present ``eta``, and its gradient (FOCEI only; else arrays without rows).

        Raises:
            SimulationError: the objective does not exist for a subject.
        """
        n, k = self.eta.shape
        p, rows = len(values.mu), n if gradient else 0
        result = Gradient(np.empty(n), np.empty((rows, p)), np.empty((rows, k, k)), np.empty((rows, len(values.error))))

        def run(piece: tuple[slice, PopulationData]) -> None:
            where, data = piece
            failed = individual.objectives(
                self.problem(values, data), self.code, self.eta[where], self._mu(values, data), values.omega,
                self._typical(values, data), result.objective[where], result.by_mu[where], result.by_precision[where],
                result.by_error[where], self._beyond[where],
            )  # fmt: skip
            if failed >= 0:
                what, got = f"the {self.method} objective of model", f"eta {self.eta[where][failed].tolist()}"
                subject = f"subject {data.names[failed]}"
                raise SimulationError(f"{what} {self.model.name!r} does not exist", where=subject, got=got)

        self.in_threads(run, self.pieces)
        return result

    def posterior_covariance(self, values: PopulationParameters) -> FloatArray:
        """Inverse Hessian (n, k, k) of each subject's joint log-density at the present ``eta``, with interaction.

        Raises:
            ConfigError: a method without interaction.
            SimulationError: a subject cannot be evaluated at its ``eta``.
        """
        if not self.interaction:
            raise ConfigError("curvature of the posterior", expected="FOCEI or Laplace", got=self.method)
        n, k = self.eta.shape
        out = np.empty((n, k, k))

        def run(piece: tuple[slice, PopulationData]) -> None:
            where, data = piece
            failed = curvatures(self.problem(values, data), self.eta[where], self._mu(values, data), out[where])
            if failed >= 0:
                got, subject = f"eta {self.eta[where][failed].tolist()}", f"subject {data.names[failed]}"
                what = f"model {self.model.name!r} could not be evaluated at a mode"
                raise SimulationError(what, where=subject, got=got)

        self.in_threads(run, self.pieces)
        return np.asarray(np.linalg.inv(out))

    def evaluate(self, values: PopulationParameters, starts: ArrayLike | None = None) -> FloatArray:
        """Each subject's objective at its mode, found from the present ``eta`` and ``starts``, (n,).

        The sum is minus twice the log-likelihood without N·log 2π, as NONMEM prints it.
        """
        if self.method != "FO":
            self.find_modes(values, starts)
        return self.at_modes(values, gradient=False).objective + self.constant_per_subject

    def gradient(self, values: PopulationParameters) -> Gradient:
        """As :meth:`evaluate`, with derivatives."""
        self.find_modes(values)
        result = self.at_modes(values, gradient=True)
        return replace(result, objective=result.objective + self.constant_per_subject)

    def problem(self, values: PopulationParameters, data: PopulationData) -> EstimationProblem:
        """What the kernels need of some of the subjects."""
        precision = np.asarray(np.linalg.inv(values.omega), dtype=np.float64)
        return EstimationProblem(
            self.solver.model(), precision, self.random, self.scales, self.kinds, values.error, self.interaction,
            data.arrays, self.tolerance,
        )  # fmt: skip

    def _mu(self, values: PopulationParameters, data: PopulationData) -> FloatArray:
        return np.tile(values.mu, (len(data), 1))

    def typical_phi(self, values: PopulationParameters) -> FloatArray:
        """Each subject's parameters for η = 0 on the scale on which random effects add, (n, p)."""
        return self._mu(values, self.data)

    def predict(self, values: PopulationParameters, eta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predictions (N,) at random effects ``eta`` (n, k), and their derivatives with respect to η, (N, k).

        Raises:
            SimulationError: a subject's equations cannot be integrated.
        """
        phi = self._mu(values, self.data)
        phi[:, self.random] += eta
        f, g = np.empty(len(self.data.times)), np.empty((len(self.data.times), phi.shape[1]))
        self._predictions(phi, self.data, f, g)
        return f, g[:, self.random]

    def predict_at(self, phi: FloatArray) -> FloatArray:
        """Predictions (N,) at parameters on the scale on which random effects add, (n, p), without derivatives.

        Raises:
            SimulationError: a subject's equations cannot be integrated.
        """
        columns = [inverse_link(p.distribution, phi[:, i]) for i, p in enumerate(self.model.parameters)]
        parameters = np.stack(columns, axis=1)
        return predict(self.model.structural, parameters, self.data, ids=self.data.names, tolerance=self.tolerance)

    def predict_where_possible(self, phi: FloatArray, arrays: EventArrays | None = None) -> FloatArray:
        """As :meth:`predict_at`, with NaN for subjects that cannot be integrated.

        ``arrays``: of those subjects of which ``phi`` is; all of them if None.
        """
        events = self.arrays if arrays is None else arrays
        columns = [inverse_link(p.distribution, phi[:, i]) for i, p in enumerate(self.model.parameters)]
        parameters = np.ascontiguousarray(np.stack(columns, axis=1))
        bad: NDArray[np.bool_] = np.logical_not(np.isfinite(parameters).all(axis=1))
        parameters[bad] = [p.typical for p in self.model.parameters]
        rows, start = events.row_start, 0
        out, none = np.empty(rows[-1]), np.empty((rows[-1], 0))
        while start < len(parameters):
            where = slice(rows[start], rows[-1])
            failed, _ = self.solver.run(
                parameters[start:], events, start, False, self.tolerance, out[where], none[where]
            )  # fmt: skip
            if failed < 0:
                break
            bad[start + failed] = True
            start += failed + 1
        if bad.any():
            out[np.repeat(bad, np.diff(rows))] = np.nan
        return out

    def _predictions(self, phi: FloatArray, data: PopulationData, f: FloatArray, g: FloatArray) -> None:
        failed = individual.predictions(self.solver.model(), phi, self.scales, data.arrays, self.tolerance, f, g)
        if failed >= 0:
            what, where = f"model {self.model.name!r} could not be integrated", f"subject {data.names[failed]}"
            got = f"parameters on the scale of their random effects {phi[failed].tolist()}"
            raise SimulationError(what, where=where, got=got)

    def _typical(self, values: PopulationParameters, data: PopulationData) -> FloatArray:
        """Predictions at η = 0, for the residual variances; empty with interaction."""
        if self.interaction:
            return np.empty(0)
        f = np.empty(len(data.times))
        self._predictions(self._mu(values, data), data, f, np.empty((len(f), len(values.mu))))
        return f

    def in_threads(self, run: Callable[[T], R], pieces: Iterable[T]) -> list[R]:
        """The results of ``run`` for each piece, in order; the compiled kernels run without Python's lock."""
        if self.n_threads <= 1:
            return [run(piece) for piece in pieces]
        with ThreadPoolExecutor(self.n_threads) as pool:
            return list(pool.map(run, pieces))
