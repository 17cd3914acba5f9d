"""The marginal likelihood of a population whose subjects have different numbers of draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import SimulationError
from image_longitudinal.models.nlme.estimation.bent_nodes import BentGaussian
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import INFEASIBLE, Evaluated, PopulationSearch
from image_longitudinal.models.nlme.estimation.importance_sampling import Draws, ImportanceSearch
from image_longitudinal.models.nlme.estimation.minimise import GOOD_ENOUGH, LONGEST, minimise
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.pareto import pareto_shapes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
DrawsOf = Callable[[IntArray, int], Draws]  # so many draws for each of the subjects at some positions
TOLERANCE = 1e-6  # predicted decrease at convergence per √subject
TOLERANCE_OF_MANY = 5e-5  # the same, for searches of all of many subjects: 0.1 standard errors of 10,000
TRUSTED = 0.3  # mean decrease of the log of the effective number of draws up to which fixed draws are believed

MANY = 20  # subjects per coordinate, from which on the outer product of gradients is a fair Hessian
TOGETHER = 1000  # subjects: arrays over all draws of more would be given back to the system and fetched again each time
LITTLE = 0.8  # share of a random effect's variance that the data of the median subject leave open


@dataclass(frozen=True, eq=False)
class Posteriors:
    """Individual posteriors from draws: mean (n, k), covariance (n, k, k), effective number of draws (n,), Pareto k."""

    mean: FloatArray
    covariance: FloatArray
    effective: FloatArray
    pareto_k: FloatArray


class SampledLikelihood(PopulationSearch):
    """-2 log likelihood in the coordinates ψ of a fit, from fixed draws; groups of subjects with equally many."""

    def __init__(self, objective: Objective, coordinates: Coordinates, progress: Evaluated | None = None) -> None:
        super().__init__(objective, coordinates, progress)
        self.draws = np.zeros(len(objective.data), dtype=np.int64)
        self.groups: list[tuple[IntArray, ImportanceSearch]] = []
        self.reference: FloatArray | None = None
        self._last: tuple[bytes, FloatArray, FloatArray] | None = None  # the last evaluation

    def use(self, draws: IntArray, drawn: DrawsOf, center: FloatArray, moving: Sequence[int] = ()) -> None:
        """Set the number of draws (n,) of each subject and what draws them.

        ``center`` (n, k) and ``moving`` as in :meth:`.importance_sampling.ImportanceSearch.use`.
        """
        if not np.array_equal(draws, self.draws):
            self.draws, self.groups = draws.copy(), []
            for n in np.unique(draws):
                found = np.flatnonzero(draws == n)
                for positions in np.array_split(found, -(-len(found) // TOGETHER)):
                    own = self.objective if len(positions) == len(draws) else self._part(positions)
                    self.groups.append((positions, ImportanceSearch(own, self.coordinates, None)))
        for positions, search in self.groups:
            search.use(drawn(positions, int(draws[positions[0]])), center[positions], moving)
        self._derivatives, self.reference, self._last = None, None, None

    def _part(self, positions: IntArray) -> Objective:
        whole, first, last = self.objective, int(positions[0]), int(positions[-1])
        together = last - first + 1 == len(positions)
        data = whole.data.subset(first, last + 1) if together else whole.data.take(positions)
        return Objective(whole.model, data, whole.method, n_threads=whole.n_threads, tolerance=whole.tolerance)

    def individual_objectives(self, psi: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Each subject's objective (n,) and gradient (n, m), as :class:`.importance_sampling.ImportanceSearch`."""
        if self._last is not None and self._last[0] == psi.tobytes():
            return self._last[1:]
        self.evaluations, self._last = self.evaluations + 1, None
        n = len(self.objective.data)
        objectives, gradient = np.empty(n), np.empty((n, len(psi)))
        for positions, search in self.groups:
            objectives[positions], gradient[positions] = search.individual_objectives(psi)
        self._last = psi.tobytes(), objectives, gradient
        return objectives, gradient

    def objectives(self, psi: FloatArray) -> FloatArray:
        """Each subject's objective (n,) alone."""
        self.evaluations, self._last = self.evaluations + 1, None
        out = np.empty(len(self.objective.data))
        for positions, search in self.groups:
            out[positions] = search.objectives(psi)
        return out

    def curvature(self, psi: FloatArray, gradients: FloatArray) -> FloatArray:
        """A positive definite Hessian (m, m) of the objective at ψ, for a search.

        The outer product of the subjects' ``gradients`` (n, m); for few subjects, where that is far off, the Hessian
        itself with the absolute values of its eigenvalues.
        """
        m = len(psi)
        outer = 0.5 * gradients.T @ gradients
        scale = np.sqrt(np.diag(outer) + 1e-6)
        if len(gradients) >= MANY * m:
            return np.asarray(outer + 1e-6 * np.diag(scale**2))
        return positive(self.derivatives(psi)[1], scale)

    def maximise(
        self, psi: FloatArray, gradients: FloatArray, limit: int, tolerance: float = TOLERANCE
    ) -> tuple[FloatArray, float, bool]:  # fmt: skip
        """The maximum of the likelihood from ψ, as far as the draws can be trusted.

        Args:
            psi: where the draws were drawn.
            gradients: each subject's there, (n, m).
            limit: number of iterations.
            tolerance: decrease of the objective per √subject that a step must promise.

        Returns:
            The point, the largest change of a coordinate in standard errors, and whether it is a maximum.
        """
        curvature = self.curvature(psi, gradients)
        self.trust_from_here()
        point, good, _ = minimise(self.total, psi, curvature, limit, tolerance * np.sqrt(len(gradients)))
        inverse = np.asarray(np.linalg.inv(curvature), dtype=np.float64)
        if not good:  # the search may end at the limit of trust, or on a plateau
            good = _left(self.individual_objectives(point)[1].sum(axis=0), inverse) < GOOD_ENOUGH
        return point, float(np.abs((point - psi) / np.sqrt(2.0 * np.diag(inverse))).max()), good

    def left_to_gain(self, psi: FloatArray, gradients: FloatArray) -> float:
        """Decrease of the objective that a step from ψ promises; ``gradients`` (n, m): the subjects' at ψ."""
        inverse = np.asarray(np.linalg.inv(self.curvature(psi, gradients)), dtype=np.float64)
        return _left(gradients.sum(axis=0), inverse)

    def trust_from_here(self) -> None:
        """Later points may lose about a quarter of the effective draws of the last evaluation, in :meth:`total`.

        Far from where they were drawn, fixed draws have maxima of their own: where Ω shrinks around few of them.
        """
        self.reference = np.log(self.effective())

    def total(self, psi: FloatArray) -> tuple[float, FloatArray]:
        """The sums of :meth:`individual_objectives`; a very large value where the draws cannot be trusted."""
        try:
            value, gradient = super().total(psi)
        except (SimulationError, np.linalg.LinAlgError):
            return INFEASIBLE, np.zeros(len(psi))
        if self.reference is not None:
            lost = self.reference - np.log(self.effective())
            if np.maximum(lost, 0.0).mean() > TRUSTED or not np.isfinite(value):
                return INFEASIBLE, np.zeros(len(psi))
        return value, gradient

    def effective(self) -> FloatArray:
        """Effective numbers of draws (n,) of the last evaluation."""
        out = np.empty(len(self.objective.data))
        for positions, search in self.groups:
            out[positions] = 1.0 / np.square(search.weights).sum(axis=1)
        return out

    def posteriors(self) -> Posteriors:
        """Those of the last evaluation."""
        n, k = self.objective.eta.shape
        out = Posteriors(np.empty((n, k)), np.empty((n, k, k)), np.empty(n), np.empty(n))
        for positions, search in self.groups:
            out.mean[positions], out.covariance[positions], out.effective[positions] = search.moments()
            out.pareto_k[positions] = pareto_shapes(search.log_weight)
        return out

    def bent(self, omega: FloatArray) -> BentGaussian:
        """Distributions fitted to the posteriors of the last evaluation; ``omega`` (k, k): their units."""
        found = BentGaussian.joined([BentGaussian.fitted(one.eta, one.weights, omega) for _, one in self.groups])
        return found.take(np.argsort(np.concatenate([positions for positions, _ in self.groups])))


