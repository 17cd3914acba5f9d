"""Maximum likelihood by adaptive Gauss-Hermite quadrature.

Each subject's integral over its k random effects is a sum over nodes, placed by the mode and the inverse Hessian of its
joint density there (Pinheiro & Bates 1995, J Comput Graph Stat 4:12), or from order 4 on by what a few draws, and then
the nodes before, tell of the posterior (:mod:`.bent_nodes`), with nearly twice as many along its widest direction.
Order 1 is the Laplace approximation. Exact for a posterior that is a Gaussian times a polynomial of degree
2 x order - 1.

The likelihood is maximised with the nodes fixed, which gives an exact gradient; then the nodes are placed again, until
the estimates stay. The end solves the score equation by the same quadrature. Of many subjects, most rounds take a part
of them and order 4; the last steps take all and the order asked for.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.bent_nodes import BentGaussian, grid
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import (
    CHECKED_IN_FIRST,
    SAMPLE,
    Evaluated,
    Fit,
    first_method,
    fit,
    spread,
    starting_points,
)
from image_longitudinal.models.nlme.estimation.importance_sampling import ENOUGH, Draws
from image_longitudinal.models.nlme.estimation.minimise import GOOD_ENOUGH
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.sampled_likelihood import (
    TOLERANCE_OF_MANY,
    SampledLikelihood,
    affordable,
    hardly_informed,
)
from image_longitudinal.models.nlme.estimation.sampler import Sampler
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MOST_EFFECTS = 4
SOLVER_TOLERANCE = 1e-8
FINE = 5  # order of the nodes for a Hessian
ROUNDS = 15  # placements of the nodes, at most
SETTLED = 2  # placements before the first maximisation
STAYS = 0.02  # standard errors: a round that moves all estimates less is the last
ACCEPTED = 0.1  # the same, with which the fit still counts as converged, and with which rounds of many subjects end
FAR = 5.0  # the same, beyond which a maximum by rough nodes of all of many subjects is sought again
STEP = 1.0  # the same, of the last step with all of many subjects: nodes hardly depend on where they were placed
LEAST = 4  # order from which on the nodes tell enough of the posterior to be placed by it
DRAWN = 200  # draws per subject before the first nodes; they find what nodes at the mode would take many rounds to find
SEED = 1  # of these draws
KNOWN = 0.25  # share of the effective nodes of an exact rule, below which a subject's nodes are placed by its mode


def gauss_hermite(order: int, k: int) -> tuple[FloatArray, FloatArray]:
    """Nodes (S, k) and log weights (S,), S = order^k, of ∫ g(z) dz over ℝᵏ for g close to exp(-z'z)."""
    x, w = np.polynomial.hermite.hermgauss(order)
    nodes = np.stack(np.meshgrid(*[x] * k, indexing="ij"), axis=-1).reshape(-1, k)
    logs = np.stack(np.meshgrid(*[np.log(w) + x**2] * k, indexing="ij"), axis=-1).reshape(-1, k).sum(axis=1)
    return nodes, logs


def placed(center: FloatArray, mode: FloatArray, covariance: FloatArray, order: int) -> Draws:
    """Nodes as draws whose mean of weights is the quadrature.

    ``center`` (n, k): φ at η = 0; ``mode`` (n, k) and ``covariance`` (n, k, k): of η.
    """
    k = mode.shape[1]
    z, log_weight = gauss_hermite(order, k)
    factor = np.linalg.cholesky(covariance)
    eta = mode[:, None] + np.sqrt(2.0) * np.einsum("nkl,sl->nsk", factor, z)
    volume = 0.5 * k * np.log(2.0) + np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    return Draws(center[:, None] + eta, -(volume[:, None] + log_weight) - np.log(len(z)))


def quadrature_fit(
    model: PopulationModel, data: PopulationData, *, order: int = 5, omega: str = "full", fixed: tuple[str, ...] = (),
    covariance: str = "sandwich", n_threads: int = 1, max_iterations: int = 50, start: Fit | None = None,
    progress: Evaluated | None = None,
) -> Fit:  # fmt: skip
    """Maximise the likelihood by adaptive Gauss-Hermite quadrature.

    ``eta`` of the result are the means of the individual posteriors (order 1: their modes).

    Args:
        model: the population model; its values are the start values.
        data: the subjects.
        order: nodes per random effect, 2 x order - 1 along the widest direction; 1 is the method Laplace of
            :func:`.fit.fit`. Of 8,000 or more subjects, that of the last steps.
        omega, fixed: as in :func:`.fit.fit`.
        covariance: the same; ``sandwich`` is ``gradient`` for 20 or more subjects per estimate.
        n_threads: the result does not depend on it.
        max_iterations: of each maximisation.
        start: a fit by linearisation from whose estimates to start, of these or of other subjects; FOCEI if None
            (Laplace of a model with a likelihood).
        progress: called with (evaluation, objective).

    Raises:
        ConfigError: more than four random effects, or options that do not fit the model.
    """
    k = model.n_random_effects
    if order < 1 or not 1 <= k <= MOST_EFFECTS:
        expected, got = f"order from 1 on, 1 to {MOST_EFFECTS} random effects", f"order {order}, {k} random effects"
        raise ConfigError("no adaptive quadrature", expected=expected, got=got, do="fit by imp or saem")
    if order == 1:
        found = fit(
            model, data, "Laplace", omega=omega, fixed=fixed, covariance=covariance, n_threads=n_threads,
            progress=progress,
        )  # fmt: skip
        return replace(found, method="AGQ")
    if start is None:
        start = fit(
            model, data, first_method(model), omega=omega, fixed=fixed, covariance="none", n_threads=n_threads,
            progress=progress,
        )  # fmt: skip
    coordinates, evaluations = Coordinates(start.model, omega, fixed), start.evaluations
    psi = coordinates.pack(coordinates.start)

    def search_of(some: PopulationData) -> SampledLikelihood:
        objective = Objective(start.model, some, n_threads=n_threads, tolerance=SOLVER_TOLERANCE)
        return SampledLikelihood(objective, coordinates, progress)

    search, many = search_of(data), len(data) >= CHECKED_IN_FIRST * SAMPLE and len(psi) > 0
    if many:  # most rounds with few subjects, the last with all
        few, rough = search_of(spread(data, SAMPLE)), min(order, LEAST)
        psi = _rounds(few, psi, rough, ACCEPTED, max_iterations).psi
        evaluations += few.evaluations
        psi, searches, moved = _last_steps(search, psi, rough, order, max_iterations)
    else:
        psi, searches, moved = _rounds(search, psi, order, STAYS, max_iterations)
    objectives, gradients = search.individual_objectives(psi)
    eta = search.posteriors().mean
    near = moved <= (STEP if many else ACCEPTED)
    converged = not len(psi) or (near and search.left_to_gain(psi, gradients) < GOOD_ENOUGH)
    message = f"converged; {search.draws.max()} nodes per subject" if len(psi) else "nothing to estimate"
    if not converged:
        message = f"no maximum: estimates still move by {moved:.2g} standard errors, or nodes placed anew promise more"
    kind = affordable(covariance, len(data), len(psi))
    if kind in ("sandwich", "hessian") and order < FINE:
        place(search, psi, FINE, starts=False)
    found = search.result(psi, "AGQ", kind, objectives, eta, searches, converged, message)
    return replace(found, evaluations=evaluations + found.evaluations)


class _End(NamedTuple):
    """Of rounds: ψ (m,), searches of modes that converged (n,), the last move in standard errors."""

    psi: FloatArray
    searches: NDArray[np.bool_]
    moved: float


def _rounds(search: SampledLikelihood, psi: FloatArray, order: int, stays: float, limit: int) -> _End:
    """Maxima with nodes placed anew, until a round moves no estimate by more than ``stays`` standard errors."""
    nodes, moved = FollowingNodes(search, psi, order), 0.0
    for number in range(ROUNDS + 1):
        searches = nodes.place(psi, order)
        if number < SETTLED:
            search.objectives(psi)
            continue
        gradients = search.individual_objectives(psi)[1]
        if not len(psi) or number == ROUNDS or (number > SETTLED and moved <= stays):
            break
        psi, moved, _ = search.maximise(psi, gradients, limit)
    return _End(psi, searches, moved)


def _last_steps(search: SampledLikelihood, psi: FloatArray, rough: int, order: int, limit: int) -> _End:
    """The maximum by nodes of a ``rough`` order, then by those of ``order``, until it moves little."""
    nodes = FollowingNodes(search, psi, rough)
    for own, stays in ((rough, FAR), (order, STEP)):
        for _ in range(ROUNDS):
            searches = nodes.place(psi, own)
            psi, moved, _ = search.maximise(psi, search.individual_objectives(psi)[1], limit, TOLERANCE_OF_MANY)
            if moved <= stays:
                break
    return _End(psi, searches, moved)


class FollowingNodes:
    """Nodes that follow the posteriors, as the last draws or nodes tell of them.

    Created with draws around the modes at ψ, which are searched from several starts, if ``order`` is high enough.
    """

    def __init__(self, search: SampledLikelihood, psi: FloatArray, order: int) -> None:
        self.search = search
        self.lost = np.zeros(len(search.objective.data), dtype=np.bool_)  # whose nodes say too little of the posterior
        self.enough = ENOUGH  # effective draws or nodes, below which that is so
        sampler = Sampler(search, SEED)
        sampler.propose(psi, starts=True)
        if order >= LEAST:
            sampler.draw(psi, np.full(len(self.lost), DRAWN))
            search.objectives(psi)

    def place(self, psi: FloatArray, order: int) -> NDArray[np.bool_]:
        """Place the nodes of an order at ψ; which searches of modes converged, (n,)."""
        search, values = self.search, self.search.coordinates.unpack(psi)
        if order < LEAST:
            return place(search, psi, order, starts=False)
        objective = search.objective
        good = objective.find_modes(values)[1]
        mode, covariance = objective.eta.copy(), objective.posterior_covariance(values)
        self.lost |= search.effective() < self.enough
        shape = search.bent(values.omega).instead(BentGaussian.straight(mode, covariance, values.omega), self.lost)
        nodes, logs = grid(order, mode.shape[1])
        self.enough = KNOWN / np.exp(2.0 * logs).sum()
        center = objective.typical_phi(values)[:, objective.random]

        def placed(positions: IntArray, _: int) -> Draws:
            return shape.take(positions).placed(center[positions], nodes, logs)

        search.use(np.full(len(mode), len(nodes)), placed, center, hardly_informed(values.omega, covariance))
        return good


def place(search: SampledLikelihood, psi: FloatArray, order: int, *, starts: bool) -> NDArray[np.bool_]:
    """Place the nodes at ψ; which searches of modes converged, (n,). ``starts``: search from several starts."""
    objective, values = search.objective, search.coordinates.unpack(psi)
    good = objective.find_modes(values, starting_points(values.omega) if starts else None)[1]
    mode, covariance = objective.eta.copy(), objective.posterior_covariance(values)
    center = objective.typical_phi(values)[:, objective.random]

    def nodes(positions: IntArray, _: int) -> Draws:
        return placed(center[positions], mode[positions], covariance[positions], order)

    count = np.full(len(mode), order ** mode.shape[1])
    search.use(count, nodes, center, hardly_informed(values.omega, covariance))
    return good
