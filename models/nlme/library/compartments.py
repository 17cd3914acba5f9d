"""One- and two-compartment models with first-order absorption, and Michaelis-Menten elimination.

A bolus or an infusion is a dose into ``central``, an oral dose one into ``depot``. Typical values are of the size of a
small molecule in an adult (L, h, mg); replace them with your own.
"""

from collections.abc import Mapping
from types import SimpleNamespace

from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import Equations, Expression, StructuralModel

UNITS = {"time": "h", "amount": "mg", "outcome": "mg/L"}
DESIGN = Design(times=(0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0), doses=(Dose(0.0, 100.0, "depot"),))


def _one(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Expression]:
    absorption = p.ka * x.depot
    return {"depot": -absorption, "central": absorption - p.cl / p.v * x.central}


def _two(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Expression]:
    absorption = p.ka * x.depot
    exchange = p.q / p.v * x.central - p.q / p.v2 * x.peripheral
    return {"depot": -absorption, "central": absorption - p.cl / p.v * x.central - exchange, "peripheral": exchange}


def _saturable(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Expression]:
    absorption = p.ka * x.depot
    concentration = x.central / p.v
    return {"depot": -absorption, "central": absorption - p.vmax * concentration / (p.km + concentration)}


def _concentration(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Expression:
    return x.central / p.v


def _model(name: str, states: tuple[str, ...], rhs: Equations, parameters: tuple[Parameter, ...]) -> PopulationModel:
    k = sum(parameter.random for parameter in parameters)
    return PopulationModel(
        name=name,
        structural=StructuralModel(name, states, tuple(p.name for p in parameters), rhs, _concentration),
        parameters=parameters,
        omega=tuple(tuple(0.09 if i == j else 0.0 for j in range(k)) for i in range(k)),  # 30 % between subjects
        residual=ResidualError("proportional", proportional=0.1),
        design=DESIGN,
        units=UNITS,
    )


KA, CL, V = Parameter("ka", 1.0), Parameter("cl", 2.0), Parameter("v", 20.0)

MODELS = (
    _model("one-compartment", ("depot", "central"), _one, (KA, CL, V)),
    _model(
        "two-compartment",
        ("depot", "central", "peripheral"),
        _two,
        (KA, CL, V, Parameter("q", 3.0), Parameter("v2", 40.0)),
    ),
    _model(
        "one-compartment-mm", ("depot", "central"), _saturable, (KA, Parameter("vmax", 10.0), Parameter("km", 2.0), V)
    ),
)
