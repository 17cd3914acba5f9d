"""Relations of parameters with covariates, all in one model."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import Parameter
from image_longitudinal.models.nlme.selection.relations import (
    Relation,
    candidates_of,
    knowing,
    relations_for,
    with_relations,
    without,
)
from image_longitudinal.models.nlme.simulation.simulate import predict
from tests.models.nlme.intervals.decay import MODEL

TIMES = (1.0, 3.0)
WEIGHT, SEX = np.array([50.0, 70.0, 91.0]), np.array([0.0, 1.0, 1.0])


def data_for(model):
    names = model.structural.covariates
    given = {name: {"weight": WEIGHT, "sex": SEX, "flat": np.ones(3)}[name] for name in names}
    return PopulationData.of_design(model.structural, np.zeros((3, 2)), TIMES, [], covariates=given)


def predicted(model):
    parameters = np.tile([p.typical for p in model.parameters], (3, 1))
    return predict(model.structural, parameters, data_for(model), ids=np.arange(3)).reshape(3, 2)


@pytest.mark.parametrize(
    ("kind", "value", "factor"),
    [
        ("power", 0.75, (WEIGHT / 70) ** 0.75),
        ("exponential", 0.01, np.exp(0.01 * (WEIGHT - 70))),
        ("linear", 0.02, 1 + 0.02 * (WEIGHT - 70)),
    ],
)
def test_a_relation_multiplies_its_parameter(kind, value, factor):
    base = knowing(MODEL, ["weight"])
    (own,) = relations_for(candidates_of([f"k:weight:{kind}"]), base, data_for(base))
    assert own.reference == 70.0
    model = with_relations(base, [own], start={own.coefficients[0]: value})
    expected = 10.0 * np.exp(-0.3 * factor[:, None] * np.array(TIMES))
    np.testing.assert_allclose(predicted(model), expected, rtol=1e-12)
    zero = without(model, (), own.coefficients)
    np.testing.assert_allclose(predicted(zero), predicted(base), rtol=1e-14)
    assert [p.fixed for p in zero.parameters] == [False, False, True]
    assert [p.fixed for p in without(zero, own.coefficients, own.coefficients).parameters] == [False] * 3


def test_a_category_has_a_coefficient_for_every_other_level():
    base = knowing(MODEL, ["sex"])
    (own,) = relations_for(candidates_of(["a:sex:categorical"]), base, data_for(base))
    assert (own.reference, own.levels, own.coefficients) == (1.0, (0.0,), ("a_sex_0",))
    model = with_relations(base, [own], start={"a_sex_0": -0.4})
    factor = np.where(SEX == 0, np.exp(-0.4), 1.0)
    np.testing.assert_allclose(predicted(model), predicted(base) * factor[:, None], rtol=1e-12)


def test_several_relations_act_together_and_on_parameters_of_every_scale():
    parameters = (Parameter("k", 0.3, "logit-normal"), Parameter("a", 10.0, "normal"))
    base = knowing(type(MODEL)(**{**vars(MODEL), "parameters": parameters}), ["weight", "sex"])
    found = relations_for(
        candidates_of(["k:weight:power", "a:weight:linear", "a:sex:categorical"]), base, data_for(base)
    )
    start = {"k_weight_power": 0.5, "a_weight_linear": 0.01, "a_sex_0": 0.2}
    model = with_relations(base, found, start=start)
    odds = 0.3 / 0.7 * (WEIGHT / 70) ** 0.5
    k, a = odds / (1 + odds), 10 * (1 + 0.01 * (WEIGHT - 70)) * np.where(SEX == 0, np.exp(0.2), 1.0)
    np.testing.assert_allclose(predicted(model), a[:, None] * np.exp(-k[:, None] * np.array(TIMES)), rtol=1e-12)
    with pytest.raises(ConfigError, match="no linear relation"):
        with_relations(base, [Relation("k", "weight", "linear", 70.0)])


def test_a_linear_factor_stays_positive_for_every_subject():
    base = knowing(MODEL, ["weight"])
    (own,) = relations_for(candidates_of(["k:weight:linear"]), base, data_for(base))
    (coefficient,) = own.parameters({})
    assert coefficient.lower == pytest.approx(-0.999 / 21)
    assert coefficient.upper == pytest.approx(0.999 / 20)
    assert Relation("k", "weight", "linear", 50.0, (), 50.0, 91.0).parameters({})[0].upper is None


def test_what_subjects_are_told_beside_their_doses_counts_alone():
    base = knowing(get_model("one-compartment"), ["weight"])
    doses = [Dose(0.0, 100.0), Dose(2.0, 50.0)]
    data = PopulationData.of_design(base.structural, np.zeros((3, 2)), TIMES, doses, covariates={"weight": WEIGHT})
    (own,) = relations_for(candidates_of(["cl:weight:power"]), base, data)
    assert (own.reference, own.low, own.high) == (70.0, 50.0, 91.0)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["k:weight"], "PARAMETER:COVARIATE:KIND"),
        (["k:weight:cubic"], "unknown relation.*cubic"),
        (["k:weight:power", "k,a:weight:power"], "twice.*k:weight:power"),
        ([], "no candidates"),
    ],
)
def test_unreadable_candidates_are_refused(texts, message):
    with pytest.raises(ConfigError, match=message):
        candidates_of(texts)


def test_candidates_that_the_data_do_not_allow_are_refused():
    base = knowing(MODEL, ["weight", "sex", "flat"])
    data = data_for(base)
    for text, message in (
        ("cl:weight:power", "no such parameter"),
        ("k:flat:exponential", "without differences.*1 in every subject"),
        ("k:sex:power", "not positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            relations_for(candidates_of([text]), base, data)
