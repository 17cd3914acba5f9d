"""Indirect response models I-IV (Dayneka, Garg & Jusko 1993, J Pharmacokinet Biopharm 21:457) after an oral dose.

A response is produced at rate kin = kout · base and lost at rate kout. The drug inhibits (I, II) or stimulates
(III, IV) its production (I, III) or its loss (II, IV).
"""

from collections.abc import Mapping
from types import SimpleNamespace

from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import Equations, Expression, StructuralModel


def _equations(on_production: bool, sign: float) -> Equations:
    def rhs(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Expression]:
        concentration = x.central / p.v
        change = 1.0 + sign * p.emax * concentration / (p.ec50 + concentration)
        production, loss = p.kout * p.base, p.kout * x.response
        return {
            "depot": -p.ka * x.depot,
            "central": p.ka * x.depot - p.cl / p.v * x.central,
            "response": production * change - loss if on_production else production - loss * change,
        }

    return rhs


def _model(number: str, on_production: bool, inhibits: bool) -> PopulationModel:
    name = f"indirect-response-{number}"
    effect = Parameter("emax", 0.8, "logit-normal") if inhibits else Parameter("emax", 2.0)
    parameters = (
        Parameter("ka", 1.0, random=False),
        Parameter("cl", 2.0),
        Parameter("v", 20.0),
        Parameter("base", 50.0),
        Parameter("kout", 0.2),
        effect,
        Parameter("ec50", 1.0, random=False),
    )
    return PopulationModel(
        name=name,
        structural=StructuralModel(
            name,
            ("depot", "central", "response"),
            tuple(p.name for p in parameters),
            _equations(on_production, -1.0 if inhibits else 1.0),
            lambda t, x, p: x.response,
            lambda p: {"response": p.base},
        ),
        parameters=parameters,
        omega=tuple(tuple(0.09 if i == j else 0.0 for j in range(5)) for i in range(5)),  # 30 % between subjects
        residual=ResidualError("additive", additive=2.0),
        design=Design(times=(0.0, 2.0, 4.0, 8.0, 12.0, 24.0, 48.0), doses=(Dose(0.0, 100.0, "depot"),)),
        units={"time": "h", "amount": "mg", "outcome": "units of the response"},
        source="doi 10.1007/BF01061691",
    )


MODELS = (
    _model("1", on_production=True, inhibits=True),
    _model("2", on_production=False, inhibits=True),
    _model("3", on_production=True, inhibits=False),
    _model("4", on_production=False, inhibits=False),
)
