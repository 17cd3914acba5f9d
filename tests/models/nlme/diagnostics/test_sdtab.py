"""sdtab: every column is what its name says."""

import numpy as np
import pytest

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.residuals import residuals
from image_longitudinal.models.nlme.diagnostics.sdtab import posterior_deviations, sdtab, weighted_residuals
from image_longitudinal.models.nlme.estimation.ebes import individual_modes
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

TIMES = (0.5, 1.0, 2.0)
# log y = log a - k t + error: linear in the random effects, so that all of it has a formula
LINEAR = PopulationModel(
    "log-line",
    StructuralModel("log-line", (), ("a", "k"), lambda t, x, p: {}, lambda t, x, p: p.a * s.exp(-p.k * t)),
    (Parameter("a", 10.0), Parameter("k", 0.5, "normal")),
    omega=((0.09, 0.02), (0.02, 0.04)),
    residual=ResidualError("log-normal", additive=0.2),
    design=Design(TIMES, ()),
)


@pytest.fixture(scope="module")
def fitted():
    eta = 0.2 * np.random.default_rng(3).standard_normal((30, 2))
    observed = observe(LINEAR, simulate(LINEAR, eta), key=4, ids=np.arange(30))
    data = PopulationData.of_design(LINEAR.structural, observed, TIMES, [], ids=np.arange(101, 131))
    return data, individual_modes(LINEAR, data).eta


def test_the_columns_are_the_observations_the_residuals_and_the_individuals(fitted):
    data, eta = fitted
    table = sdtab(LINEAR, data, eta)
    assert table.column_names == [
        "ID", "TIME", "DVID", "CENS", "DV", "PRED", "IPRED", "CWRES", "IWRES", "WRES", "NPDE", "a", "k", "eta_a",
        "sd_eta_a", "eta_k", "sd_eta_k",
    ]  # fmt: skip
    columns = {name: table[name].to_numpy() for name in table.column_names}
    np.testing.assert_array_equal(columns["ID"], np.repeat(np.arange(101, 131), 3))
    np.testing.assert_array_equal(columns["DV"], data.observed)
    own = residuals(LINEAR, data, eta)
    for name in ("pred", "ipred", "cwres", "iwres"):
        np.testing.assert_array_equal(columns[name.upper()], getattr(own, name))
    np.testing.assert_allclose(columns["a"], np.repeat(10.0 * np.exp(eta[:, 0]), 3))
    np.testing.assert_allclose(columns["IPRED"], columns["a"] * np.exp(-columns["k"] * columns["TIME"]), rtol=1e-12)
    assert np.abs(columns["NPDE"].mean()) < 4 / np.sqrt(90)


def test_wres_and_deviations_have_the_formulas_of_a_linear_model(fitted):
    data, eta = fitted
    g = np.stack([np.ones(3), -np.array(TIMES)], axis=1)
    covariance = g @ np.array(LINEAR.omega) @ g.T + 0.04 * np.eye(3)
    gap = np.log(data.observed.reshape(-1, 3) / (10 * np.exp(-0.5 * np.array(TIMES))))
    values, vectors = np.linalg.eigh(covariance)
    wres = gap @ (vectors / np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(weighted_residuals(LINEAR, data), wres.ravel(), atol=1e-9)
    posterior = np.linalg.inv(np.linalg.inv(LINEAR.omega) + g.T @ g / 0.04)
    expected = np.tile(np.sqrt(np.diag(posterior)), (30, 1))
    np.testing.assert_allclose(posterior_deviations(LINEAR, data, eta), expected, rtol=1e-9)


def test_censored_rows_have_no_residual_and_less_weight(fitted):
    from dataclasses import replace

    data, eta = fitted
    low = np.zeros(90, dtype=bool)
    low[2] = True
    censored = replace(data, censored=low)
    table = sdtab(LINEAR, censored, eta)
    for name in ("CWRES", "IWRES", "WRES", "NPDE"):
        assert table[name].null_count == 1
        assert not table[name][2].is_valid
    seen, hidden = (posterior_deviations(LINEAR, own, eta)[0] for own in (data, censored))
    assert (hidden > seen).all()
    np.testing.assert_array_equal(
        posterior_deviations(LINEAR, data, eta)[1:], posterior_deviations(LINEAR, censored, eta)[1:]
    )
