"""Hazards and their integrals, the likelihood of an event in its three forms, and what cannot be written."""

import numpy as np
import pytensor.tensor as pt
import pytest
from scipy.integrate import quad

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.kernels.graphs import simplify, value
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import risks_of, trace
from image_longitudinal.models.nlme.model.time_to_event import (
    Event,
    Gompertz,
    PiecewiseExponential,
    TimeToEvent,
    Weibull,
)

TIME = pt.dscalar("t")
HAZARDS = {
    "weibull": Weibull(scale=3.0, shape=1.7),
    "decreasing": Weibull(scale=3.0, shape=0.6),
    "constant": Weibull(scale=3.0),
    "gompertz": Gompertz(rate=0.2, growth=0.3),
    "gompertz-falling": Gompertz(rate=0.2, growth=-0.3),
    "gompertz-constant": Gompertz(rate=0.2, growth=0.0),
    "piecewise": PiecewiseExponential(cuts=(1.0, 2.5), rates=(0.1, 0.4, 0.2)),
}


def at(expression, t):
    """An expression of TIME at t, as the text of the compiled kernels computes it."""
    return value(simplify([pt.as_tensor_variable(expression, dtype="float64")])[0], {TIME: float(t)})


@pytest.mark.parametrize("own", HAZARDS.values(), ids=HAZARDS)
def test_the_cumulative_hazard_is_the_integral(own):
    for t in (0.0, 0.7, 2.5, 4.0):
        jumps = [cut for cut in (1.0, 2.5) if cut < t] or None
        wanted = quad(lambda u: at(own.hazard(TIME), u), 0.0, t, points=jumps)[0]
        # (quad's own error where the hazard is infinite at 0)
        assert at(own.cumulative(TIME), t) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize(
    ("y", "interval", "wanted"),
    [
        (1.0, -1.0, np.log(0.4) - 1.5),  # log h - H
        (0.0, -1.0, -1.5),
        (1.0, 2.0, np.log(np.exp(-0.6) - np.exp(-1.5))),
        (1.0, 0.0, np.log(np.exp(-0.6) - np.exp(-1.5))),
    ],
)
def test_an_event_has_the_density_of_what_is_known_of_it(y, interval, wanted):
    observed, covariate = pt.dscalar("y"), pt.dscalar("interval")
    number = {name: pt.dscalar(name) for name in ("hazard", "total", "before")}
    density = Event(**number, interval=covariate).log_density(observed)
    given = {observed: y, covariate: interval}
    given |= dict(zip(number.values(), (0.4, 1.5, 0.6), strict=True))
    assert value(simplify([density])[0], given) == pytest.approx(wanted, rel=1e-12)


def model(likelihood, **changed):
    given = {"states": ("size",), "rhs": lambda t, x, p: {"size": p.rate * x.size}, "covariates": ("dose",)} | changed
    return StructuralModel("tumour", parameters=("rate", "base"), likelihood=likelihood, endpoints=("death",), **given)


def test_an_integrated_hazard_adds_two_states_and_a_covariate():
    own = model(lambda t, x, p: TimeToEvent(hazard=p.base * x.size))
    system = trace(own)
    assert (len(system.states), len(system.derivatives), len(system.covariates)) == (3, 3, 2)
    assert own.states == ("size",)  # of a dose
    assert risks_of(own) == ((0, True, ()),)


def test_a_closed_form_knows_its_covariates():
    own = model(lambda t, x, p: TimeToEvent(baseline=Weibull(p.base), log_ratio=p.rate * p.dose))
    assert (len(trace(own).states), risks_of(own)) == (1, ((0, False, ("dose",)),))


def test_what_has_no_closed_form_is_refused():
    for likelihood in (
        lambda t, x, p: TimeToEvent(baseline=Weibull(p.base), log_ratio=p.rate * x.size),
        lambda t, x, p: TimeToEvent(baseline=Weibull(p.base * x.size)),
        lambda t, x, p: TimeToEvent(baseline=Weibull(p.base), log_ratio=p.rate * t),
    ):
        with pytest.raises(ConfigError, match=r"death.*which is integrated"):
            trace(model(likelihood))
    with pytest.raises(ConfigError, match="one of hazard and baseline"):
        TimeToEvent()
    with pytest.raises(ConfigError, match="log_ratio without baseline"):
        TimeToEvent(hazard=1.0, log_ratio=1.0)
    with pytest.raises(ConfigError, match="one rate more"):
        PiecewiseExponential(cuts=(1.0, 0.5), rates=(1.0, 1.0, 1.0))
