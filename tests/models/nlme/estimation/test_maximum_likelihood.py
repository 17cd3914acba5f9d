"""Importance sampling on Theophylline, where the marginal likelihood is known by quadrature, and its draws."""

from dataclasses import replace

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.estimation import sampled_likelihood
from image_longitudinal.models.nlme.estimation.bent_nodes import BentGaussian
from image_longitudinal.models.nlme.estimation.fit import fit, spread
from image_longitudinal.models.nlme.estimation.importance_sampling import log_normal
from image_longitudinal.models.nlme.estimation.maximum_likelihood import maximum_likelihood
from image_longitudinal.models.nlme.estimation.proposals import Proposal
from image_longitudinal.models.nlme.estimation.quadrature import quadrature_fit
from image_longitudinal.models.nlme.estimation.sampled_likelihood import doubled
from tests.models.nlme.estimation.test_fit import simulated
from tests.models.nlme.estimation.theophylline import ADDITIVE, COMBINED, theophylline

# -2 log L without constants at the maximum, from published fits by several programs and long runs
CASES = {"full": (COMBINED, "full", 93.05), "vanishing": (ADDITIVE, "diagonal", 112.9)}


# the search along a variance that vanishes takes most of a minute
@pytest.mark.parametrize("case", ["full", pytest.param("vanishing", marks=pytest.mark.operations)])
def test_theophylline_reaches_the_marginal_likelihood(reference_data, case):
    model, omega, expected = CASES[case]
    data = theophylline(reference_data, model)
    start = fit(model, data, omega=omega, covariance="none")
    sampled = maximum_likelihood(start, data, omega=omega)
    assert sampled.converged, sampled.message
    assert sampled.message.startswith("converged")
    assert sampled.objective == pytest.approx(expected, abs=0.05)
    by_quadrature = quadrature_fit(model, data, omega=omega, order=7, start=start, covariance="none")
    assert sampled.objective == pytest.approx(by_quadrature.objective, abs=0.05)
    # typical values: within a tenth of a standard error of each other, which differ by a few percent
    np.testing.assert_allclose(sampled.estimates[:3], by_quadrature.estimates[:3], rtol=0.01)
    assert sampled.sampling is not None
    assert sampled.sampling.error <= 0.03  # 0.02 is aimed at; subjects get at most sixteen times the draws
    assert sampled.sampling.pareto_k.max() < 0.7
    assert (sampled.sampling.draws >= 600).all()


def test_draws_have_the_density_they_claim_and_depend_on_the_subject_alone():
    scale, omega = np.array([[[0.3, 0.1], [0.1, 0.2]]] * 2), np.array([[1.0, -0.4], [-0.4, 2.0]])
    mode = np.array([[0.5, 0.0], [0.0, 1.0]])
    ids, center = np.array([7, 3]), np.array([[1.0, 2.0], [1.0, 2.0]])
    proposal = Proposal.around(mode, scale, omega)
    bent = BentGaussian(
        np.zeros((2, 2)), np.array([np.eye(2)] * 2), np.full(2, 0.7), np.full((2, 3, 1), 0.2), np.full((2, 1, 1), 0.3),
        np.array([0.4, -0.4]),
    )  # fmt: skip
    for one in (proposal, proposal.following(bent, np.array([True, True]))):
        many = one.draw(ids, center, omega, 20_000, 5)
        # ∫ q = 1: the mean of p / q over the draws is the integral of p, here of N(0, Ω)
        ratio = np.exp(log_normal(many.phi - center[:, None], omega) - many.log_q)
        np.testing.assert_allclose(ratio.mean(axis=1), 1.0, atol=0.01)
    alone = proposal.take(np.array([1])).draw(ids[1:], center[1:], omega, 100, 5)
    whole = proposal.draw(ids, center, omega, 100, 5)
    np.testing.assert_array_equal(alone.phi[0], whole.phi[1])


def test_subjects_that_decide_the_error_get_more_draws():
    draws, most = np.array([100, 100, 100, 100]), np.full(4, 150)
    more = doubled(draws, np.array([0.1, -3.0, 0.2, 2.0]), 0.5, most)
    assert more.tolist() == [100, 150, 100, 150]  # what is left, 0.1² + 0.2², is below 0.5²


def test_workers_change_nothing_and_too_few_draws_are_refused(original):
    _, data = simulated(original, 20, seed=6)
    start = fit(original, data, "FOCE", omega="diagonal", covariance="none")
    one, two = (maximum_likelihood(start, data, omega="diagonal", draws=60, growth=1, n_threads=n) for n in (1, 2))
    assert one.objective == two.objective
    np.testing.assert_array_equal(one.estimates, two.estimates)
    assert one.method == "IMP"
    assert "Monte Carlo error" in one.message
    with pytest.raises(ConfigError, match="at least 50 draws"):
        maximum_likelihood(start, data, draws=20)


def test_many_subjects_are_evaluated_in_parts_and_begin_with_some_of_them(original, monkeypatch):
    _, data = simulated(original, 40, seed=6)
    start = fit(original, data, "FOCE", omega="diagonal", covariance="none")
    options = {"omega": "diagonal", "draws": 60, "growth": 1, "covariance": "none"}
    whole = maximum_likelihood(start, data, **(options | {"covariance": "gradient"}))
    monkeypatch.setattr(sampled_likelihood, "TOGETHER", 9)
    parts = maximum_likelihood(start, data, **options)
    np.testing.assert_allclose(parts.estimates, whole.estimates, rtol=1e-9)
    np.testing.assert_allclose(parts.objectives, whole.objectives, rtol=1e-9)
    module, begun_with = "image_longitudinal.models.nlme.estimation.maximum_likelihood", []
    monkeypatch.setattr(f"{module}.SAMPLE", 10)
    monkeypatch.setattr(f"{module}.spread", lambda every, n: begun_with.append(n) or spread(every, n))
    options["draws"] = 180  # of which sets of many get two thirds
    begun = maximum_likelihood(start, data, **options)
    assert begun_with == [10]
    np.testing.assert_array_equal(maximum_likelihood(start, data, n_threads=2, **options).estimates, begun.estimates)
    # each is up to half a standard error off
    assert np.abs((begun.estimates - whole.estimates) / whole.standard_errors).max() < 1.0


def test_a_draw_that_cannot_be_integrated_has_no_weight(reference_data):
    """Of ka = k the closed form is 0 / 0: a subject's other draws are enough."""
    data = theophylline(reference_data, COMBINED)
    from image_longitudinal.models.nlme.estimation.objective import Objective
    from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters

    objective = Objective(COMBINED, data)
    phi = objective.typical_phi(PopulationParameters.of(COMBINED))
    phi[3, 0] = phi[3, 2]
    phi[5, 1] = np.nan
    predicted = objective.predict_where_possible(phi).reshape(12, 11)
    assert np.flatnonzero(np.isnan(predicted).any(axis=1)).tolist() == [3, 5]
    good = replace(COMBINED)
    np.testing.assert_array_equal(predicted[4], Objective(good, data.subset(4, 5)).predict_at(phi[4:5]))