def positive(hessian: FloatArray, scale: FloatArray | None = None) -> FloatArray:
    """A Hessian (m, m) with the absolute values of its eigenvalues in units ``scale`` (m,); of its diagonal if None."""
    size = np.sqrt(np.abs(np.diag(hessian)) + 1e-12) if scale is None else scale
    values, vectors = np.linalg.eigh(hessian / np.outer(size, size))
    return np.asarray((vectors * np.maximum(np.abs(values), 1e-3)) @ vectors.T * np.outer(size, size))


def _left(slope: FloatArray, inverse: FloatArray) -> float:
    """Decrease of the objective that the gradient (m,) promises for a step of usual length."""
    move = inverse @ slope
    move *= min(1.0, LONGEST / max(float(np.abs(move).max()), 1e-300))
    return 0.5 * float(slope @ move)


def doubled(draws: IntArray, differences: FloatArray, wanted: float, most: IntArray) -> IntArray:
    """More draws (n,) for the subjects that decide the Monte Carlo error of the objective.

    Those with the largest part of the sum of squares of ``differences`` (n,), objectives by two independent sets of
    draws, get twice as many, until the rest of the sum is below ``wanted`` squared. None gets more than ``most`` (n,).
    """
    order = np.argsort(-np.abs(differences))
    rest = np.sum(differences**2) - np.cumsum(differences[order] ** 2)
    count = 1 + int(np.argmax(rest <= wanted**2)) if np.any(rest <= wanted**2) else len(order)
    more = draws.copy()
    more[order[:count]] = np.minimum(2 * draws, most)[order[:count]]
    return more


def affordable(covariance: str, n: int, m: int) -> str:
    """The kind of covariance for n subjects and m estimates: with many subjects, ``gradient`` for ``sandwich``.

    Both are the same if the model is right, and a Hessian costs 2m gradients; with few subjects, the outer product of
    their gradients is far off.
    """
    return "gradient" if covariance == "sandwich" and n >= MANY * m else covariance


def hardly_informed(omega: FloatArray, covariance: FloatArray) -> list[int]:
    """Random effects on which most subjects' data say little: those whose η, not φ, stay fixed.

    ``omega`` (k, k): of the population; ``covariance`` (n, k, k): of the individual posteriors.
    """
    left = np.median(np.diagonal(covariance, axis1=1, axis2=2), axis=0) / np.diag(omega)
    return [int(i) for i in np.flatnonzero(left > LITTLE)]
