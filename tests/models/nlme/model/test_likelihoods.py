"""Likelihoods of counts and levels against scipy's, their draws and moments, and what a model file may get wrong."""

import numpy as np
import pytensor.tensor as pt
import pytest
from scipy.special import digamma as scipy_digamma
from scipy.special import expit
from scipy.stats import nbinom, poisson

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.kernels.digamma import digamma
from image_longitudinal.models.nlme.kernels.graphs import simplify, value
from image_longitudinal.models.nlme.model.likelihoods import NegativeBinomial, Ordinal, Poisson
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel, check_likelihoods
from image_longitudinal.models.nlme.model.residual_error import LIKELIHOOD, ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import trace

CUTS = (-1.0, 0.5, 2.0)


def written(likelihood, y):
    """The log density at y, as the text of the compiled kernels computes it."""
    observed = pt.dscalar("observed")
    return value(simplify([likelihood.log_density(observed)])[0], {observed: float(y)})


def levels(predictor):
    """Probabilities of the four levels."""
    return np.diff(np.concatenate([[0.0], expit(np.array(CUTS) - predictor), [1.0]]))


@pytest.mark.parametrize("y", [0, 1, 7])
def test_densities_are_scipys(y):
    x = pt.constant(2.3, dtype="float64")  # (an expression, as in a model)
    assert written(Poisson(rate=x), y) == pytest.approx(poisson.logpmf(y, 2.3), abs=1e-12)
    # mean 2.3 and variance 2.3 + 0.4 * 2.3²
    expected = nbinom.logpmf(y, 1 / 0.4, 1 / (1 + 0.4 * 2.3))
    assert written(NegativeBinomial(mean=x, dispersion=pt.constant(0.4, dtype="float64")), y) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("predictor", [0.3, -40.0, 40.0])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_levels_have_proportional_odds_also_far_out(predictor, level):
    own = Ordinal(predictor=pt.constant(predictor, dtype="float64"), logit_cutpoints=CUTS)
    cuts = np.array([-np.inf, *CUTS, np.inf]) - predictor
    below, above = cuts[level : level + 2]
    # log(σ(b) - σ(a)) by the smaller tail: no cancellation where both are near 1
    tail = expit(-below) - expit(-above) if predictor < 0 else expit(above) - expit(below)
    assert written(own, level) == pytest.approx(np.log(tail), rel=1e-9)


def test_levels_may_begin_anywhere_and_cutpoints_must_ascend():
    at = pt.constant(0.3, dtype="float64")
    from_one = Ordinal(predictor=at, logit_cutpoints=CUTS, lowest=1)
    assert written(from_one, 1) == written(Ordinal(predictor=at, logit_cutpoints=CUTS), 0)
    assert from_one.values == "a level from 1 to 4"
    np.testing.assert_array_equal(from_one.possible(np.array([0.0, 1.0, 4.0, 5.0, 1.5])), [0, 1, 1, 0, 0])
    # a level of negative probability has no density: such values of parameters are not searched
    assert np.isnan(written(Ordinal(predictor=at, logit_cutpoints=(1.0, 0.0)), 1))
    with pytest.raises(ConfigError, match="without cutpoints"):
        Ordinal(predictor=at, logit_cutpoints=())


@pytest.mark.parametrize(
    ("own", "arguments", "probabilities"),
    [
        (Poisson(1.0), [2.3], poisson.pmf(np.arange(60), 2.3)),
        (NegativeBinomial(1.0, 1.0), [2.3, 0.4], nbinom.pmf(np.arange(200), 2.5, 1 / 1.92)),
        (Ordinal(0.0, CUTS, lowest=1), [0.3, *CUTS], np.append(0.0, levels(0.3))),
    ],
    ids=["poisson", "negative-binomial", "ordinal"],
)
def test_quantiles_invert_and_moments_agree(own, arguments, probabilities):
    uniform = (np.arange(20_000) + 0.5) / 20_000
    drawn = own.quantile(uniform, np.tile(np.array(arguments)[:, None], len(uniform)))
    assert own.possible(drawn).all()
    # evenly spaced draws: each share is right to one of 20,000
    shares = np.bincount(drawn.astype(int), minlength=len(probabilities)) / len(uniform)
    np.testing.assert_allclose(shares[: len(probabilities)], probabilities, atol=1e-4)
    mean, variance = own.moments(np.array(arguments)[:, None])
    number = np.arange(len(probabilities))
    assert mean[0] == pytest.approx(probabilities @ number, rel=1e-9)
    assert variance[0] == pytest.approx(probabilities @ number**2 - mean[0] ** 2, rel=1e-9)


def test_digamma_is_scipys():
    for x in (1e-3, 0.5, 1.46, 3.0, 9.99, 10.0, 1e6):
        assert digamma.py_func(x) == pytest.approx(scipy_digamma(x), rel=1e-13, abs=1e-13)


def counts(**changed):
    """A model of counts."""
    given = {"likelihood": lambda t, x, p: Poisson(rate=p.rate * t), "endpoints": ("count",)} | changed
    return StructuralModel("counts", parameters=("rate",), states=(), **given)


def population(structural, *residuals):
    return PopulationModel(
        "counts", structural, (Parameter("rate", 1.0),), ((0.1,),), residuals[0], Design((1.0,), ()),
        other_residuals=residuals[1:],
    )  # fmt: skip


def test_outputs_are_endpoints_then_the_arguments_of_likelihoods():
    both = counts(
        endpoints=("level", "count"),
        output=lambda t, x, p: p.rate,
        likelihood=lambda t, x, p: {"count": NegativeBinomial(mean=p.rate, dispersion=0.5)},
    )
    system = trace(both)
    assert len(system.outputs) == 4
    assert [own is None for own in system.likelihoods] == [True, False]
    check_likelihoods(population(both, ResidualError("additive", additive=1.0), LIKELIHOOD))


def test_what_a_model_gets_wrong_is_said():
    with pytest.raises(ConfigError, match=r"likelihood that is none.*count.*Poisson"):
        trace(counts(likelihood=lambda t, x, p: p.rate))
    with pytest.raises(ConfigError, match="both or neither"):
        population(counts(), ResidualError("additive", additive=1.0))
    with pytest.raises(ConfigError, match="both or neither"):
        population(counts(likelihood=None, output=lambda t, x, p: p.rate), LIKELIHOOD)
    swapped = counts(endpoints=("level", "count"), output=lambda t, x, p: p.rate)
    with pytest.raises(ConfigError, match=r"'level'.*one of residual error and likelihood"):
        check_likelihoods(population(swapped, LIKELIHOOD, ResidualError("additive", additive=1.0)))
    with pytest.raises(ConfigError, match="outputs that do not match"):
        trace(counts(output=lambda t, x, p: p.rate))
    with pytest.raises(ConfigError, match="its kernel does not compute"):
        counts(kernel="image_longitudinal.models.nlme.kernels.depot_central")
