"""A stepwise search finds what was simulated, and says what failed."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.core.random import normals, stream_key, uniforms
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.selection.relations import candidates_of, knowing, relations_for, with_relations
from image_longitudinal.models.nlme.selection.stepwise import stepwise
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate
from tests.models.nlme.intervals.decay import MODEL, refit

CANDIDATES = ("k:weight:power,linear", "a:sex:categorical", "a:age:exponential")


@pytest.fixture(scope="module")
def searched():
    ids = np.arange(60)
    weight, age = (50 + 40 * uniforms(stream_key(4, name), ids, 1)[:, 0] for name in ("weight", "age"))
    sex = (ids % 3 > 0).astype(float)
    eta = 0.2 * normals(stream_key(4, "eta"), ids, 2)
    eta[:, 0] += 0.75 * np.log(weight / 70)
    eta[:, 1] -= 0.4 * (sex == 0)
    observed = observe(MODEL, simulate(MODEL, eta), key=stream_key(4, "residual"), ids=ids)
    base, covariates = knowing(MODEL, ["weight", "sex", "age"]), {"weight": weight, "sex": sex, "age": age}
    data = PopulationData.of_design(base.structural, observed, MODEL.design.times, [], covariates=covariates)
    relations = relations_for(candidates_of(CANDIDATES), base, data)
    return with_relations(base, relations), data, relations


def test_the_effects_of_the_simulation_are_found_and_no_other(searched):
    model, data, relations = searched
    found = stepwise(model, data, relations, refit, forward=0.01, backward=0.001, n_threads=2)
    pairs = {own.pair for own in found.relations}
    assert pairs == {("k", "weight"), ("a", "sex")}
    assert [step.direction for step in found.steps] == ["forward", "forward", "forward", "backward"]
    assert [step.chosen is None for step in found.steps] == [False, False, True, True]
    sizes = [len(step.tested) for step in found.steps]
    assert sizes in ([4, 2, 1, 2], [4, 3, 1, 2])  # weight has two relations, and goes as a whole
    # 60 subjects, eta of 0.2: a standard error of 0.07 (log) for sex
    assert found.final.table["a_sex_0"][0] == pytest.approx(-0.4, abs=0.25)
    for one in found.steps[0].tested:
        assert one.p == pytest.approx(chi2.sf(max(-one.change, 0.0), one.freedom))
        assert one.objective == pytest.approx(found.base.objective + one.change)
        assert one.change < 0.05  # a larger model is not worse
    assert found.fits == 1 + sum(len(step.tested) for step in found.steps)
    assert found.final.objective == found.steps[-1].objective < found.base.objective - 20


def test_a_fit_that_fails_or_does_not_converge_is_named_and_not_chosen(searched):
    model, data, relations = searched

    def broken(own, some, held):
        free = {p.name for p in own.parameters if not p.fixed}
        if "a_sex_0" in free:
            raise SimulationError("the objective does not exist")
        done = refit(own, some, held)
        return replace(done, converged=False, message="a saddle") if "k_weight_power" in free else done

    found = stepwise(model, data, relations, broken, forward=0.01, backward=0.001)
    problems = {str(one.relation): one.problem for one in found.steps[0].tested if one.problem}
    assert problems == {
        "a:sex:categorical": "no fit: the objective does not exist",
        "k:weight:power": "not converged: a saddle",
    }
    assert str(found.steps[0].chosen) == "k:weight:linear"
    with pytest.raises(ConfigError, match="level of p"):
        stepwise(model, data, relations, refit, forward=1.5)
