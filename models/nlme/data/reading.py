"""What a person says about a table that the table does not say itself."""

from dataclasses import dataclass
from typing import Literal, get_args

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.text_files import Decimal

Interpolation = Literal["locf", "nocb", "linear"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class Reading:
    """How a table is read.

    Args:
        interpolation: of a covariate between its known rows: ``locf`` (the last value carried forward), ``nocb``
            (the next one carried backward) or ``linear``. Before the first and after the last value it is that value.
        endpoints: pairs of a model's endpoint and the value that its observations have in DVID (or YTYPE, OBSID), or
            in CMT where the table has no such column.
        decimal: the decimal mark of a text file.
        time_unit: of the model; dates and times of day become this unit.

    Raises:
        ConfigError: an unknown interpolation or decimal mark.
    """

    interpolation: Interpolation = "locf"
    endpoints: tuple[tuple[str, str], ...] = ()
    decimal: Decimal = "."
    time_unit: str = "h"

    def __post_init__(self) -> None:
        known: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("interpolation of covariates", self.interpolation, INTERPOLATIONS),
            ("decimal mark", self.decimal, get_args(Decimal)),
        )
        for what, value, allowed in known:
            if value not in allowed:
                raise ConfigError(f"unknown {what}", expected=" ".join(map(repr, allowed)), got=repr(value))
