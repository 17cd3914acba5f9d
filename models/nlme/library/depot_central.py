"""First-order absorption from a depot, Michaelis-Menten elimination from the central compartment."""

from collections.abc import Mapping
from types import SimpleNamespace

from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import Expression, StructuralModel


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
        kernel="image_longitudinal.models.nlme.kernels.depot_central",
    ),
    parameters=(Parameter("ka", 1.0), Parameter("imax", 2.1), Parameter("ic50", 0.4)),
    omega=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    residual=ResidualError("additive", additive=0.01),
    design=Design(times=tuple(0.5 * i for i in range(21)), doses=(Dose(0.0, 1.0, "depot"),)),
    units={"time": "unit of time", "amount": "dose", "outcome": "dose"},
    source="arXiv 2410.16177",
)
