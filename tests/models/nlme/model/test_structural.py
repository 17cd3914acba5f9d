from dataclasses import replace

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.library import get_model, register
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import trace

DECAY = StructuralModel("decay", ("a",), ("k",), lambda t, x, p: {"a": -p.k * x.a}, lambda t, x, p: x.a)


def test_compartments_are_named_or_numbered_from_one(original):
    assert original.structural.state_index("central") == 1
    assert original.structural.state_index(1) == 0
    for compartment in ("gut", 0, 3, -1):
        with pytest.raises(ConfigError, match="1 depot, 2 central"):
            original.structural.state_index(compartment)


@pytest.mark.parametrize("changes", [{"states": ("a", "a")}, {"parameters": ()}, {"parameters": ("not a name",)}])
def test_unusable_names_are_refused(changes):
    with pytest.raises(ConfigError, match="names"):
        replace(DECAY, **changes)


@pytest.mark.parametrize(
    ("equation", "message"),
    [(lambda t, x, p: {"a": -p.kel * x.a}, "does not declare.*kel"), (lambda t, x, p: {"b": x.a}, "do not match")],
)
def test_an_undeclared_name_and_a_missing_equation_are_reported(equation, message):
    with pytest.raises(ConfigError, match=message):
        trace(replace(DECAY, rhs=equation))


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(ConfigError, match="depot-central-mm"):
        get_model("no-such-model")


def test_a_name_is_registered_once(original):
    assert register(original) is original
    with pytest.raises(ConfigError, match="already registered"):
        register(replace(original, source="another"))
