"""Oral and intravenous kinetics, and direct and indirect responses to the concentration.

A bolus or an infusion is a dose into ``central``, an oral dose one into ``depot``. Typical values are of the size of a
small molecule in an adult (L, h, mg); replace them with your own.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import Equations, Expression, StructuralModel
from image_longitudinal.models.nlme.model.symbolic import maximum

States = Mapping[str, Expression]
TIMES = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0)
PROPORTIONAL_ERROR = ResidualError("proportional", proportional=0.1)
RESPONSE = ResidualError("additive", additive=2.0)


def _one(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> States:
    absorption = p.ka * x.depot
    return {"depot": -absorption, "central": absorption - p.cl / p.v * x.central}


def _two(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> States:
    absorption = p.ka * x.depot
    exchange = p.q / p.v * x.central - p.q / p.v2 * x.peripheral
    central = absorption - p.cl / p.v * x.central - exchange
    return {"depot": -absorption, "central": central, "peripheral": exchange}


def _saturable(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> States:
    absorption = p.ka * x.depot
    concentration = x.central / p.v
    return {"depot": -absorption, "central": absorption - p.vmax * concentration / (p.km + concentration)}


def _original(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> States:
    absorption = p.ka * x.depot
    elimination = p.imax * x.central / (p.ic50 + x.central)
    return {"depot": -absorption, "central": absorption - elimination}


def _indirect(on_production: bool, sign: float) -> Equations:
    """A response is produced at rate kin = kout · base and lost at rate kout; the drug changes one of the two."""

    def rhs(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> States:
        concentration = x.central / p.v
        change = 1.0 + sign * p.emax * concentration / (p.ec50 + concentration)
        production, loss = p.kout * p.base, p.kout * x.response
        return {
            "depot": -p.ka * x.depot,
            "central": p.ka * x.depot - p.cl / p.v * x.central,
            "response": production * change - loss if on_production else production - loss * change,
        }

    return rhs


def _concentration(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Expression:
    return x.central / p.v


def _emax(concentration: Expression, p: SimpleNamespace) -> Expression:
    """Sigmoid response to a concentration."""
    ratio = maximum(concentration / p.ec50, 1e-30) ** p.hill  # (its derivative by h does not exist at 0)
    return p.e0 + p.emax * ratio / (1.0 + ratio)


def _model(
    name: str, states: str, rhs: Equations, parameters: tuple[Parameter, ...], output: Any = _concentration, *,
    residual: ResidualError = PROPORTIONAL_ERROR, times: tuple[float, ...] = TIMES, outcome: str = "mg/L",
    others: tuple[ResidualError, ...] = (), source: str = "", **structural: Any,
) -> PopulationModel:  # fmt: skip
    """A model with 30 % variability between subjects, of an oral dose of 100 mg if it has ``states``."""
    k = sum(parameter.random for parameter in parameters)
    names = tuple(parameter.name for parameter in parameters)
    return PopulationModel(
        name=name,
        structural=StructuralModel(name, tuple(states.split()), names, rhs, output, **structural),
        parameters=parameters,
        omega=tuple(tuple(0.09 if i == j else 0.0 for j in range(k)) for i in range(k)),
        residual=residual,
        other_residuals=others,
        design=Design(times, (Dose(0.0, 100.0, "depot"),) if states else ()),
        units={"time": "h", "amount": "mg", "outcome": outcome},
        source=source,
    )


def _indirect_response(number: int, on_production: bool, inhibits: bool) -> PopulationModel:
    """Models I-IV of Dayneka, Garg & Jusko 1993 (J Pharmacokinet Biopharm 21:457) after an oral dose.

    The drug inhibits (I, II) or stimulates (III, IV) the production (I, III) or the loss (II, IV) of the response.
    """
    effect = Parameter("emax", 0.8, "logit-normal") if inhibits else Parameter("emax", 2.0)
    response = (Parameter("base", 50.0), Parameter("kout", 0.2), effect, Parameter("ec50", 1.0, random=False))
    return _model(
        f"indirect-response-{number}", "depot central response", _indirect(on_production, -1.0 if inhibits else 1.0),
        (FIXED_KA, CL, V, *response), lambda t, x, p: x.response, initial=lambda p: {"response": p.base},
        residual=RESPONSE, times=(0.0, 2.0, 4.0, 8.0, 12.0, 24.0, 48.0), outcome="units of the response",
        source="doi 10.1007/BF01061691",
    )  # fmt: skip


KA, FIXED_KA = Parameter("ka", 1.0), Parameter("ka", 1.0, random=False)
CL, V = Parameter("cl", 2.0), Parameter("v", 20.0)
EFFECT = (Parameter("e0", 10.0), Parameter("emax", 40.0), Parameter("ec50", 2.0), Parameter("hill", 1.5, random=False))

ORIGINAL = PopulationModel(
    name="depot-central-mm",
    structural=StructuralModel(
        name="depot-central-mm",
        states=("depot", "central"),
        parameters=("ka", "imax", "ic50"),
        rhs=_original,
        output=lambda t, x, p: x.central,
        kernel="image_longitudinal.models.nlme.kernels.depot_central",
    ),
    parameters=(KA, Parameter("imax", 2.1), Parameter("ic50", 0.4)),
    omega=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    residual=ResidualError("additive", additive=0.01),
    design=Design(times=tuple(0.5 * i for i in range(21)), doses=(Dose(0.0, 1.0, "depot"),)),
    units={"time": "unit of time", "amount": "dose", "outcome": "dose"},
    source="arXiv 2410.16177",
)
EMAX = _model(
    "emax", "", lambda t, x, p: {}, EFFECT, lambda t, x, p: _emax(p.concentration, p),
    covariates=("concentration",), residual=RESPONSE, times=(0.0,), outcome="units of the response",
)  # fmt: skip
PK_EMAX = _model(  # concentration and response of an oral dose, two endpoints
    "pk-emax", "depot central", _one, (FIXED_KA, CL, V, *EFFECT),
    lambda t, x, p: {"concentration": x.central / p.v, "response": _emax(x.central / p.v, p)},
    endpoints=("concentration", "response"), endpoint_compartments=(2, 3), others=(RESPONSE,),
    outcome="mg/L, units of the response",
)  # fmt: skip
MODELS = (
    ORIGINAL,
    _model("one-compartment", "depot central", _one, (KA, CL, V)),
    _model(
        "two-compartment", "depot central peripheral", _two, (KA, CL, V, Parameter("q", 3.0), Parameter("v2", 40.0))
    ),
    _model("one-compartment-mm", "depot central", _saturable, (KA, Parameter("vmax", 10.0), Parameter("km", 2.0), V)),
    _indirect_response(1, on_production=True, inhibits=True),
    _indirect_response(2, on_production=False, inhibits=True),
    _indirect_response(3, on_production=True, inhibits=False),
    _indirect_response(4, on_production=False, inhibits=False),
    EMAX,
    PK_EMAX,
)
