"""Simulation-based calibration of posterior samplers (Talts et al. 2018, arXiv 1804.06788)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pymc as pm
from numpy.typing import NDArray
from scipy.stats import chi2

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.bayes.posterior import ACCEPTED, COMPILED, ONCE, SOLVER, SUMMARY, quiet
from image_longitudinal.models.nlme.bayes.pymc_model import Information, bayesian_model
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def individual_ranks(
    model: PopulationModel, design: PopulationData, *, draws: int = 100, thin: int = 5, tune: int = 300, seed: int = 1
) -> IntArray:
    """Ranks of true random effects among draws of the individual posteriors.

    Every subject of ``design`` is one replicate: its random effects come from the population, its observations (which
    replace those of ``design``) from them. All subjects share one run: given the population they are independent. Of
    the draws one in ``thin`` is kept, so that they are nearly independent.

    Returns:
        int64 (n, k): how many draws lie below the true random effect; uniform on 0..draws if all is right.
    """
    truth, outcome = simulated_outcomes(model, design, seed)
    given = replace(design, observed=outcome)
    with bayesian_model(model, given, tolerance=SOLVER), quiet():
        found = pm.sample(
            draws * thin, tune=tune, chains=1, cores=1, random_seed=seed, progressbar=False,
            compile_kwargs=COMPILED, compute_convergence_checks=False,
        )  # fmt: skip
    eta = found["posterior"]["eta"].values[0, ::thin]
    return np.asarray((eta < truth).sum(axis=0), dtype=np.int64)


def population_ranks(
    model: PopulationModel, design: PopulationData, *, replicates: int = 100, draws: int = 100, thin: int = 5,
    tune: int = 500, information: Information | None = None, seed: int = 1,
) -> dict[str, IntArray]:  # fmt: skip
    """As :func:`individual_ranks` for population values: one run of NUTS per replicate.

    Population values are drawn from the priors, then a population from them. The density is compiled once and its
    observations are replaced. Ranks are uniform for any ``information`` (coordinates of the sampler).

    Returns:
        int64 (replicates,) how many draws lie below the true value, for each typical value that has a prior (by name),
        each standard deviation of a random effect (``sd(eta_ka)``) and ``error_scale``.
    """
    population = bayesian_model(model, design, estimate=True, information=information, tolerance=SOLVER)
    free = [i for i, p in enumerate(model.parameters) if not p.fixed]
    labels = [model.parameters[i].name for i in free] + [f"sd({name})" for name in model.random_effect_names]
    with population, quiet():
        prior = pm.sample_prior_predictive(replicates, random_seed=seed, compile_kwargs=ONCE)
        step = pm.NUTS(target_accept=ACCEPTED, compile_kwargs=COMPILED)
    untuned, start = step.sampling_state, population.initial_point()
    wanted = population.replace_rvs_by_values([population[name] for name in SUMMARY])
    read = pm.compile(population.value_vars, wanted, on_unused_input="ignore", **ONCE)
    inputs = [variable.name for variable in population.value_vars]

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
                ranks[r] += quantities(*read(*(point[name] for name in inputs))) < truth
    return dict(zip([*labels, "error_scale"], ranks.T, strict=True))


def uniformity(ranks: IntArray, draws: int, bins: int = 10) -> float:
    """p-value of the χ² test that ranks are uniform on 0..draws, over about equally wide bins."""
    edges = np.linspace(0, draws + 1, bins + 1)
    counts = np.histogram(ranks, edges)[0]
    whole = np.diff(np.ceil(edges))  # how many ranks fall in each bin
    expected = ranks.size * whole / whole.sum()
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), bins - 1))


def simulated_outcomes(model: PopulationModel, design: PopulationData, seed: int) -> tuple[Any, Any]:
    """Random effects (n, k) and observations (N,) of a design's subjects."""
    values, objective = PopulationParameters.of(model), Objective(model, design)
    z = normals(stream_key(seed, "calibration eta"), design.ids, len(values.omega))
    eta = z @ np.linalg.cholesky(values.omega).T
    f = objective.predict(values, eta)[0]
    noise = normals(stream_key(seed, "calibration residual"), np.arange(len(f)), 1)[:, 0]
    return eta, model.scatter(f, design.endpoint, noise)
