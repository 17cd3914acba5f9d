"""Covariates, occasions, endpoints and censoring: simulated, and in the objective against a direct computation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.effects import with_covariate, with_occasions
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import observe_table, predict_table

# two endpoints in closed form; size depends on a weight that changes, and on the occasion
PLAIN = PopulationModel(
    name="decay-and-share",
    structural=StructuralModel(
        name="decay-and-share",
        states=(),
        parameters=("size", "rate", "share"),
        rhs=lambda t, x, p: {},
        output=lambda t, x, p: {"level": p.size * s.exp(-p.rate * t), "fraction": p.share + 0.1 * p.rate * t},
        endpoints=("level", "fraction"),
    ),
    parameters=(Parameter("size", 10.0), Parameter("rate", 0.3, random=False), Parameter("share", 0.4, "logit-normal")),
    omega=((0.09, 0.02), (0.02, 0.16)),
    residual=ResidualError("combined2", additive=0.2, proportional=0.1),
    other_residuals=(ResidualError("additive", additive=0.05),),
    design=Design((0.0,), ()),
)
MODEL = with_occasions(with_covariate(PLAIN, "size", "weight", reference=70.0, coefficient=0.75), ["size"], 2, [[0.04]])
LIMIT = 1.5
SUBJECTS = 5


@pytest.fixture(scope="module")
def seen():
    """Simulated observations: levels below 1.5 are censored; each subject has its own visits."""
    rng = np.random.default_rng(4)
    parts = []
    for subject in range(SUBJECTS):
        times = np.sort(rng.uniform(0, 9, 8 - subject % 3))
        own, endpoint = np.full(len(times), subject), rng.integers(1, 3, len(times))
        parts.append([own, times, 0 * own, endpoint, 60 + 4 * subject + 2 * times, 1 + (times > 4)])
    columns = map(np.concatenate, zip(*parts, strict=True))
    names = ("ID", "TIME", "EVID", "DVID", "WEIGHT", "OCC")
    table = event_table(dict(zip(names, columns, strict=True)), MODEL.structural)
    eta = rng.standard_normal((SUBJECTS, 4)) @ np.linalg.cholesky(np.array(MODEL.omega)).T
    return observe_table(MODEL, predict_table(MODEL, eta, table), table, key=8, limits={"level": LIMIT}), eta


@pytest.fixture(scope="module")
def modes(seen):
    """Each subject's rows, and minus the log density at its mode, found by SciPy."""
    by_bfgs = {"method": "BFGS", "options": {"gtol": 1e-8}}
    return [(rows, minimize(minus_log_density, np.zeros(4), (rows,), **by_bfgs)) for rows in by_subject(seen[0])]


def direct(eta, rows):
    """Predictions of one subject's rows in plain NumPy: η of size and share, κ of both occasions."""
    kappa = np.where(rows["OCC"] == 1, eta[2], eta[3])
    size = 10.0 * np.exp(eta[0] + kappa) * (rows["WEIGHT"] / 70.0) ** 0.75
    odds = 0.4 / 0.6 * np.exp(eta[1])
    level, fraction = size * np.exp(-0.3 * rows["TIME"]), odds / (1 + odds) + 0.03 * rows["TIME"]
    return np.where(rows["DVID"] == 1, level, fraction)


def minus_log_density(eta, rows):
    """Data and random effects, without constants in 2π and |Ω|."""
    f = direct(eta, rows)
    sd = np.where(rows["DVID"] == 1, np.sqrt(0.2**2 + (0.1 * f) ** 2), 0.05)
    z = (rows["DV"] - f) / sd
    terms = np.where(rows["CENS"] == 1, -norm.logcdf(z), 0.5 * z**2 + np.log(sd))
    return terms.sum() + 0.5 * eta @ np.linalg.solve(np.array(MODEL.omega), eta)


def second_differences(function, x, h=1e-4):
    def slope(x, u):
        return (function(x + u) - function(x - u)) / (2 * h)

    unit = h * np.eye(len(x))
    return np.array([[(slope(x + a, b) - slope(x - a, b)) / (2 * h) for b in unit] for a in unit])


def by_subject(table):
    for _, rows in table.subjects():
        yield {name.upper(): values[rows] for name, values in table.columns.items()}


def objective_of(table, method="FOCEI"):
    return Objective(MODEL, expand_events(table, MODEL.structural), method).evaluate(PopulationParameters.of(MODEL))


def test_predictions_equal_a_direct_computation(seen):
    table, eta = seen
    want = np.concatenate([direct(row, rows) for row, rows in zip(eta, by_subject(table), strict=True)])
    np.testing.assert_allclose(predict_table(MODEL, eta, table), want, rtol=1e-12)
    assert (table["CENS"] == 1).sum() >= 3
    assert {1, 2} == set(table["DVID"][table["CENS"] == 0])


def test_the_laplace_objective_equals_a_direct_computation(seen, modes):
    log_omega = np.linalg.slogdet(np.array(MODEL.omega))[1]
    for value, (rows, found) in zip(objective_of(seen[0], "Laplace"), modes, strict=True):
        hessian = second_differences(lambda eta, rows=rows: minus_log_density(eta, rows), found.x)
        # second derivatives are differences on both sides
        assert value == pytest.approx(2 * found.fun + log_omega + np.linalg.slogdet(hessian)[1], abs=1e-3)


