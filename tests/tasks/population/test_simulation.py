"""What simulate takes from a fit, and what it refuses."""

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.population.options import SimulateOptions
from image_longitudinal.tasks.population.simulation import model_to_simulate


def test_without_a_fit_the_named_model_is_simulated():
    model = model_to_simulate(SimulateOptions(model="one-compartment", values={"ka": 2.0}))
    assert model.typical_values["ka"] == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uncertainty": True}, r"uncertainty is that of a fit.*--from"),
        ({"fit": "nowhere"}, r"no fit to simulate from.*nowhere.*fit\.json"),
    ],
)
def test_what_cannot_be_simulated_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        model_to_simulate(SimulateOptions(**options))
