"""What a configuration names is looked up before anything is made."""

import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.engine.parameters import resolve


def test_a_preset_takes_overrides():
    assert resolve("demo", None, ("dataset.n_subjects=7",)).dataset.n_subjects == 7


def test_overrides_beside_a_whole_configuration_are_refused():
    with pytest.raises(ConfigError, match="Write the values into the configuration"):
        resolve("demo", Config(), ("dataset.n_subjects=7",))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("generator.backend=fantom", "one of phantom, vae, diffusion"),
        ("outcomes.model=depot", "depot-central-mm"),
        ("outcomes.model=nowhere.py:growth", "nowhere.py"),
        ("dataset.eta_dims=[0, 1]", "3 dimensions"),
    ],
)
def test_what_is_not_there_is_named_before_anything_is_trained(override: str, named: str):
    with pytest.raises(ConfigError, match=named):
        resolve("demo", None, (override,))
