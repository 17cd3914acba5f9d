"""Linear compartments stated by their kind."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.kernels.codegen import linear_kernel
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.linear import linear_compartments
from image_longitudinal.models.nlme.simulation.simulate import predict

TIMES = np.array([0.0, 0.5, 2.0, 8.0, 24.0])


@pytest.mark.parametrize("oral", [False, True])
@pytest.mark.parametrize("compartments", [1, 2, 3])
def test_every_kind_is_solved_in_closed_form_and_clearances_and_rates_are_the_same(compartments, oral):
    first = {"cl": 2.0, "v": 20.0, "q": 3.0, "v2": 40.0, "q3": 0.7, "v3": 90.0}
    second = {"k": 0.1, "v": 20.0, "k12": 3 / 20, "k21": 3 / 40, "k13": 0.7 / 20, "k31": 0.7 / 90}
    courses = []
    for kind, values in (("clearances", first), ("rates", second)):
        model = linear_compartments(compartments, oral=oral, parameters=kind)
        assert linear_kernel(model) is not None
        assert model.states == ("depot", "central", "peripheral", "peripheral2")[not oral : compartments + 1]
        assert len(model.parameters) == 2 * compartments + oral
        own = [[(values | {"ka": 0.9})[name] for name in model.parameters]]
        doses = [Dose(0.0, 100.0, model.states[0]), Dose(1.0, 50.0, "central", duration=2.0)]
        data = PopulationData.of_design(model, np.zeros((1, len(TIMES))), TIMES, doses)
        courses.append(predict(model, own, data))
    np.testing.assert_allclose(courses[0], courses[1], rtol=1e-12)
    assert (courses[0][1:] > 0).all()


def test_a_bolus_into_one_compartment_is_an_exponential():
    model = linear_compartments(1)
    data = PopulationData.of_design(model, np.zeros((1, len(TIMES))), TIMES, [Dose(0.0, 100.0, "central")])
    np.testing.assert_allclose(predict(model, [[2.0, 20.0]], data), 5 * np.exp(-0.1 * TIMES), rtol=1e-14)


def test_an_unknown_kind_is_refused():
    for values in ({"compartments": 4}, {"parameters": "volumes"}):
        with pytest.raises(ConfigError, match=r"unknown linear compartments.*1, 2 or 3.*clearances or rates"):
            linear_compartments(**values)
