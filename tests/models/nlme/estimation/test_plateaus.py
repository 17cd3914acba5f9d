"""Variances that went to nearly 0 on the way come back if they should, and stay at 0 if that is the minimum."""

import numpy as np
import pytest

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.plateaus import escape
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

BOLUS = StructuralModel(
    "bolus", (), ("cl", "v"), lambda t, x, p: {}, lambda t, x, p: p.dose / p.v * s.exp(-p.cl / p.v * t),
    covariates=("dose",),
)  # fmt: skip
TIMES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 48.0)


def bolus(cl, v, omega, additive, proportional):
    error = ResidualError("combined2", additive=additive, proportional=proportional)
    parameters = (Parameter("cl", cl), Parameter("v", v))
    return PopulationModel("bolus", BOLUS, parameters, ((omega[0], 0.0), (0.0, omega[1])), error, Design(TIMES, ()))


def simulated(model, n=60):
    ids = np.arange(n)
    eta = normals(stream_key(1, "eta"), ids, 2) * np.sqrt(np.diag(model.omega))
    observed = observe(model, simulate(model, eta, covariates={"dose": 100.0}), key=stream_key(1, "residual"), ids=ids)
    return PopulationData.of_design(BOLUS, observed, TIMES, [], covariates={"dose": 100.0})


TRUE = bolus(0.4, 7.0, (0.17, 0.2), 2.7, 0.155)


@pytest.mark.parametrize("start", [bolus(0.4, 7.0, (0.17, 0.2), 4.0, 1e-3), bolus(0.4, 7.0, (0.17, 0.2), 1e-3, 0.4)])
def test_a_vanished_part_of_the_residual_error_comes_back(start):
    data = simulated(TRUE)
    right = fit(TRUE, data, "FOCE", omega="diagonal", covariance="none")
    # two searches end within 2e-3 of each other: the tolerance of a fit of 60 subjects is 1e-4, of rounding 0.05
    found = fit(start, data, "FOCE", omega="diagonal", covariance="none")
    assert found.converged
    assert found.objective == pytest.approx(right.objective, abs=0.05)


def test_the_published_case_ends_where_other_programs_do(reference_data):
    file = reference_data.parents[1] / "cases" / "foce_combined_false_convergence" / "data.csv"
    if not file.is_file():
        pytest.skip(f"no such case: {file}")
    table = np.genfromtxt(file, delimiter=",", skip_header=1)
    parts = []
    for subject in np.unique(table[:, 0]):
        dose, rows = table[table[:, 0] == subject][0, 3], table[(table[:, 0] == subject) & (table[:, 2] == 0)]
        values, times = rows[:, 5][None], rows[:, 1]
        options = {"ids": [int(subject)], "covariates": {"dose": dose}}
        parts.append(PopulationData.of_design(BOLUS, values, times, [], **options))
    start = bolus(0.6, 10.0, (0.04, 0.01), 2**0.5, 0.1**0.5)
    found = fit(start, PopulationData.concatenate(parts), "FOCE", omega="diagonal")
    assert found.converged
    assert found.objective == pytest.approx(6109.707, abs=0.01)
    expected = [0.412, 7.20, 0.173, 0.202, 7.32, 0.0241]  # to the digits that Pumas' test suite prints
    np.testing.assert_allclose(found.estimates, expected, rtol=0.004)
    assert np.isfinite(found.standard_errors).all()


def test_a_variance_whose_minimum_is_0_stays_there():
    data, model = simulated(bolus(0.4, 7.0, (0.17, 0.2), 2.7, 1e-4)), bolus(0.4, 7.0, (0.17, 0.2), 2.7, 1e-4)
    found = fit(model, data, "FOCE", omega="diagonal", covariance="none")
    objective, coordinates = Objective(found.model, data, "FOCE"), Coordinates(found.model, "diagonal", ())
    objective.eta[:] = found.eta
    psi = coordinates.pack(coordinates.start)
    assert found.model.residual.proportional < 0.05
    assert escape(objective, coordinates, psi) is None
    np.testing.assert_array_equal(objective.eta, found.eta)


def test_a_vanished_variance_of_a_random_effect_comes_back():
    data, start = simulated(TRUE), bolus(0.4, 7.0, (0.17, 0.2), 2.7, 0.155)
    coordinates, objective = Coordinates(start, "diagonal", ()), Objective(start, data)
    values = coordinates.start
    gone = coordinates.pack(type(values)(values.mu, np.diag([1e-5, 0.2]), values.error))
    objective.find_modes(coordinates.unpack(gone))
    point = escape(objective, coordinates, gone)
    assert point is not None
    assert 0.0017 <= coordinates.unpack(point).omega[0, 0] <= 0.0851
