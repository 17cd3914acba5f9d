"""Sampling importance resampling of estimates, and the likelihood at other estimates than a fit's."""

from dataclasses import replace

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates, central_differences
from image_longitudinal.models.nlme.estimation.draws import coordinates_of
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.intervals.likelihood_at import LikelihoodAt
from image_longitudinal.models.nlme.intervals.sir import sir, weighted_percentile
from image_longitudinal.models.nlme.model.population import Parameter
from tests.models.nlme.intervals.decay import MODEL, fitted


class Gaussian(LikelihoodAt):
    """Minus twice the log density of a normal distribution of the natural estimates: what SIR must find again."""

    def __init__(self, found, mean, covariance):
        self.found, self.mean, self.precision = found, mean, np.linalg.inv(covariance)
        self.coordinates = coordinates_of(found)

    def __call__(self, psi):
        off = self.coordinates.natural(psi) - self.mean
        return float(off @ self.precision @ off)


def test_a_known_distribution_is_found_from_a_proposal_of_half_its_width():
    found, _ = fitted()
    covariance = found.covariance
    narrow = replace(found, covariance=covariance / 4, standard_errors=found.standard_errors / 2, objective=0.0)
    drawn = sir(narrow, lambda: Gaussian(narrow, found.estimates, covariance), 2000, n_threads=2)
    assert drawn.reliable
    assert drawn.iterations[-1].effective > 1.5 * drawn.iterations[0].effective
    error = found.standard_errors
    # at least 500 effective draws: standard deviations to 4 %, percentiles to 0.1 standard errors
    np.testing.assert_allclose(drawn.standard_errors, error, rtol=0.15)
    np.testing.assert_allclose((drawn.lower - found.estimates) / error, -1.96, atol=0.35)
    np.testing.assert_allclose((drawn.upper - found.estimates) / error, 1.96, atol=0.35)
    assert drawn.resampled.sum() == 400
    plain = drawn.estimates[drawn.resampled]
    np.testing.assert_allclose((plain.mean(axis=0) - found.estimates) / error, 0.0, atol=0.25)


def test_a_fit_has_its_distribution_and_threads_change_nothing():
    found, data = fitted()
    one, two = (sir(found, lambda: LikelihoodAt(found, data), 200, seed=2, n_threads=n) for n in (1, 2))
    for name in ("estimates", "objective", "weight", "resampled", "lower", "upper"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.iterations == two.iterations
    assert (one.objective[np.isfinite(one.objective)] > found.objective - 0.05).all()  # the fit is the minimum
    assert one.weight.sum() == pytest.approx(1.0)
    # 60 subjects, about 100 effective draws: a tenth of the width for each
    np.testing.assert_allclose(one.standard_errors, found.standard_errors, rtol=0.5)
    assert ((one.lower < found.estimates) & (found.estimates < one.upper)).all()


@pytest.mark.parametrize("method", ["FO", "FOCE", "Laplace", "AGQ", "IMP", "SAEM"])
def test_the_likelihood_at_the_estimates_is_near_focei_by_every_method(method):
    found, data = fitted()
    at = LikelihoodAt(replace(found, method=method), data, order=3, draws=100)
    psi = at.coordinates.pack(at.coordinates.start)
    value = at(psi)
    # little nonlinearity within a subject's uncertainty, except for FO, which linearises at the typical values
    expected = found.objective
    if method == "FO":
        expected = Objective(found.model, data, "FO").evaluate(PopulationParameters.of(found.model)).sum()
    assert value == pytest.approx(expected, abs=0.5)
    assert at(psi) == value
    psi[0] = 400.0  # no such rate can be integrated
    assert at(psi) == np.inf or at(psi) > value


def test_the_volume_is_that_of_the_natural_scale():
    fraction = replace(MODEL.parameters[0], distribution="logit-normal", lower=0.1, upper=0.9)
    model = replace(MODEL, parameters=(fraction, Parameter("a", 10.0, "normal")), omega=((0.09, 0.02), (0.02, 0.16)))
    for omega, own in (("full", model), ("diagonal", MODEL)):
        coordinates = Coordinates(own, omega, ())
        start = coordinates.pack(coordinates.start)
        found = []
        for psi in (start, start + 0.3):
            jacobian = np.stack(central_differences(coordinates.natural, psi, 1e-6), axis=1) / 2e-6
            found.append(np.linalg.slogdet(jacobian)[1] - coordinates.log_volume(psi))
        assert found[0] == pytest.approx(found[1], abs=1e-6)  # of differences


def test_weighted_percentiles_are_those_of_repeated_values():
    values = np.array([[3.0], [1.0], [2.0]])
    assert weighted_percentile(values, np.array([0.0, 0.5, 0.5]), 50.0)[0] == pytest.approx(1.5)
    many = np.random.default_rng(1).normal(size=(5000, 1))
    own = weighted_percentile(many, np.full(5000, 1 / 5000), 97.5)[0]
    assert own == pytest.approx(np.percentile(many, 97.5), abs=0.01)


def test_a_fit_without_standard_errors_is_refused():
    found, data = fitted()
    errors = found.standard_errors.copy()
    errors[0] = np.nan
    with pytest.raises(ConfigError, match=r"standard error of every estimate.*none of k"):
        sir(replace(found, standard_errors=errors), lambda: LikelihoodAt(found, data))
    with pytest.raises(ConfigError, match="at least 100"):
        sir(found, lambda: LikelihoodAt(found, data), 50)
    with pytest.raises(ConfigError, match="no likelihood"):
        LikelihoodAt(replace(found, method="NUTS"), data)
