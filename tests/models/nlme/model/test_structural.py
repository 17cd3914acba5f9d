import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.library import get_model, register
from image_longitudinal.models.nlme.model.structural import StructuralModel


def model(**changes):
    values = {
        "name": "decay",
        "states": ("amount",),
        "parameters": ("k",),
        "rhs": lambda t, x, p: {"amount": -p.k * x.amount},
        "output": lambda t, x, p: x.amount,
    }
    return StructuralModel(**(values | changes))


def test_compartments_are_named_or_numbered_from_one():
    assert get_model("depot-central-mm").structural.state_index("central") == 1
    assert get_model("depot-central-mm").structural.state_index(1) == 0


@pytest.mark.parametrize("compartment", ["gut", 0, 3, -1])
def test_a_compartment_that_does_not_exist_is_refused_by_name(compartment):
    with pytest.raises(ConfigError, match="1 depot, 2 central"):
        get_model("depot-central-mm").structural.state_index(compartment)


@pytest.mark.parametrize("changes", [{"states": ("a", "a")}, {"parameters": ()}, {"parameters": ("not a name",)}])
def test_unusable_names_are_refused(changes):
    with pytest.raises(ConfigError, match="names"):
        model(**changes)


def test_an_undeclared_name_in_the_equations_is_reported():
    from image_longitudinal.models.nlme.model.symbolic import trace

    with pytest.raises(ConfigError, match=r"'kel'.*|does not declare"):
        trace(model(rhs=lambda t, x, p: {"amount": -p.kel * x.amount}))


def test_a_missing_or_foreign_equation_is_reported():
    from image_longitudinal.models.nlme.model.symbolic import trace

    with pytest.raises(ConfigError, match="do not match"):
        trace(model(rhs=lambda t, x, p: {"other": -p.k * x.amount}))


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(ConfigError, match="depot-central-mm"):
        get_model("no-such-model")


def test_a_name_is_registered_once(original):
    from dataclasses import replace

    assert register(original) is original
    with pytest.raises(ConfigError, match="already registered"):
        register(replace(original, source="another"))
