"""First-order absorption from a depot, Michaelis-Menten elimination from the central compartment."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

from models.nlme.dosing import Dose
from models.nlme.population import Design, Parameter, PopulationModel
from models.nlme.residual import ResidualError
from models.nlme.structural import Expression, StructuralModel


def _rhs(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Expression]:
    absorption = p.ka * x.depot
    elimination = p.imax * x.central / (p.ic50 + x.central)
    return {"depot": -absorption, "central": absorption - elimination}


MODEL = PopulationModel(
    name="depot-central-mm",
    structural=StructuralModel(
        name="depot-central-mm",
        states=("depot", "central"),
        parameters=("ka", "imax", "ic50"),
        rhs=_rhs,
        output=lambda t, x, p: x.central,
        kernel="models.nlme.kernels.depot_central",
    ),
    parameters=(Parameter("ka", 1.0), Parameter("imax", 2.1), Parameter("ic50", 0.4)),
    omega=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    residual=ResidualError("additive", additive=0.01),
    design=Design(times=tuple(0.5 * i for i in range(21)), doses=(Dose(0.0, 1.0, "depot"),)),
    units={"time": "unit of time", "amount": "dose", "outcome": "dose"},
    source="arXiv 2410.16177",
)
