"""Full Bayes: draws from the posterior of a population model by NUTS, and warnings about their convergence."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
from numpy.typing import NDArray
from pymc.step_methods.hmc.quadpotential import QuadPotentialDiagAdapt

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.bayes.pymc_model import Information, bayesian_model, omega_blocks, omega_start
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit, fit
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
SOLVER = 1e-7  # tolerance per step: its effect on the log density is far below 1, the scale of NUTS' acceptance
COMPILED = {"mode": "NUMBA"}  # compiles in seconds, PyTensor's C in minutes; equally fast afterwards
ONCE = {"mode": "FAST_COMPILE"}  # for quantities that are evaluated once a draw
WEIGHT = 1.0  # of the first mass matrix, in draws
ACCEPTED = 0.9  # target acceptance rate
SUMMARY = ("typical", "omega_matrix", "error_scale")
STUCK_RHAT = 1.2  # of a subject: of hundreds of subjects some exceed the limit for population values by chance
# Vehtari et al. 2021, Bayesian Analysis 16:667. They ask for 1.01; of ten quantities drawn independently, 300 times in
# each of two chains, the largest R-hat is above that one time in eight, and above 1.02 less than one in a hundred.
SURE_RHAT, SURE_ESS = 1.02, 400.0


def sample_posterior(
    model: PopulationModel, data: PopulationData, *, draws: int = 500, tune: int = 500, chains: int = 2,
    omega: str = "full", fixed: Sequence[str] = (), seed: int = 1, progress: Callable[[int, int], None] | None = None,
) -> az.InferenceData:  # fmt: skip
    """Draw typical values, Ω, residual error and random effects given the data, by NUTS in PyMC.

    The priors are those of :func:`models.nlme.bayes.pymc_model.bayesian_model` around the model's own values. First
    the model is fitted by FOCEI: its modes and the information around them give the coordinates
    (:class:`models.nlme.bayes.pymc_model.Whitened`) and, plus or minus about a standard error, the start of every
    chain. They affect how well chains mix, not the posterior.

    Args:
        draws: kept, per chain.
        tune: draws before, which are dropped.
        chains: run one after the other.
        omega: ``full`` or ``diagonal``.
        fixed: parameters that keep their value, ``omega``, ``residual``.
        seed: the same seed and versions give the same draws.
        progress: called with (draws done, draws in all).

    Returns:
        Groups ``posterior`` (beside PyMC's variables ``typical`` and ``omega_matrix`` on their natural scales, and
        ``error_scale``, the factor on the model's residual error), ``sample_stats``, ``prior``, ``prior_predictive``,
        ``posterior_predictive``, ``observed_data``.

    A proposal whose equations cannot be integrated is rejected and counts as a divergence.

    Raises:
        ConfigError: an endpoint with a likelihood, blocks of Ω, a single variance held, or bounds of parameters, which
            the priors do not have.
    """
    if model.structural.likelihood is not None:
        what = "nuts needs residual error at every endpoint"
        raise ConfigError(
            what, where=f"model {model.name!r}", got="a likelihood", do="fit by laplace, agq, imp or saem"
        )
    done = count(1)

    def after_draw(*_: Any, **__: Any) -> None:
        if progress:
            progress(next(done), (draws + tune) * chains)

    names = {*model.parameter_names, "omega", "residual"}
    bounded = any(own.lower is not None or own.upper is not None for own in model.parameters)
    if omega not in ("full", "diagonal") or not set(fixed) <= names or bounded:
        expected = "omega full or diagonal, whole parameters, omega or residual held, no bounds"
        raise ConfigError("full Bayes does not know this structure", expected=expected, got=f"{omega}, {list(fixed)}")
    first = fit(model, data, "FOCEI", omega=omega, fixed=fixed, covariance="none")
    information = Information.of_fit(first, data)
    starts = [_start_of_chain(model, first, information, omega, fixed, seed, chain) for chain in range(chains)]
    options: dict[str, Any] = {"omega": omega, "fixed": fixed, "information": information, "tolerance": SOLVER}
    with bayesian_model(model, data, estimate=True, **options) as population, quiet():
        mass = _first_mass(population, model, first, len(data.times), seed)
        step = pm.NUTS(potential=mass, target_accept=ACCEPTED, compile_kwargs=COMPILED)
        found = pm.sample(
            draws, tune=tune, chains=chains, cores=1, step=step, initvals=starts, random_seed=seed, progressbar=False,
            callback=after_draw, compute_convergence_checks=False,
        )  # fmt: skip
        found.extend(pm.sample_prior_predictive(draws, random_seed=seed, compile_kwargs=ONCE))
        found.extend(pm.sample_posterior_predictive(found, random_seed=seed, progressbar=False, compile_kwargs=ONCE))
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without two harmless warnings of PyTensor: the solver runs in object mode, and there is no BLAS."""
    with warnings.catch_warnings():
        for message in ("Numba will use object mode", "PyTensor could not link to a BLAS"):
            warnings.filterwarnings("ignore", message=message)
        yield


def _start_of_chain(
    model: PopulationModel, first: Fit, information: Information, omega: str, fixed: Sequence[str], seed: int,
    chain: int,
) -> dict[str, Any]:  # fmt: skip
    """Values of the free variables near a fit, about a standard error of a population value away from it."""
    own, fitted, n = PopulationParameters.of(model), PopulationParameters.of(first.model), len(first.eta)
    z = normals(stream_key(seed, "start of chain", chain), np.arange(n + 1), max(8, 4 * len(own.mu)))
    matrix = fitted.omega if "omega" in fixed else _inner_omega(model, first) * np.exp(z[0, 0] / np.sqrt(2 * n))
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


def _first_mass(
    population: pm.Model, model: PopulationModel, first: Fit, rows: int, seed: int
) -> QuadPotentialDiagAdapt:
    """A first diagonal mass matrix: approximate variances of population values, 1 in whitened coordinates.

    PyMC's own is 1 throughout; adapting it takes the first hundred trajectories, a thousand steps long each.
    """
    n, omega = len(first.eta), _inner_omega(model, first)
    step = dict(zip(model.parameter_names, _step_of_typical(model, omega, n), strict=True))
    factors = {name: np.linalg.cholesky(omega[np.ix_(of[0], of[0])]) for name, of in omega_blocks(model).items()}
    scales = []
    log_scale = 1.0 / np.sqrt(2.0 * n)  # of the logarithm of a standard deviation
    for variable in population.value_vars:
        name = population.values_to_rvs[variable].name
        size = int(np.prod(population.initial_point()[variable.name].shape))
        if name in factors:
            rows_of, columns_of = np.tril_indices(len(factors[name]))
            sd = np.linalg.norm(factors[name], axis=1)[rows_of] / np.sqrt(n)
            packed = np.where(rows_of == columns_of, log_scale, sd)  # logarithms on the diagonal
            scales.append(packed if size == len(packed) else np.full(size, log_scale))
        else:
            scale = 1.0 / np.sqrt(2.0 * rows) if name == "error_scale" else step.get(name.removeprefix("shift_"), 1.0)
            scales.append(np.full(size, scale))
    variance = np.concatenate(scales) ** 2
    rng = np.random.default_rng(stream_key(seed, "mass matrix"))
    return QuadPotentialDiagAdapt(len(variance), np.zeros(len(variance)), variance, WEIGHT, rng=rng)


def _inner_omega(model: PopulationModel, first: Fit) -> FloatArray:
    """Ω of a fit, with a tenth of the model's own variances: a fit of a small trial may estimate it as singular."""
    return np.asarray(0.9 * np.asarray(first.model.omega) + 0.1 * np.diag(np.diag(model.omega)))


def _step_of_typical(model: PopulationModel, omega: FloatArray, n: int) -> FloatArray:
    """Approximate standard error of each typical value, on the scale on which random effects add."""
    step = np.full(len(model.parameters), 0.1)
    step[[i for i, p in enumerate(model.parameters) if p.random]] = np.sqrt(np.diag(omega) / n)
    return step


def convergence_warnings(found: az.InferenceData) -> list[str]:
    """Reasons not to rely on these draws, one sentence each."""
    warned = []
    if divergent := int(found["sample_stats"]["diverging"].sum()):
        warned.append(f"{divergent} divergent transitions: parts of the posterior may be missing.")
    names = [name for name in SUMMARY if name in found["posterior"]]
    varying = {name: found["posterior"][name].std(("chain", "draw")) > 0 for name in names}  # not a fixed value
    rhat = np.nanmax([float(az.rhat(found, var_names=[name])[name].max()) for name in names])
    ess = np.nanmin([float(az.ess(found, var_names=[name])[name].where(varying[name]).min()) for name in names])
    if found["posterior"].sizes["chain"] < 2:
        warned.append("Convergence cannot be assessed from one chain.")
    elif not rhat <= SURE_RHAT:
        warned.append(f"The chains disagree: largest R-hat {rhat:.3f}, at most {SURE_RHAT} is accepted.")
    if not ess >= SURE_ESS:
        warned.append(f"Few effective draws: {ess:.0f}, at least {SURE_ESS:.0f} are needed.")
    if "eta" in found["posterior"] and found["posterior"].sizes["chain"] > 1:
        own = az.rhat(found, var_names=["eta"])["eta"]
        stuck = own["subject"].values[(own > STUCK_RHAT).any("random_effect").values]
        if len(stuck):
            shown = ", ".join(map(str, stuck[:10])) + (", ..." if len(stuck) > 10 else "")
            subjects = f"{len(stuck)} of {own.sizes['subject']} subjects"
            several = "their posteriors have several modes, and chains seldom move between them."
            warned.append(f"The chains disagree about the random effects of {subjects} ({shown}): {several}")
    return warned
