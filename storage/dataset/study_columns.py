"""What a study design adds to the tables: columns of arms, sites and covariates, and the tables in ``truth/``.

``truth/`` is apart from the other tables: it holds what only a scorer may see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import pyarrow as pa

POTENTIAL, EFFECTS, PROPENSITY = "truth/potential_outcomes", "truth/effects", "truth/propensity"
TRUTH: Final = (POTENTIAL, EFFECTS, PROPENSITY)
TRUTH_DESCRIPTIONS = MappingProxyType(
    {
        POTENTIAL: "Outcomes of every subject under every arm; those of the arm taken are the observed ones",
        EFFECTS: "Noise-free summaries of every subject under every arm, and the individual effects against the first",
        PROPENSITY: "Probability of every arm, by which the arm of a subject was drawn",
    }
)
FUNCTIONALS: Final = ("outcome", "area", "slope")


def column(name: str, kind: pa.DataType, unit: str, description: str, *, nullable: bool = False) -> pa.Field:
    """A column with its unit and description in the metadata."""
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "description": description})


@dataclass(frozen=True)
class StudyColumns:
    """What decides the columns: names of arms, covariates, parameters with an effect; sites; whether c is drawn."""

    arms: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    sites: bool = False
    confounder: bool = False

    @property
    def truth(self) -> tuple[str, ...]:
        """The tables in ``truth/``."""
        return TRUTH if self.arms else ()

    def of_subjects(self) -> list[pa.Field]:
        """Columns of the table ``subjects``."""
        site = [column("site", pa.int8(), "1", "number of the site, from 0")] if self.sites else []
        return [*self.of_observations(), *site]

    def of_observations(self) -> list[pa.Field]:
        """Columns of the table ``observations``: what a fit may use."""
        arm = [column("arm", pa.int8(), "1", "number of the arm, from 0: " + ", ".join(self.arms))] if self.arms else []
        return [*arm, *(column(name, pa.float64(), "1", "covariate") for name in self.covariates)]

    def of_truth(self, table: str, times: Sequence[float], unit: str) -> list[pa.Field]:
        """Columns of a table in ``truth/`` between the identity and the split; ``unit`` of outcomes."""
        arm = column("arm", pa.int8(), "1", "number of the arm, from 0")
        if table == POTENTIAL:
            seen = "outcome under the arm"
            return [arm, *(column(f"dv_{i}", pa.float32(), unit, f"{seen}, visit {i}") for i in range(len(times)))]
        if table == EFFECTS:
            values = [column(name, pa.float64(), "1", "noise-free summary under the arm") for name in FUNCTIONALS]
            values += [column(f"effect_{name}", pa.float64(), "1", "minus that in arm 0") for name in FUNCTIONALS]
            values += [column(f"tau_{name}", pa.float64(), "1", "what the arm adds to it") for name in self.effects]
            return [arm, *values]
        own = [column("confounder", pa.float64(), "1", "c, of which the arm depends")] if self.confounder else []
        return [
            *own,
            *(column(f"propensity_{name}", pa.float64(), "1", "probability of the arm") for name in self.arms),
        ]


NO_STUDY: Final = StudyColumns()
