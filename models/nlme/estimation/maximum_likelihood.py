"""Maximum likelihood without linearisation, by importance sampling (``imp``).

In rounds: a proposal around each subject's mode, draws from it, and the maximum of the likelihood with these draws
fixed, as far as they can be trusted. Draws increase until estimates from independent draws agree. At the end the
likelihood is measured with two independent sets of draws, and subjects on which they disagree get more. Of many
subjects, most rounds take a part of them; then one takes all, and a Newton step by the gradients of the two sets
together, of more draws for subjects whose draws tell little, is the last.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import (
    CHECKED_IN_FIRST,
    SAMPLE,
    Evaluated,
    Fit,
    Sampling,
    spread,
)
from image_longitudinal.models.nlme.estimation.importance_sampling import ENOUGH
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.pareto import UNRELIABLE
from image_longitudinal.models.nlme.estimation.quadrature import FINE, MOST_EFFECTS, place
from image_longitudinal.models.nlme.estimation.sampled_likelihood import (
    TOLERANCE_OF_MANY,
    Posteriors,
    SampledLikelihood,
    affordable,
    doubled,
)
from image_longitudinal.models.nlme.estimation.sampler import Sampler, gradients_of_both

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
SOLVER_TOLERANCE = 1e-7
# moves the maximum of 10,000 subjects of the original's model by 3e-5 standard errors, and takes a tenth less time
SOLVER_TOLERANCE_OF_MANY = 1e-6
FEWEST = 50  # draws per subject
FIRST, USUAL = 6, 3  # rounds begin with a sixth of the draws, go on with a third, and double while estimates disagree
ROUNDS = 12  # at most
NEAR = 1.0  # standard errors: a round that moves less ends the first ones
AGREE = 0.1  # standard errors: Monte Carlo error of the estimates at which rounds end
AGREE_IF_LARGE = 0.25  # the same for large data: the error of the estimates grows by 3 %
AGREE_IN_FIRST = 0.5  # the same for the few subjects that the rounds of many begin with
ACCEPTED = 0.35  # with which a fit counts as converged: the error of the estimates grows by 6 %
FAR = 5.0  # standard errors: beyond it, a maximum of all of many subjects by few draws is sought again
STEP = 1.0  # the same, of the last step, which misses by the error of the outer product of gradients: some percent
LAST_STEPS = 4  # at most
RISE = 1.0  # of the objective by one set of draws after a step by two: more is no noise
SHARES = (0.25, 0.125, 0.0625, 0.03125)  # of effective draws; below each, a subject of many gets twice as many
CHEAP = 4_000_000  # predictions in memory from which on data are large
OBJECTIVE_ERROR = (0.02, 0.005)  # Monte Carlo error of the objective that is aimed at: the first, or the second x √n
MOST, PREDICTIONS = 16, 100_000_000  # draws grow up to so many times, and to so many predictions in memory
MEASURED = 20_000_000  # predictions up to which draws for the likelihood at the end grow


@dataclass(frozen=True, eq=False)
class MeasuredLikelihood:
    """Objectives (n,) without T·log 2π by two independent sets of draws together, and what is known of them."""

    objectives: FloatArray
    posteriors: Posteriors
    sampling: Sampling


def maximum_likelihood(
    fit: Fit, data: PopulationData, *, omega: str = "full", fixed: tuple[str, ...] = (), draws: int = 300,
    growth: int = MOST, seed: int = 1, covariance: str = "sandwich", n_threads: int = 1, max_iterations: int = 50,
    progress: Evaluated | None = None,
) -> Fit:  # fmt: skip
    """Maximise the likelihood itself, starting at a fit by linearisation.

    ``eta`` of the result are the means of the individual posteriors, not their modes: they have the smallest mean
    squared error. ``searches_converged``: whether a subject has at least ten effective draws and a Pareto k up to 0.7.
    ``objective`` is minus twice the log-likelihood without N·log 2π, comparable with that of FOCE or Laplace.

    Args:
        fit: start values; of these or of other subjects.
        data: the subjects.
        omega, fixed: as in the fit.
        draws: per subject, to begin with; memory is 8 bytes x draws x observations, a few times.
        growth: how many times as many a subject gets at most.
        seed: of the draws.
        covariance: the same; ``sandwich`` is ``gradient`` for 20 or more subjects per estimate. Hessians are by
            quadrature where there are up to four random effects, where they have less noise than by draws.
        n_threads: the result does not depend on it.
        max_iterations: of each maximisation.
        progress: called with (evaluation, objective).

    Raises:
        ConfigError: fewer than 50 draws, or options that do not fit the model.
        SimulationError: no draw of a subject can be evaluated.
    """
    if draws < FEWEST:
        raise ConfigError("too few draws for importance sampling", expected=f"at least {FEWEST} draws", got=draws)
    coordinates = Coordinates(fit.model, omega, fixed)
    many = len(data) >= CHECKED_IN_FIRST * SAMPLE and len(coordinates.names) > 0
    tolerance = SOLVER_TOLERANCE_OF_MANY if many else SOLVER_TOLERANCE

    def sampler_of(some: PopulationData) -> Sampler:
        objective = Objective(fit.model, some, n_threads=n_threads, tolerance=tolerance)
        return Sampler(SampledLikelihood(objective, coordinates, progress), seed)

    sampler, psi, count = sampler_of(data), coordinates.pack(coordinates.start), max(FEWEST, draws // FIRST)
    usual, most, evaluations = max(FEWEST, draws // USUAL), most_draws(draws, data, growth), fit.evaluations
    if many:  # most rounds with few subjects, the last with all
        few = sampler_of(spread(data, SAMPLE))
        psi = _rounds(few, psi, count, usual, most, max_iterations, AGREE_IN_FIRST)[0]
        evaluations += few.search.evaluations
        return last_steps(sampler, psi, "IMP", draws, growth, covariance, evaluations, max_iterations)
    psi, count, error = _rounds(sampler, psi, count, usual, most, max_iterations)
    measured = measure(sampler, psi, np.full(len(data), max(count, draws)), growth)
    converged = not len(psi) or error <= ACCEPTED
    return sampled_fit(sampler.search, psi, "IMP", covariance, measured, evaluations, converged, error)


def _rounds(
    sampler: Sampler, psi: FloatArray, count: int, usual: int, most: int, limit: int, agree: float | None = None
) -> tuple[FloatArray, int, float]:
    """Maxima with new draws, more and more, until two agree.

    Args:
        sampler: of the subjects.
        psi: start.
        count: draws per subject in the first round.
        usual, most: draws per subject from which on rounds are compared, and at most.
        limit: iterations of each maximisation.
        agree: Monte Carlo error of the estimates, in standard errors, at which rounds end; the usual one if None.

    Returns:
        The last maximum, its number of draws, and its error in standard errors.
    """
    data = sampler.search.objective.data
    error, n, rows = np.inf, len(data), len(data.times)
    for number in range(ROUNDS if len(psi) else 0):
        sampler.propose(psi, starts=number < 2)
        sampler.draw(psi, np.full(n, count))
        gradients = sampler.evaluate(psi)[1]
        psi, moved, good = sampler.search.maximise(psi, gradients, limit)
        error = moved / np.sqrt(2.0) if number and count >= usual and good else np.inf
        if error <= (agree or (AGREE if count * rows < CHEAP else AGREE_IF_LARGE)):
            break
        if count > usual or (number and count == usual):
            count = min(2 * count, most)
        elif moved <= NEAR or number:
            count = usual
    return psi, count, error


def last_steps(
    sampler: Sampler, psi: FloatArray, method: str, draws: int, growth: int, covariance: str, evaluations: int,
    limit: int,
) -> Fit:  # fmt: skip
    """The end of a fit of many subjects, from estimates of a part of them or near the maximum.

    Args:
        sampler: of all subjects.
        psi: where to start.
        method: name of the fit's method.
        draws: per subject; two thirds of them for each of three sets.
        growth: how many times as many a subject gets at most.
        covariance: as in :func:`maximum_likelihood`.
        evaluations: so far.
        limit: iterations of each maximisation.
    """
    search, count = sampler.search, np.full(len(sampler.search.objective.data), max(FEWEST, 2 * draws // USUAL))
    sampler.propose(psi, starts=True)
    sampler.draw(psi, count // 2)
    sampler.objectives(psi)  # the posteriors, by which proposals improve
    for _ in range(LAST_STEPS):
        sampler.propose(psi, starts=False)
        sampler.draw(psi, count)
        psi, moved, _ = search.maximise(psi, sampler.evaluate(psi)[1], limit, TOLERANCE_OF_MANY)
        if moved <= FAR:
            break
    for _ in range(LAST_STEPS):
        few = search.effective()[:, None] < search.draws[:, None] * np.array(SHARES)
        psi, measured, moved, error = _measured_step(
            sampler, psi, draws * np.minimum(2 ** few.sum(axis=1), growth), limit
        )
        if moved <= STEP:
            break
    converged, message = error <= ACCEPTED and moved <= STEP, ""
    if moved > STEP:
        message = f"no maximum: estimates still move by {moved:.2g} standard errors"
    return sampled_fit(search, psi, method, covariance, measured, evaluations, converged, error, message)


def _measured_step(
    sampler: Sampler, psi: FloatArray, draws: IntArray, limit: int
) -> tuple[FloatArray, MeasuredLikelihood, float, float]:
    """A Newton step from ψ by two sets of draws (n,) together.

    Gradients and objectives are without the bias of few draws, see :func:`.sampler.gradients_of_both`.

    Returns:
        The point, the likelihood there, the largest change of a coordinate and the largest Monte Carlo error of one, in
        standard errors.
    """
    search = sampler.search
    sampler.propose(psi, starts=False)
    sampler.draw(psi, draws)
    first, first_gradients = sampler.evaluate(psi)
    sampler.draw(psi, draws)
    second, second_gradients = sampler.evaluate(psi)
    gradients = gradients_of_both(first, second, first_gradients, second_gradients)
    inverse = np.linalg.inv(search.curvature(psi, gradients))
    deviations = np.sqrt(2.0 * np.diag(inverse))
    error = 0.5 * float(np.abs(inverse @ (first_gradients - second_gradients).sum(axis=0) / deviations).max())
    move = -inverse @ gradients.sum(axis=0)
    search.trust_from_here()
    if search.total(psi + move)[0] < second.sum() + RISE:
        psi, moved = psi + move, float(np.abs(move / deviations).max())
    else:
        psi, moved = search.maximise(psi, second_gradients, limit)[0], np.inf
    change = search.individual_objectives(psi)[0] - second
    both = -2.0 * (np.logaddexp(-0.5 * first, -0.5 * second) - np.log(2.0))
    objectives = 2.0 * both - 0.5 * (first + second) + change
    known = search.posteriors()
    noise = 0.5 * float(np.sqrt(np.sum((first - second) ** 2)))
    sampling = Sampling(2 * draws, 2 * known.effective, known.pareto_k, noise)
    return psi, MeasuredLikelihood(objectives, known, sampling), moved, error


def most_draws(draws: int, data: PopulationData, growth: int) -> int:
    """How many draws a subject may get that begins with ``draws``: as memory allows."""
    return max(draws, min(growth * draws, PREDICTIONS // max(1, len(data.times))))


def measure(sampler: Sampler, psi: FloatArray, draws: IntArray, growth: int = MOST) -> MeasuredLikelihood:
    """The likelihood at ψ by two sets of draws (n,), with up to ``growth`` times as many where they differ."""
    n, most = len(draws), growth * draws
    rows = np.diff(sampler.search.objective.data.row_start)
    allowed = max(MEASURED, int(draws @ rows))
    wanted = max(OBJECTIVE_ERROR[0], OBJECTIVE_ERROR[1] * np.sqrt(n))
    while True:
        sampler.propose(psi, starts=False)
        sampler.draw(psi, draws)
        first = sampler.objectives(psi)
        sampler.draw(psi, draws)
        second = sampler.objectives(psi)
        differences = first - second
        error = 0.5 * float(np.sqrt(np.sum(differences**2)))
        more = doubled(draws, differences, wanted, most)
        if error <= wanted or np.array_equal(more, draws) or more @ rows > allowed:
            break
        draws = more
    posteriors = sampler.search.posteriors()
    both = -2.0 * (np.logaddexp(-0.5 * first, -0.5 * second) - np.log(2.0))
    return MeasuredLikelihood(
        both, posteriors, Sampling(2 * draws, 2 * posteriors.effective, posteriors.pareto_k, error)
    )


def sampled_fit(
    search: SampledLikelihood, psi: FloatArray, method: str, covariance: str, measured: MeasuredLikelihood,
    evaluations: int, converged: bool, error: float, message: str = "",
) -> Fit:  # fmt: skip
    """The fit that ends at ψ, with its measured likelihood; ``error``: of the estimates, in standard errors."""
    known, sampling = measured.posteriors, measured.sampling
    if not message:
        size = f"{error:.2g}" if np.isfinite(error) else "more than 1"
        noise = f"Monte Carlo error of the estimates at most {size} standard errors"
        message = f"converged; {noise}" if converged else f"{noise}: take more draws"
        message = message if len(psi) else "nothing to estimate"
    message += f"; of the objective {sampling.error:.2g}"
    reliable = (known.effective >= ENOUGH) & ~(known.pareto_k > UNRELIABLE)
    kind = affordable(covariance, len(search.objective.data), len(psi))
    if kind in ("sandwich", "hessian") and known.mean.shape[1] <= MOST_EFFECTS:
        place(search, psi, FINE, starts=False)
    found = search.result(psi, method, kind, measured.objectives, known.mean, reliable, converged, message)
    return replace(found, evaluations=evaluations + found.evaluations, sampling=sampling)
