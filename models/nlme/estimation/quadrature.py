"""Maximum likelihood by adaptive Gauss-Hermite quadrature.

Each subject's integral over its k random effects is a sum over order^k nodes, placed by the mode and the inverse
Hessian of its joint density there (Pinheiro & Bates 1995, J Comput Graph Stat 4:12). Order 1 is the Laplace
approximation. Exact for a posterior that is a Gaussian times a polynomial of degree 2 x order - 1; it does not see a
second mode.

The likelihood is maximised with the nodes fixed, which gives an exact gradient; then the nodes are placed again, until
the estimates stay. The end solves the score equation by the same quadrature.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import Evaluated, Fit, first_method, fit, starting_points
from image_longitudinal.models.nlme.estimation.importance_sampling import Draws
from image_longitudinal.models.nlme.estimation.minimise import GOOD_ENOUGH
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.sampled_likelihood import SampledLikelihood, affordable, hardly_informed
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MOST_EFFECTS = 4
SOLVER_TOLERANCE = 1e-8
FINE = 5  # order of the nodes for a Hessian
ROUNDS = 15  # placements of the nodes, at most
STAYS = 0.02  # standard errors: a round that moves all estimates less is the last
ACCEPTED = 0.1  # the same, with which the fit still counts as converged


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
        order: nodes per random effect; 1 is the method Laplace of :func:`.fit.fit`.
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
    objective = Objective(start.model, data, n_threads=n_threads, tolerance=SOLVER_TOLERANCE)
    coordinates = Coordinates(start.model, omega, fixed)
    search, psi = SampledLikelihood(objective, coordinates, progress), coordinates.pack(coordinates.start)
    moved, searches = 0.0, np.ones(len(data), dtype=np.bool_)
    for number in range(ROUNDS + 1):
        searches = place(search, psi, order, starts=number < 2)
        objectives, gradients = search.individual_objectives(psi)
        if not len(psi) or number == ROUNDS or (number and moved <= STAYS):
            break
        psi, moved, _ = search.maximise(psi, gradients, max_iterations)
    eta = search.posteriors().mean
    converged = not len(psi) or (moved <= ACCEPTED and search.left_to_gain(psi, gradients) < GOOD_ENOUGH)
    message = f"converged; {order**k} nodes per subject" if len(psi) else "nothing to estimate"
    if not converged:
        message = f"no maximum: estimates still move by {moved:.2g} standard errors, or nodes placed anew promise more"
    kind = affordable(covariance, len(data), len(psi))
    if kind in ("sandwich", "hessian") and order < FINE:
        place(search, psi, FINE, starts=False)
    found = search.result(psi, "AGQ", kind, objectives, eta, searches, converged, message)
    return replace(found, evaluations=start.evaluations + found.evaluations)


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
