"""Structures of Ω, what is held, and bounds: in the coordinates of a fit."""

from dataclasses import replace

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates, blocks_of, by_coordinates
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

TIMES = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
MODEL = PopulationModel(  # two exponentials: four random effects of which two pairs covary
    "two-exponentials",
    StructuralModel(
        "two-exponentials", (), ("a", "b", "k", "l"), lambda t, x, p: {},
        lambda t, x, p: p.a * s.exp(-p.k * t) + p.b * s.exp(-p.l * t),
    ),
    (Parameter("a", 10.0), Parameter("b", 5.0), Parameter("k", 1.0), Parameter("l", 0.1)),
    omega=((0.09, 0.0, 0.04, 0.0), (0.0, 0.09, 0.0, 0.05), (0.04, 0.0, 0.09, 0.0), (0.0, 0.05, 0.0, 0.09)),
    residual=ResidualError("combined2", additive=0.05, proportional=0.05),
    design=Design(TIMES, ()),
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    ids = np.arange(60)
    eta = np.random.default_rng(5).standard_normal((60, 4)) @ np.linalg.cholesky(MODEL.omega).T
    observed = observe(MODEL, simulate(MODEL, eta), key=6, ids=ids)
    return PopulationData.of_design(MODEL.structural, observed, TIMES, [], ids=ids)


def cells(structure, model=MODEL, fixed=()):
    return [name for name in Coordinates(model, structure, fixed).names if name.startswith("omega")]


def test_blocks_are_those_of_the_start_values_or_as_named():
    assert blocks_of(MODEL, "blocks").tolist() == [0, 1, 0, 1]
    assert blocks_of(MODEL, "a,k b,l").tolist() == [0, 1, 0, 1]
    assert blocks_of(MODEL, "k,a").tolist() == [2, 1, 2, 3]
    expected = ["omega(eta_a,eta_a)", "omega(eta_b,eta_b)", "omega(eta_k,eta_a)", "omega(eta_k,eta_k)"]
    assert cells("blocks") == [*expected, "omega(eta_l,eta_b)", "omega(eta_l,eta_l)"]
    assert len(cells("full")) == 10
    with pytest.raises(ConfigError, match=r"start values have covariances"):
        cells("a,k")
    with pytest.raises(ConfigError, match=r"unknown structure.*got x"):
        cells("a,x")


def test_coordinates_keep_the_structure_and_come_back():
    coordinates = Coordinates(MODEL, "blocks", ())
    psi = coordinates.pack(coordinates.start)
    np.testing.assert_allclose(coordinates.unpack(psi).omega, MODEL.omega, atol=1e-15)
    moved = coordinates.unpack(psi + np.random.default_rng(1).normal(0, 0.3, len(psi)))
    assert ((moved.omega == 0) == (np.array(MODEL.omega) == 0)).all()


def test_one_variance_and_one_residual_value_can_be_held():
    alone = replace(MODEL, omega=tuple(map(tuple, 0.09 * np.eye(4))))
    coordinates = Coordinates(alone, "diagonal", ("eta_k", "sigma2_additive"))
    assert "omega(eta_k,eta_k)" not in coordinates.names
    assert "sigma2_additive" not in coordinates.names
    assert "sigma2_proportional" in coordinates.names
    moved = coordinates.unpack(coordinates.pack(coordinates.start) + 0.5)
    assert moved.omega[2, 2] == pytest.approx(0.09, rel=1e-14)
    assert moved.error[0] == 0.05
    assert moved.omega[0, 0] == pytest.approx(0.09 * np.exp(1.0))
    with pytest.raises(ConfigError, match=r"eta_k cannot be held alone"):
        Coordinates(MODEL, "blocks", ("eta_k",))
    with pytest.raises(ConfigError, match=r"unknown value to hold.*eta_ke"):
        Coordinates(alone, "diagonal", ("eta_ke",))


BOUNDED = replace(
    MODEL,
    parameters=(
        Parameter("a", 10.0, lower=2.0), Parameter("b", 5.0, upper=6.0), Parameter("k", 1.0, lower=0.5, upper=1.2),
        Parameter("l", 0.1),
    ),
)  # fmt: skip


def test_the_gradient_by_bounded_coordinates_is_that_of_differences(data):
    objective, coordinates = Objective(BOUNDED, data), Coordinates(BOUNDED, "blocks", ())
    psi = coordinates.pack(coordinates.start)
    np.testing.assert_allclose(coordinates.unpack(psi).mu, PopulationParameters.of(BOUNDED).mu, atol=1e-14)
    values = coordinates.unpack(psi)
    gradient = by_coordinates(coordinates, values, objective.gradient(values)).sum(axis=0)
    for j in range(len(psi)):
        move = np.zeros(len(psi))
        move[j] = 1e-4
        up, down = (objective.evaluate(coordinates.unpack(psi + sign * move)).sum() for sign in (1, -1))
        # differences of an objective of some hundreds that is known to 1e-8
        assert gradient[j] == pytest.approx((up - down) / 2e-4, rel=1e-4, abs=2e-3), coordinates.names[j]


def test_a_fit_stays_within_bounds_and_ends_at_one_that_holds_it(data):
    free = fit(MODEL, data, omega="blocks", covariance="none")
    k = free.model.typical_values["k"]
    tight = replace(
        MODEL,
        parameters=tuple(replace(p, typical=0.7 * k, upper=0.9 * k) if p.name == "k" else p for p in MODEL.parameters),
    )
    held = fit(tight, data, omega="blocks", covariance="none")
    assert 0.89 * k < held.model.typical_values["k"] < 0.9 * k
    assert held.objective > free.objective
    wide = replace(
        MODEL, parameters=tuple(replace(p, lower=0.3 * p.typical, upper=3 * p.typical) for p in MODEL.parameters)
    )
    same = fit(wide, data, omega="blocks", covariance="none")
    assert same.objective == pytest.approx(free.objective, abs=1e-3)


@pytest.mark.parametrize(("typical", "lower", "upper"), [(1.0, 1.0, None), (1.0, None, 0.5), (1.0, -1.0, 2.0)])
def test_unusable_bounds_are_refused(typical, lower, upper):
    with pytest.raises(ConfigError, match="unusable bound"):
        Parameter("k", typical, lower=lower, upper=upper)