def test_the_focei_objective_equals_a_direct_computation(seen, modes):
    # H = Ω⁻¹ + Σ weights · G Gᵀ with the weights of Wang 2007, and h (h + z) / σ² for a censored row
    log_omega = np.linalg.slogdet(np.array(MODEL.omega))[1]
    for value, (rows, found) in zip(objective_of(seen[0], "FOCEI"), modes, strict=True):
        eta, step = found.x, 1e-5 * np.eye(4)
        f = direct(eta, rows)
        g = np.stack([(direct(eta + u, rows) - direct(eta - u, rows)) / 2e-5 for u in step], axis=1)
        level = rows["DVID"] == 1
        r, r1 = np.where(level, 0.2**2 + (0.1 * f) ** 2, 0.05**2), np.where(level, 2 * 0.1**2 * f, 0.0)
        z = (rows["DV"] - f) / np.sqrt(r)
        hazard = np.exp(norm.logpdf(z) - norm.logcdf(z))
        slope = -1 / np.sqrt(r) - 0.5 * z * r1 / r
        weight = np.where(rows["CENS"] == 1, hazard * (hazard + z) * slope**2, 1 / r + 0.5 * r1**2 / r**2)
        h = np.linalg.inv(np.array(MODEL.omega)) + (g.T * weight) @ g
        want = 2 * minus_log_density(eta, rows) + log_omega + np.linalg.slogdet(h)[1]
        assert value == pytest.approx(want, abs=1e-4)


def test_the_gradient_of_the_objective_holds_for_all_of_it_and_fo_refuses_censored_observations(seen):
    table, _ = seen
    with pytest.raises(ConfigError, match="FO cannot use censored"):
        Objective(MODEL, expand_events(table, MODEL.structural), "FO")
    objective = Objective(MODEL, expand_events(table, MODEL.structural), tolerance=1e-10)
    values = PopulationParameters.of(MODEL)
    gradient = objective.gradient(values)

    def slope(**moves):
        up, down = (replace(values, **{k: f(sign) for k, f in moves.items()}) for sign in (1, -1))
        return (objective.evaluate(up).sum() - objective.evaluate(down).sum()) / 2e-4

    unit, close = 1e-4 * np.eye(6), {"rel": 1e-3, "abs": 0.03}
    for j in range(4):  # size, rate, share and the exponent of weight
        want = slope(mu=lambda sign, j=j: values.mu + sign * unit[j])
        assert gradient.by_mu.sum(axis=0)[j] == pytest.approx(want, **close)
    for j in (0, 1, 3):  # additive and proportional error of the level, additive of the fraction
        want = slope(error=lambda sign, j=j: values.error * np.exp(sign * unit[j]))
        assert gradient.by_error.sum(axis=0)[j] == pytest.approx(want, **close)


def test_the_pymc_model_has_the_same_density(seen):
    import pymc as pm

    from image_longitudinal.models.nlme.bayes.pymc_model import bayesian_model

    table, eta = seen
    population = bayesian_model(MODEL, expand_events(table, MODEL.structural))
    z = eta @ np.linalg.cholesky(np.linalg.inv(MODEL.omega))  # Whitened without information
    with population:
        log_density = population.logp(vars=population.observed_RVs)
        got = float(pm.compile(population.value_vars, log_density, mode="FAST_COMPILE")(z))
    want = -0.5 * np.log(2 * np.pi) * (table["CENS"][table["EVID"] == 0] == 0).sum()
    for row, rows in zip(eta, by_subject(table), strict=True):
        want -= minus_log_density(row, rows) - 0.5 * row @ np.linalg.solve(np.array(MODEL.omega), row)
    assert got == pytest.approx(want, rel=1e-9)


def test_occasions_share_one_variance_and_have_no_typical_value(seen):
    table, _ = seen
    coordinates = Coordinates(MODEL, "full", ())
    assert [name for name in coordinates.names if "kappa" in name] == ["omega(eta_kappa_size_1,eta_kappa_size_1)"]
    psi = coordinates.pack(coordinates.start) + 0.1 * np.arange(len(coordinates.names))
    omega = coordinates.unpack(psi).omega
    assert omega[2, 2] == omega[3, 3] > 0
    assert not omega[:2, 2:].any()
    assert omega[2, 3] == 0.0
    found = fit(MODEL, expand_events(table, MODEL.structural), covariance="none", max_iterations=3, fixed=["rate"])
    assert found.objective < objective_of(table).sum()
    assert found.model.omega[2][2] == found.model.omega[3][3]
    assert found.model.typical_values["kappa_size_1"] == 0.0


def test_a_design_takes_constant_covariates_and_refuses_missing_ones():
    model = with_covariate(PLAIN, "size", "weight", effect="exponential", reference=70.0, coefficient=0.01)
    data = PopulationData.of_design(model.structural, np.zeros((2, 1)), [0.0], [], covariates={"weight": [70, 80]})
    assert data.covariates[:, 0].tolist() == [70, 80]
    weight = {"weight": [70, np.nan]}
    with pytest.raises(ConfigError, match=r"'weight' is missing.*subject 8"):
        PopulationData.of_design(model.structural, np.zeros((2, 1)), [0.0], [], ids=[7, 8], covariates=weight)
    with pytest.raises(ConfigError, match="covariates do not fit"):
        PopulationData.of_design(model.structural, np.zeros((2, 1)), [0.0], [])


@pytest.mark.parametrize("options", [{"effect": "cubic", "reference": 1.0}, {"reference": 0.0}])
def test_impossible_covariate_effects_are_refused(options):
    with pytest.raises(ConfigError, match="covariate effect"):
        with_covariate(PLAIN, "size", "weight", coefficient=1.0, **options)
    with pytest.raises(ConfigError, match="no such parameter"):
        with_covariate(PLAIN, "girth", "weight", reference=1.0, coefficient=1.0)
