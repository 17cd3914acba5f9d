"""Profile likelihood intervals."""

from dataclasses import replace

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.intervals.profiles import NEAR, RISE, profile
from tests.models.nlme.intervals.decay import fitted, refit


@pytest.mark.parametrize("name", ["k", "eta_a", "sigma2_additive"])
def test_the_objective_rises_by_384_at_both_bounds(name):
    found, data = fitted()
    own = profile(found, data, refit, name)
    assert own.problem == ""
    assert own.lower < own.estimate < own.upper
    by_value = {point.value: point for point in own.points}
    for bound in (own.lower, own.upper):
        assert by_value[bound].objective - found.objective == pytest.approx(RISE, abs=NEAR)
    values = [point.value for point in own.points]
    assert values == sorted(values)
    error = found.table[own.name][1]
    # 60 subjects: the profile is within a fifth of the symmetric interval's width
    assert own.upper - own.lower == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_bound_that_does_not_exist_is_not_found_and_said():
    found, data = fitted()

    def flat(model, own, held):  # an objective that does not rise above the estimate
        done = refit(model, own, held)
        above = model.typical_values["k"] > found.model.typical_values["k"]
        return replace(done, objective=found.objective + 0.5) if above else done

    own = profile(found, data, flat, "k")
    assert own.lower is not None
    assert own.upper is None
    assert "no upper bound: the objective rises by only 0.5" in own.problem


def test_a_lower_objective_than_the_fits_is_said():
    found, data = fitted()
    own = profile(replace(found, objective=found.objective + 6.0), data, refit, "k")
    assert "below the fit's, which is no minimum" in own.problem


def test_bounds_of_a_model_are_reached_and_said():
    found, data = fitted()
    k = found.model.parameters[0]
    near = replace(found.model, parameters=(replace(k, upper=1.01 * k.typical), *found.model.parameters[1:]))
    own = profile(replace(found, model=near), data, refit, "k")
    assert own.upper is None
    assert "no upper bound" in own.problem
    assert "bound" in own.problem.split("no upper bound")[1]


def test_what_cannot_be_held_is_refused():
    found, data = fitted()
    with pytest.raises(ConfigError, match=r"no estimate of that name.*'cl'"):
        profile(found, data, refit, "cl")
    omega = np.array(found.model.omega)
    omega[0, 1] = omega[1, 0] = 0.01
    full = replace(found.model, omega=tuple(map(tuple, omega.tolist())))
    with pytest.raises(ConfigError, match="covariances cannot be held alone"):
        profile(replace(found, model=full), data, refit, "eta_k")
