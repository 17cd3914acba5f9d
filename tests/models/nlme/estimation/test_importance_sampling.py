"""The likelihood by importance sampling against integrals known otherwise, and its gradient against differences."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from image_longitudinal.models.nlme.estimation import importance_sampling
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.simulation.simulate import simulate
from tests.models.nlme.estimation.test_fit import simulated


def search_of(model, data, draws):
    objective, coordinates = Objective(model, data, tolerance=1e-9), Coordinates(model, "full", ())
    search = importance_sampling.ImportanceSearch(objective, coordinates, None)
    values = PopulationParameters.of(model)
    objective.find_modes(values, np.zeros((1, model.n_random_effects)))
    center = objective.typical_phi(values)[:, objective.random]
    covariance = importance_sampling.linearised_covariance(objective, values, objective.eta)
    draws = importance_sampling.draw_from_proposal(data.ids, center, objective.eta, covariance, values.omega, draws, 1)
    search.use(draws)
    return search, coordinates.pack(values)


def test_the_likelihood_is_the_integral_over_the_random_effect(original):
    parameters = tuple(replace(p, random=p.name == "imax") for p in original.parameters)
    model = replace(original, parameters=parameters, omega=((1.0,),))
    _, data = simulated(original, 3, seed=2)
    search, psi = search_of(model, data, 4000)
    objectives = search.individual_objectives(psi)[0]
    for i in range(3):
        y = data.observed[21 * i : 21 * (i + 1)]
        mode = search.moments()[0][i, 0]

        def joint(eta, y=y):
            return np.exp(norm.logpdf(y, simulate(model, [[eta]])[0], 0.01).sum() + norm.logpdf(eta) - 60)

        integral, _ = quad(joint, mode - 2, mode + 2, points=[mode - 0.1, mode, mode + 0.1], limit=200)
        expected = -2 * (np.log(integral) + 60) - 21 * np.log(2 * np.pi)
        # 4,000 draws, of which over a tenth are effective: standard error of a log-likelihood below 0.05
        assert objectives[i] == pytest.approx(expected, abs=0.2)


def test_the_gradient_is_that_of_the_value(original):
    _, data = simulated(original, 8, seed=4)
    parameters = (replace(original.parameters[0], random=False), *original.parameters[1:])
    one_fixed_effect = replace(original, parameters=parameters, omega=((1.0, 0.3), (0.3, 1.0)))
    for model in (original, one_fixed_effect):
        search, psi = search_of(model, data, 60)
        psi = psi + 0.01 * np.arange(len(psi))
        gradient = search.total(psi)[1]
        for j in range(len(psi)):
            step = 1e-5 * np.eye(len(psi))[j]
            difference = (search.total(psi + step)[0] - search.total(psi - step)[0]) / 2e-5
            assert gradient[j] == pytest.approx(difference, rel=2e-4, abs=0.05)  # solvers at 1e-9, σ at 1e-2


def test_draws_have_the_density_they_claim_and_depend_on_the_subject_alone():
    spread, omega = np.array([[[0.3, 0.1], [0.1, 0.2]]] * 2), np.array([[1.0, -0.4], [-0.4, 2.0]])
    mean = np.array([[0.5, 0.0], [0.0, 1.0]])
    ids, center = np.array([7, 3]), np.array([[1.0, 2.0], [1.0, 2.0]])
    many = importance_sampling.draw_from_proposal(ids, center, mean, spread, omega, 20_000, 5)
    # ∫ q = 1: the mean of p / q over the draws is the integral of p, here of N(0, Ω)
    eta = many.phi - center[:, None]
    ratio = np.exp(importance_sampling.log_normal(eta, omega) - many.log_q)
    np.testing.assert_allclose(ratio.mean(axis=1), 1.0, atol=0.03)
    expected = multivariate_normal([0, 0], omega).logpdf(eta[0, :5])
    np.testing.assert_allclose(importance_sampling.log_normal(eta[0, :5], omega), expected)
    alone = importance_sampling.draw_from_proposal(ids[1:], center[1:], mean[1:], spread[1:], omega, 100, 5)
    whole = importance_sampling.draw_from_proposal(ids, center, mean, spread, omega, 100, 5)
    np.testing.assert_array_equal(alone.phi[0], whole.phi[1])
