"""Full Bayes: draws from the posterior of a population model by NUTS, and whether a sampler's draws are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import chi2

from core.random import normals, stream_key
from models.nlme.bayes import population_model
from models.nlme.data import PopulationData
from models.nlme.objective import Objective, Values, inverse, transform
from models.nlme.population import PopulationModel
from models.nlme.scatter import scattered

IntArray = NDArray[np.int64]
Progress = Callable[[int, int], None]
SOLVER = 1e-8  # tolerance per step: the density's noise stays far below what NUTS accepts or rejects by
SUMMARY = ("typical", "omega_matrix", "error_scale")
SURE_RHAT, SURE_ESS = 1.01, 400.0  # Vehtari et al. 2021, Bayesian Analysis 16:667


def sample_posterior(
    model: PopulationModel,
    data: PopulationData,
    *,
    draws: int = 500,
    tune: int = 500,
    chains: int = 2,
    seed: int = 1,
    compile_kwargs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> az.InferenceData:
    """Draw typical values, Ω, residual error and random effects given the data, by NUTS in PyMC.

    The priors are those of :func:`models.nlme.bayes.population_model` around the model's own values.

    Args:
        model: the population model.
        data: observations and designs.
        draws: per chain, kept; ``tune`` come before and are dropped.
        chains: run one after the other.
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

    compiled = dict(compile_kwargs or {})
    with population_model(model, data, estimate=True, tolerance=SOLVER):
        found = pm.sample(
            draws, tune=tune, chains=chains, cores=1, random_seed=seed, progressbar=False, callback=told,
            compile_kwargs=compiled, compute_convergence_checks=False,
        )  # fmt: skip
        found.extend(pm.sample_prior_predictive(draws, random_seed=seed, compile_kwargs=compiled))
        found.extend(
            pm.sample_posterior_predictive(found, random_seed=seed, progressbar=False, compile_kwargs=compiled)
        )
    for group in ("posterior", "prior"):
        setattr(found, group, found[group].assign(_natural(model, found[group])))
    return found


def _natural(model: PopulationModel, drawn: xr.Dataset) -> dict[str, xr.DataArray]:
    """Typical values and Ω of every draw."""
    columns = [
        xr.apply_ufunc(
            lambda shift, p=p: inverse(p.distribution, transform(p.distribution, p.typical) + shift),
            drawn[f"shift_{p.name}"],
        )
        for p in model.parameters
    ]
    typical = xr.concat(columns, dim="parameter").assign_coords(parameter=list(model.parameter_names))
    sd, effects = drawn["omega_stds"], list(model.random_effect_names)
    sd = sd.rename({sd.dims[-1]: "random_effect"}).assign_coords(random_effect=effects)
    other = sd.rename({"random_effect": "random_effect_other"})
    correlation = drawn["omega_corr"]
    correlation = correlation.rename(
        {correlation.dims[-2]: "random_effect", correlation.dims[-1]: "random_effect_other"}
    ).assign_coords(random_effect=effects, random_effect_other=effects)
    return {"typical": typical.transpose("chain", "draw", "parameter"), "omega_matrix": correlation * sd * other}


def doubts(found: az.InferenceData) -> list[str]:
    """Why these draws should not be trusted yet, one sentence each; empty where nothing speaks against them."""
    said = []
    divergent = int(found["sample_stats"]["diverging"].sum())
    if divergent:
        said.append(f"{divergent} divergent transitions: parts of the posterior may be missing.")
    names = [name for name in SUMMARY if name in found["posterior"]]
    rhat = max(float(az.rhat(found, var_names=[name])[name].max()) for name in names)
    ess = min(float(az.ess(found, var_names=[name])[name].min()) for name in names)
    if found["posterior"].sizes["chain"] < 2:
        said.append("With one chain nothing can be said about convergence.")
    elif not rhat <= SURE_RHAT:
        said.append(f"The chains disagree: largest R-hat {rhat:.3f}, {SURE_RHAT} is accepted.")
    if not ess >= SURE_ESS:
        said.append(f"Few effective draws: {ess:.0f}, {SURE_ESS:.0f} are wanted.")
    return said


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
    with population_model(model, given, tolerance=SOLVER):
        found = pm.sample(
            draws * thin, tune=tune, chains=1, cores=1, random_seed=seed, progressbar=False,
            compile_kwargs=dict(compile_kwargs or {}), compute_convergence_checks=False,
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
    seed: int = 1,
    compile_kwargs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, IntArray]:
    """As :func:`individual_ranks` for typical values, spread and residual error: one run of NUTS per replicate.

    Population values are drawn from the priors, then a whole population from them. Hours for a model with differential
    equations, a second or so per replicate for one in closed form with few subjects.

    Returns:
        int64 (replicates,) for ``shift_<parameter>``, ``omega_stds_<i>`` and ``error_scale``.
    """
    compiled = dict(compile_kwargs or {})
    names = [f"shift_{p.name}" for p in model.parameters] + ["omega_stds", "error_scale"]
    with population_model(model, design, estimate=True, tolerance=SOLVER):
        prior = pm.sample_prior_predictive(replicates, random_seed=seed, compile_kwargs=compiled)
    ranks: dict[str, list[int]] = {}
    for r in range(replicates):
        outcome = prior["prior_predictive"]["outcome"].values[0, r]
        found = _draws(model, replace(design, observed=outcome), draws * thin, tune, seed + 1 + r, compiled)
        for name in names:
            truth = np.atleast_1d(prior["prior"][name].values[0, r])
            kept = found["posterior"][name].values[0, ::thin].reshape(draws, -1)
            for i, below in enumerate((kept < truth).sum(axis=0)):
                label = name if len(truth) == 1 and name != "omega_stds" else f"{name}_{i}"
                ranks.setdefault(label, []).append(int(below))
        if progress:
            progress(r + 1, replicates)
    return {name: np.array(values) for name, values in ranks.items()}


def uniformity(ranks: IntArray, draws: int, bins: int = 10) -> float:
    """p-value of the χ² test that ranks are uniform on 0..draws, over about equally wide bins."""
    edges = np.linspace(0, draws + 1, bins + 1)
    counts = np.histogram(ranks, edges)[0]
    whole = np.diff(np.ceil(edges))  # how many ranks fall in each bin
    expected = ranks.size * whole / whole.sum()
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), bins - 1))


def _draws(
    model: PopulationModel, data: PopulationData, draws: int, tune: int, seed: int, compiled: dict[str, Any]
) -> az.InferenceData:
    with population_model(model, data, estimate=True, tolerance=SOLVER):
        return pm.sample(
            draws, tune=tune, chains=1, cores=1, random_seed=seed, progressbar=False, compile_kwargs=compiled,
            compute_convergence_checks=False,
        )  # fmt: skip


def _simulated(model: PopulationModel, design: PopulationData, seed: int) -> tuple[Any, Any]:
    """Random effects (n, k) and observations (N,) of a design's subjects."""
    values, objective = Values.of(model), Objective(model, design)
    z = normals(stream_key(seed, "calibration eta"), design.ids, len(values.omega))
    eta = z @ np.linalg.cholesky(values.omega).T
    f = objective.predict(values, eta)[0]
    noise = normals(stream_key(seed, "calibration residual"), np.arange(len(f)), 1)[:, 0]
    return eta, scattered(model, design, f, noise)
