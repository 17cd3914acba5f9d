"""Full Bayes: draws from the posterior of a population model by NUTS, and whether a sampler's draws are right."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
from numpy.typing import NDArray
from pymc.step_methods.hmc.quadpotential import QuadPotentialDiagAdapt
from scipy.stats import chi2

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.bayes.pymc_model import omega_blocks, omega_start, population_model
from image_longitudinal.models.nlme.bayes.whitening import Information
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.scatter import scattered
from image_longitudinal.models.nlme.estimation.fit import Fit, fit
from image_longitudinal.models.nlme.estimation.objective import Objective, Values
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Progress = Callable[[int, int], None]
SOLVER = 1e-7  # tolerance per step: it moves the log density by far less than the 1 that NUTS accepts or rejects by
COMPILED = {"mode": "NUMBA"}  # seconds, where PyTensor's C takes minutes the first time; equally fast afterwards
ONCE = {"mode": "FAST_COMPILE"}  # for what is evaluated once a draw
WEIGHT = 1.0  # of the first mass matrix, in draws
ACCEPTED = 0.9  # share of proposals that the step size aims at
SUMMARY = ("typical", "omega_matrix", "error_scale")
STUCK_RHAT = 1.2  # of a subject: with hundreds of them some exceed what is asked of a population value by chance
# Vehtari et al. 2021, Bayesian Analysis 16:667. They ask for 1.01; of ten quantities drawn independently, 300 times in
# each of two chains, the largest R-hat is above that one time in eight, and above 1.02 less than one in a hundred.
SURE_RHAT, SURE_ESS = 1.02, 400.0


def sample_posterior(
    model: PopulationModel,
    data: PopulationData,
    *,
    draws: int = 500,
    tune: int = 500,
    chains: int = 2,
    omega: str = "full",
    fixed: Sequence[str] = (),
    seed: int = 1,
    compile_kwargs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> az.InferenceData:
    """Draw typical values, Ω, residual error and random effects given the data, by NUTS in PyMC.

    The priors are those of :func:`models.nlme.bayes.pymc_model.population_model` around the model's own values. A fit by FOCEI
    comes first: its modes and the information around them give the coordinates (:mod:`models.nlme.bayes.whitening`) and,
    scattered by about a standard error, the start of every chain. It decides how well chains mix, not where they go.

    Args:
        model: the population model.
        data: observations and designs.
        draws: per chain, kept; ``tune`` come before and are dropped.
        chains: run one after the other.
        omega: ``full`` or ``diagonal``.
        fixed: what keeps its value: parameters, ``omega``, ``residual``.
        seed: the same seed and versions give the same draws.
        compile_kwargs: for PyMC, e.g. ``{"mode": "FAST_COMPILE"}`` where compiling would take longer than sampling.
        progress: called with (draws done, draws in all).

    Returns:
        Groups ``posterior`` (beside PyMC's variables ``typical`` and ``omega_matrix`` on their natural scales, and
        ``error_scale``, the factor on the model's residual error), ``sample_stats``, ``prior``, ``prior_predictive``,
        ``posterior_predictive``, ``observed_data``.

    A proposal whose equations cannot be integrated is rejected and counts as a divergence (:func:`doubts`).
    """
    total, done = (draws + tune) * chains, 0

    def told(*_: Any, **__: Any) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    compiled = dict(compile_kwargs or COMPILED)
    first = fit(model, data, "FOCEI", omega=omega, fixed=fixed, covariance="none")
    information = Information.of_fit(first, data)
    starts = [start_of_chain(model, first, information, omega, fixed, seed, chain) for chain in range(chains)]
    population = population_model(
        model, data, estimate=True, omega=omega, fixed=fixed, information=information, tolerance=SOLVER
    )
    with population, _quiet():
        step = pm.NUTS(
            potential=mass_of(population, model, first, len(data.times), seed), target_accept=ACCEPTED,
            compile_kwargs=compiled,
        )  # fmt: skip
        found = pm.sample(
            draws, tune=tune, chains=chains, cores=1, step=step, initvals=starts, random_seed=seed, progressbar=False,
            callback=told, compute_convergence_checks=False,
        )  # fmt: skip
        found.extend(pm.sample_prior_predictive(draws, random_seed=seed, compile_kwargs=ONCE))
        found.extend(pm.sample_posterior_predictive(found, random_seed=seed, progressbar=False, compile_kwargs=ONCE))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTensor warns of that is as it should be: our solver called from numba, matrices without BLAS."""
    with warnings.catch_warnings():
        for message in ("Numba will use object mode", "PyTensor could not link to a BLAS"):
            warnings.filterwarnings("ignore", message=message)
        yield


def start_of_chain(
    model: PopulationModel,
    first: Fit,
    information: Information,
    omega: str,
    fixed: Sequence[str],
    seed: int,
    chain: int,
) -> dict[str, Any]:
    """Values of the free variables near a fit, about a standard error of a population value away from it.

    A tenth of the model's own variances is mixed into Ω: on small trials the fit may lie on the edge, where it is
    singular.
    """
    own, fitted, n = Values.of(model), Values.of(first.model), len(first.eta)
    matrix = _inner_omega(model, first)
    z = normals(stream_key(seed, "start of chain", chain), np.arange(n + 1), max(8, 4 * len(own.mu)))
    matrix = fitted.omega if "omega" in fixed else matrix * np.exp(z[0, 0] / np.sqrt(2 * n))
    random = [i for i, p in enumerate(model.parameters) if p.random]
    step = _step_of_typical(model, matrix, n)
    free = [i for i, p in enumerate(model.parameters) if not p.fixed and p.name not in fixed]
    mu = fitted.mu.copy()
    mu[free] += step[free] * z[0, 1 : 1 + len(mu)][free]
    start: dict[str, Any] = {f"shift_{model.parameters[i].name}": mu[i] - own.mu[i] for i in free}
    if "omega" not in fixed:
        start |= omega_start(model, omega, matrix)
    if "residual" not in fixed:
        used = own.error > 0
        start["error_scale"] = float(np.exp(np.log(fitted.error[used] / own.error[used]).mean()))
    return start | {"phi": information.phi(mu[random], matrix, z[1:, : len(random)])}


def mass_of(population: pm.Model, model: PopulationModel, first: Fit, rows: int, seed: int) -> QuadPotentialDiagAdapt:
    """A diagonal mass matrix to begin with: about what standard errors of population values are, 1 in whitened ones.

    PyMC's own is 1 throughout, and the first hundred trajectories, a thousand steps long, are spent on finding out.
    """
    n, omega = len(first.eta), _inner_omega(model, first)
    step = dict(zip(model.parameter_names, _step_of_typical(model, omega, n), strict=True))
    factors = {name: np.linalg.cholesky(omega[np.ix_(of[0], of[0])]) for name, of in omega_blocks(model).items()}
    scales = []
    for variable in population.value_vars:
        name = population.values_to_rvs[variable].name
        size = int(np.prod(population.initial_point()[variable.name].shape))
        if name in factors:
            rows_of, columns_of = np.tril_indices(len(factors[name]))
            spread = np.linalg.norm(factors[name], axis=1)[rows_of] / np.sqrt(n)
            packed = np.where(rows_of == columns_of, 1.0 / np.sqrt(2.0 * n), spread)  # logarithms on the diagonal
            scales.append(packed if size == len(packed) else np.full(size, 1.0 / np.sqrt(2.0 * n)))
        elif name == "error_scale":
            scales.append(np.full(size, 1.0 / np.sqrt(2.0 * rows)))
        else:
            scales.append(np.full(size, step.get(name.removeprefix("shift_"), 1.0)))
    variance = np.concatenate(scales) ** 2
    rng = np.random.default_rng(stream_key(seed, "mass matrix"))
    return QuadPotentialDiagAdapt(len(variance), np.zeros(len(variance)), variance, WEIGHT, rng=rng)


def _inner_omega(model: PopulationModel, first: Fit) -> FloatArray:
    """Ω of a fit, off the edge where it is singular: there a small trial's may lie."""
    own = np.asarray(model.omega)
    return np.asarray(0.9 * np.asarray(first.model.omega) + 0.1 * np.diag(np.diag(own)))


def _step_of_typical(model: PopulationModel, omega: FloatArray, n: int) -> FloatArray:
    """About a standard error of each typical value, on the scale where random effects add."""
    step = np.full(len(model.parameters), 0.1)
    step[[i for i, p in enumerate(model.parameters) if p.random]] = np.sqrt(np.diag(omega) / n)
    return step


def doubts(found: az.InferenceData) -> list[str]:
    """Why these draws should not be trusted yet, one sentence each; empty where nothing speaks against them."""
    said = []
    divergent = int(found["sample_stats"]["diverging"].sum())
    if divergent:
        said.append(f"{divergent} divergent transitions: parts of the posterior may be missing.")
    names = [name for name in SUMMARY if name in found["posterior"]]
    rhat = np.nanmax([float(az.rhat(found, var_names=[name])[name].max()) for name in names])
    ess = np.nanmin([float(_effective(found, name).min()) for name in names])
    if found["posterior"].sizes["chain"] < 2:
        said.append("With one chain nothing can be said about convergence.")
    elif not rhat <= SURE_RHAT:
        said.append(f"The chains disagree: largest R-hat {rhat:.3f}, {SURE_RHAT} is accepted.")
    if not ess >= SURE_ESS:
        said.append(f"Few effective draws: {ess:.0f}, {SURE_ESS:.0f} are wanted.")
    if "eta" in found["posterior"] and found["posterior"].sizes["chain"] > 1:
        own = az.rhat(found, var_names=["eta"])["eta"]
        stuck = own["subject"].values[(own > STUCK_RHAT).any("random_effect").values]
        if len(stuck):
            shown = ", ".join(map(str, stuck[:10])) + (", ..." if len(stuck) > 10 else "")
            said.append(
                f"The chains see other random effects in {len(stuck)} of {own.sizes['subject']} subjects ({shown}): "
                "their posteriors have several modes, and a chain seldom crosses from one to the next."
            )
    return said


def _effective(found: az.InferenceData, name: str) -> Any:
    """Effective draws; NaN for what does not vary, such as a value held fixed."""
    drawn = found["posterior"][name]
    return az.ess(found, var_names=[name])[name].where(drawn.std(("chain", "draw")) > 0)


def individual_ranks(
    model: PopulationModel,
    design: PopulationData,
    *,
    draws: int = 100,
    thin: int = 5,
    tune: int = 300,
    seed: int = 1,
    compile_kwargs: Mapping[str, Any] | None = None,
) -> IntArray:
    """Simulation-based calibration of the individual posteriors (Talts et al. 2018, arXiv 1804.06788).

    Every subject of ``design`` is one replicate: its random effects are drawn from the population, its observations
    from them, and NUTS draws its random effects given the observations; all subjects in one run, for given the
    population they are independent.

    Args:
        model: the population model.
        design: times and doses; its observations are replaced.
        draws: kept per subject, after thinning by ``thin``, so that they are nearly independent.
        thin: every so many-th draw is kept.
        tune: draws before.
        seed: of everything.
        compile_kwargs: as in :func:`sample_posterior`.

    Returns:
        int64 (n, k): how many draws lie below the true random effect; uniform on 0..draws if all is right.
    """
    truth, outcome = _simulated(model, design, seed)
    given = replace(design, observed=outcome)
    with population_model(model, given, tolerance=SOLVER), _quiet():
        found = pm.sample(
            draws * thin, tune=tune, chains=1, cores=1, random_seed=seed, progressbar=False,
            compile_kwargs=dict(compile_kwargs or COMPILED), compute_convergence_checks=False,
        )  # fmt: skip
    eta = found["posterior"]["eta"].values[0, ::thin]
    return np.asarray((eta < truth).sum(axis=0), dtype=np.int64)


def population_ranks(
    model: PopulationModel,
    design: PopulationData,
    *,
    replicates: int = 100,
    draws: int = 100,
    thin: int = 5,
    tune: int = 500,
    information: Information | None = None,
    seed: int = 1,
    compile_kwargs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, IntArray]:
    """As :func:`individual_ranks` for typical values, spread and residual error: one run of NUTS per replicate.

    Population values are drawn from the priors, then a whole population from them. The density is compiled once, and
    its observations replaced: about a second per replicate for a model in closed form with few subjects.

    Args:
        model: the population model.
        design: times and doses; its observations are replaced.
        replicates: simulated populations.
        draws: kept per replicate, after thinning by ``thin``, so that they are nearly independent.
        thin: every so many-th draw is kept.
        tune: draws before.
        information: coordinates of the sampler (:mod:`models.nlme.bayes.whitening`); ranks are uniform in any.
        seed: of everything.
        compile_kwargs: as in :func:`sample_posterior`.
        progress: called with (replicates done, replicates in all).

    Returns:
        int64 (replicates,) how many draws lie below the true value, for each typical value that has a prior (by name),
        each standard deviation of a random effect (``sd(eta_ka)``) and ``error_scale``.
    """
    compiled = dict(compile_kwargs or COMPILED)
    population = population_model(model, design, estimate=True, information=information, tolerance=SOLVER)
    free = [i for i, p in enumerate(model.parameters) if not p.fixed]
    labels = [model.parameters[i].name for i in free] + [f"sd({name})" for name in model.random_effect_names]
    with population, _quiet():
        prior = pm.sample_prior_predictive(replicates, random_seed=seed, compile_kwargs=ONCE)
        step = pm.NUTS(target_accept=ACCEPTED, compile_kwargs=compiled)
    untuned, start = step.sampling_state, population.initial_point()
    wanted = population.replace_rvs_by_values([population[name] for name in SUMMARY])
    read = pm.compile(population.value_vars, wanted, on_unused_input="ignore", **ONCE)
    entries = [variable.name for variable in population.value_vars]

    def quantities(typical: Any, omega: Any, error: Any) -> FloatArray:
        return np.concatenate([typical[free], np.sqrt(np.diag(omega)), [error]])

    ranks = np.zeros((replicates, len(labels) + 1), dtype=np.int64)
    for r in range(replicates):
        population.set_data("observed", prior["prior_predictive"]["outcome"].values[0, r])
        truth = quantities(*(prior["prior"][name].values[0, r] for name in SUMMARY))
        step.sampling_state = untuned
        step.set_rng(np.random.default_rng(stream_key(seed, "population ranks", r)))
        step.tune, point = True, start
        for number in range(tune + draws * thin):
            if number == tune:
                step.stop_tuning()
            point, _ = step.step(point)
            if number >= tune and (number - tune) % thin == 0:
                ranks[r] += quantities(*read(*(point[name] for name in entries))) < truth
        if progress:
            progress(r + 1, replicates)
    return dict(zip([*labels, "error_scale"], ranks.T, strict=True))


def uniformity(ranks: IntArray, draws: int, bins: int = 10) -> float:
    """p-value of the χ² test that ranks are uniform on 0..draws, over about equally wide bins."""
    edges = np.linspace(0, draws + 1, bins + 1)
    counts = np.histogram(ranks, edges)[0]
    whole = np.diff(np.ceil(edges))  # how many ranks fall in each bin
    expected = ranks.size * whole / whole.sum()
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), bins - 1))


def _simulated(model: PopulationModel, design: PopulationData, seed: int) -> tuple[Any, Any]:
    """Random effects (n, k) and observations (N,) of a design's subjects."""
    values, objective = Values.of(model), Objective(model, design)
    z = normals(stream_key(seed, "calibration eta"), design.ids, len(values.omega))
    eta = z @ np.linalg.cholesky(values.omega).T
    f = objective.predict(values, eta)[0]
    noise = normals(stream_key(seed, "calibration residual"), np.arange(len(f)), 1)[:, 0]
    return eta, scattered(model, design, f, noise)
