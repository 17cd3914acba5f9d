"""fit.json: the summary of a fit for programs."""

import json
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from image_longitudinal.core.config import Section
from image_longitudinal.core.files import write_atomically

NAME, RESULTS, DRAWS = "fit.json", "fit.nc", "posterior.nc"
EBES, REPORT = "ebes.parquet", "report.html"


class ParameterEstimate(Section):
    """An estimate on its natural scale (nuts: posterior mean and standard deviation); None if it does not exist."""

    estimate: float | None
    standard_error: float | None


class FitSummary(Section):
    """A fit, or draws by NUTS (without objective, condition number, shrinkage and evaluations)."""

    key: str  # digest of the FitSpec
    model: str
    method: str
    converged: bool
    message: str
    objective: float | None = None
    condition_number: float | None = None
    estimates: dict[str, ParameterEstimate]
    shrinkage: dict[str, float | None] = Field({})
    evaluations: int | None = None
    subjects: int
    observations: int
    subjects_fitted: int
    searches_not_converged: int = 0

    def write(self, folder: Path) -> None:
        """Write fit.json."""
        write_atomically(folder / NAME, (json.dumps(self.model_dump(), indent=1) + "\n").encode())

    def lines(self) -> list[str]:
        """Message and estimates as text."""
        objective = "" if self.objective is None else f"; objective {self.objective:.3f}"
        label = self.method if self.converged else f"NOT CONVERGED ({self.method})"
        lines = [f"{label}: {self.message}{objective}"]
        for name, row in self.estimates.items():
            error = "" if row.standard_error is None else f"  ± {row.standard_error:.3g}"
            value = "–" if row.estimate is None else f"{row.estimate:.5g}"
            lines.append(f"  {name:32} {value:<12}{error}")
        if self.searches_not_converged:
            lines.append(f"  {self.searches_not_converged} of {self.subjects} individual searches did not converge")
        return lines


def read_summary(folder: Path) -> FitSummary | None:
    """The summary of a finished fit; None without a readable one."""
    try:
        return FitSummary.model_validate_json((folder / NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def finite(value: float) -> float | None:
    """The number, or None (JSON's null) if it is infinite or undefined."""
    return float(value) if np.isfinite(value) else None
