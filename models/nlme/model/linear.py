"""Linear compartments stated by their kind: one, two or three, intravenous or oral."""

from types import SimpleNamespace
from typing import Any

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.structural import Expression, Output, StructuralModel

CLEARANCES, RATES = "clearances", "rates"
PARAMETERS = {  # of one compartment, and what the second and the third add
    CLEARANCES: (("cl", "v"), ("q", "v2"), ("q3", "v3")),
    RATES: (("k", "v"), ("k12", "k21"), ("k13", "k31")),
}
PERIPHERAL = ("peripheral", "peripheral2")


def linear_compartments(
    compartments: int = 1, *, oral: bool = False, parameters: str = CLEARANCES, name: str = "",
    output: Output | None = None, **structural: Any,
) -> StructuralModel:  # fmt: skip
    """A model of one, two or three linear compartments, which is solved in closed form.

    Its states are ``depot`` (if ``oral``: absorption at the rate ka), ``central``, ``peripheral`` and ``peripheral2``.
    A bolus or an infusion is a dose into ``central``.

    Args:
        compartments: 1, 2 or 3.
        oral: whether there is a depot.
        parameters: ``clearances`` (cl, v, then q, v2, then q3, v3) or ``rates`` (k, v, then k12, k21, then k13, k31);
            ka comes before them.
        name: of the model; by its kind if empty.
        output: (t, x, p) → the observed outputs; the concentration ``x.central / p.v`` if None.
        structural: further arguments of :class:`StructuralModel`, such as ``dosing``, ``covariates`` and ``endpoints``;
            ``parameters`` that the dosing or the output need are given as ``more=("lag",)``.

    Raises:
        ConfigError: another number of compartments or kind of parameters.
    """
    if compartments not in (1, 2, 3) or parameters not in PARAMETERS:
        expected = f"1, 2 or 3 compartments, parameters {' or '.join(PARAMETERS)}"
        raise ConfigError("unknown linear compartments", expected=expected, got=f"{compartments}, {parameters!r}")
    more = tuple(structural.pop("more", ()))
    own = tuple(name for pair in PARAMETERS[parameters][:compartments] for name in pair)
    outer = PERIPHERAL[: compartments - 1]

    def rhs(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> dict[str, Expression]:
        if parameters == CLEARANCES:
            loss = p.cl / p.v
            exchange = [(getattr(p, q) / p.v, getattr(p, q) / getattr(p, v)) for q, v in (("q", "v2"), ("q3", "v3"))
                        if q in own]  # fmt: skip
        else:
            loss = p.k
            exchange = [(getattr(p, there), getattr(p, back)) for there, back in (("k12", "k21"), ("k13", "k31"))
                        if there in own]  # fmt: skip
        change = {"central": -loss * x.central}
        for state, (there, back) in zip(outer, exchange, strict=True):
            flow = there * x.central - back * getattr(x, state)
            change |= {"central": change["central"] - flow, state: flow}
        if oral:
            absorption = p.ka * x.depot
            change |= {"depot": -absorption, "central": change["central"] + absorption}
        return change

    return StructuralModel(
        name or f"{compartments}-compartment{'-oral' if oral else ''}",
        (*(["depot"] if oral else []), "central", *outer),
        (*(["ka"] if oral else []), *own, *more),
        rhs,
        (lambda t, x, p: x.central / p.v) if output is None else output,
        **structural,
    )
