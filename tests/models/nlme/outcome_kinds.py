"""Small models of counts, levels and events that several tests share."""

import numpy as np

from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.likelihoods import Ordinal, Poisson
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import LIKELIHOOD, ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.time_to_event import TimeToEvent, Weibull

COUNTS = PopulationModel(  # a count with a trend, and a level, of the same subjects
    name="counts-and-levels",
    structural=StructuralModel(
        name="counts-and-levels",
        states=(),
        parameters=("base", "trend", "first", "between"),
        likelihood=lambda t, x, p: {
            "count": Poisson(rate=p.base * s.exp(p.trend * t)),
            "level": Ordinal(predictor=s.log(p.base), logit_cutpoints=(p.first, p.first + p.between), lowest=1),
        },
        endpoints=("count", "level"),
    ),
    parameters=(
        Parameter("base", 2.0),
        Parameter("trend", -0.2, "normal", random=False),
        Parameter("first", 0.0, "normal", random=False),
        Parameter("between", 1.5, random=False),
    ),
    omega=((0.3,),),
    residual=LIKELIHOOD,
    other_residuals=(LIKELIHOOD,),
    design=Design((0.0, 1.0, 2.0, 3.0), ()),
)


def survival(integrated: bool) -> PopulationModel:
    """Weibull times of an event with a log-normal frailty and a treatment: in closed form, or integrated."""

    def likelihood(t, x, p):
        baseline, ratio = Weibull(scale=p.scale, shape=p.shape), p.effect * p.treated
        if integrated:
            return TimeToEvent(hazard=baseline.hazard(t) * s.exp(ratio))
        return TimeToEvent(baseline=baseline, log_ratio=ratio)

    return PopulationModel(
        name=f"survival-{integrated}",
        structural=StructuralModel(
            name=f"survival-{integrated}",
            states=(),
            parameters=("scale", "shape", "effect"),
            covariates=("treated",),
            likelihood=likelihood,
            endpoints=("event",),
        ),
        parameters=(
            Parameter("scale", 5.0),
            Parameter("shape", 1.5, random=False),
            Parameter("effect", -0.7, "normal", random=False),
        ),
        omega=((0.2,),),
        residual=LIKELIHOOD,
        design=Design((0.0, 8.0), ()),
    )


CLOSED, INTEGRATED = survival(False), survival(True)

JOINT = PopulationModel(  # a marker that grows, and an event whose hazard follows it
    name="joint",
    structural=StructuralModel(
        name="joint",
        states=("marker",),
        parameters=("start", "growth", "base", "link"),
        rhs=lambda t, x, p: {"marker": p.growth},
        initial=lambda p: {"marker": p.start},
        output=lambda t, x, p: x.marker,
        likelihood=lambda t, x, p: {"event": TimeToEvent(hazard=p.base * s.exp(p.link * x.marker))},
        endpoints=("marker", "event"),
    ),
    parameters=(
        Parameter("start", 1.0, "normal"),
        Parameter("growth", 0.3, "normal"),
        Parameter("base", 0.02, random=False),
        Parameter("link", 0.8, "normal", random=False),
    ),
    omega=((0.2, 0.0), (0.0, 0.02)),
    residual=ResidualError("additive", additive=0.3),
    other_residuals=(LIKELIHOOD,),
    design=Design((0.0, 1.0, 2.0, 3.0, 4.0), ()),
)


def weibull(t: np.ndarray) -> np.ndarray:
    """Cumulative hazard of :func:`survival` without random effect and treatment."""
    return (np.asarray(t) / 5.0) ** 1.5
