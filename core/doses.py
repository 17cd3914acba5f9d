"""The dose, which several sections of the configuration hold."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from image_longitudinal.core.section import Section

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class DoseConfig(Section):
    """One dose, the same for every subject who gets it."""

    time: float = Field(0.0, ge=0, description="When it is given, in the model's unit of time.")
    amt: float = Field(1.0, gt=0, description="Amount, in the model's unit.")
    cmt: Positive = Field(1, description="Number of the compartment that gets it, from 1.")
    rate: float = Field(0.0, ge=0, description="Infusion rate, amount per unit of time; 0: bolus.")
    addl: int = Field(0, ge=0, description="Number of additional doses.")
    ii: float = Field(0.0, ge=0, description="Time between additional doses.")

    @model_validator(mode="after")
    def _addl_needs_ii(self) -> Self:
        if self.addl and not self.ii:
            raise ValueError("additional doses (addl) need the time between them (ii)")
        return self


def single_doses(doses: tuple[DoseConfig, ...]) -> list[tuple[float, float, int, float]]:
    """Time, amount, compartment and rate of every single dose, by time."""
    single = [(d.time + again * d.ii, d.amt, d.cmt, d.rate) for d in doses for again in range(d.addl + 1)]
    return sorted(single, key=lambda dose: dose[0])
