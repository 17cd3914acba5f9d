"""Direct effects: a sigmoid Emax response to a concentration, which is a covariate or follows an oral dose."""

from collections.abc import Mapping
from types import SimpleNamespace

from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import Expression, StructuralModel
from image_longitudinal.models.nlme.model.symbolic import maximum


def _response(concentration: Expression, p: SimpleNamespace) -> Expression:
    ratio = maximum(concentration / p.ec50, 1e-30) ** p.hill  # (its derivative by h does not exist at 0)
    return p.e0 + p.emax * ratio / (1.0 + ratio)


def _rhs(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Expression]:
    absorption = p.ka * x.depot
    return {"depot": -absorption, "central": absorption - p.cl / p.v * x.central}


EFFECT = (Parameter("e0", 10.0), Parameter("emax", 40.0), Parameter("ec50", 2.0), Parameter("hill", 1.5, random=False))
OMEGA3 = tuple(tuple(0.09 if i == j else 0.0 for j in range(3)) for i in range(3))  # 30 % between subjects
OMEGA5 = tuple(tuple(0.09 if i == j else 0.0 for j in range(5)) for i in range(5))

MODELS = (
    PopulationModel(
        name="emax",  # of the covariate ``concentration``
        structural=StructuralModel(
            name="emax",
            states=(),
            parameters=("e0", "emax", "ec50", "hill"),
            rhs=lambda t, x, p: {},
            output=lambda t, x, p: _response(p.concentration, p),
            covariates=("concentration",),
        ),
        parameters=EFFECT,
        omega=OMEGA3,
        residual=ResidualError("additive", additive=2.0),
        design=Design(times=(0.0,), doses=()),
        units={"time": "h", "amount": "mg", "outcome": "units of the response"},
    ),
    PopulationModel(
        name="pk-emax",  # concentration and response of an oral dose, two endpoints
        structural=StructuralModel(
            name="pk-emax",
            states=("depot", "central"),
            parameters=("ka", "cl", "v", "e0", "emax", "ec50", "hill"),
            rhs=_rhs,
            output=lambda t, x, p: {"concentration": x.central / p.v, "response": _response(x.central / p.v, p)},
            endpoints=("concentration", "response"),
        ),
        parameters=(Parameter("ka", 1.0, random=False), Parameter("cl", 2.0), Parameter("v", 20.0), *EFFECT),
        omega=OMEGA5,
        residual=ResidualError("proportional", proportional=0.1),
        other_residuals=(ResidualError("additive", additive=2.0),),
        design=Design(times=(0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0), doses=(Dose(0.0, 100.0, "depot"),)),
        units={"time": "h", "amount": "mg", "outcome": "mg/L, units of the response"},
    ),
)
