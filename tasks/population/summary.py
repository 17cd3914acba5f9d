"""fit.json: the summary of a fit for programs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, ValidationError

from image_longitudinal.core.config import Section
from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.nlme.estimation.parameter_table import FitStatistics, ParameterRow
from image_longitudinal.tasks.population.image_summary import ImageSummary
from image_longitudinal.tasks.population.interval_summary import (
    BootstrapSummary,
    ProfileSummary,
    SirSummary,
    interval_cells,
    interval_lines,
)

NAME, RESULTS, DRAWS = "fit.json", "fit.nc", "posterior.nc"
EBES, REPORT = "ebes.parquet", "report.html"
BOOTSTRAP, SIR = "bootstrap.parquet", "sir.parquet"
IMAGE_PREDICTOR, IMAGE_EFFECTS = "image-predictor.safetensors", "image-effects.parquet"
LATER = ("bootstrap", "sir", "profiles", "images")  # sections that are made after a fit


class ParameterEstimate(Section):
    """An estimate on its natural scale (nuts: posterior mean and standard deviation); None for what does not exist.

    Fields as in :class:`models.nlme.estimation.parameter_table.ParameterRow`.
    """

    estimate: float | None
    standard_error: float | None
    kind: str = ""
    relative_error: float | None = None
    lower: float | None = None
    upper: float | None = None
    scale: str = ""
    cv_percent: float | None = None
    correlation: float | None = None
    sd: float | None = None

    @classmethod
    def of(cls, row: ParameterRow) -> Self:
        """From a row of the table."""
        values = {name: finite(value) if isinstance(value, float) else value for name, value in asdict(row).items()}
        return cls(**{name: value for name, value in values.items() if name != "name"})


class EtaBarTest(Section):
    """Mean of a random effect's empirical Bayes estimates, its standard error, p of "it is 0"."""

    mean: float | None
    standard_error: float | None
    p: float | None


class Figures(Section):
    """Figures of a whole fit, as in :class:`models.nlme.estimation.parameter_table.FitStatistics`."""

    objective_with_constant: float | None
    aic: float | None
    bic: float | None
    parameters: int
    eigenvalues: tuple[float, ...]
    epsilon_shrinkage: dict[str, float | None]
    eta_bar: dict[str, EtaBarTest]
    correlations: tuple[tuple[float | None, ...], ...]  # of the estimates, in their order

    @classmethod
    def of(cls, found: FitStatistics) -> Self:
        """From the statistics of a fit."""
        return cls(
            objective_with_constant=finite(found.with_constant),
            aic=finite(found.aic),
            bic=finite(found.bic),
            parameters=found.parameters,
            eigenvalues=found.eigenvalues,
            epsilon_shrinkage={name: finite(value) for name, value in found.epsilon_shrinkage.items()},
            eta_bar={
                name: EtaBarTest(mean=finite(bar.mean), standard_error=finite(bar.standard_error), p=finite(bar.p))
                for name, bar in found.eta_bar.items()
            },
            correlations=tuple(tuple(map(finite, row)) for row in found.correlations.tolist()),
        )


class SamplingSummary(Section):
    """How well the likelihood by sampling is known; see :class:`models.nlme.estimation.fit.Sampling`."""

    objective_error: float | None  # Monte Carlo standard error of the objective
    fewest_draws: int
    most_draws: int
    largest_pareto_k: float | None
    unreliable: tuple[str, ...]  # subjects with a Pareto k above 0.7


class FitSummary(Section):
    """A fit, or draws by NUTS (without objective, condition number, shrinkage, evaluations and figures)."""

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
    figures: Figures | None = None
    seconds: float | None = None  # run time of the fit, standard errors included
    truth: dict[str, float] = Field({})  # true values, of a data set with a study design
    sampling: SamplingSummary | None = None  # imp and saem
    content: str | None = None  # digest of the table, to see which fits are of the same data
    bootstrap: BootstrapSummary | None = None
    sir: SirSummary | None = None
    profiles: dict[str, ProfileSummary] = Field({})
    images: ImageSummary | None = None  # what images explain

    def write(self, folder: Path) -> None:
        """Write fit.json."""
        content = self.model_dump(exclude={name for name in ("truth", *LATER) if not getattr(self, name)})
        write_atomically(folder / NAME, (json.dumps(content, indent=1) + "\n").encode())

    def lines(self) -> list[str]:
        """Message and estimates as text."""
        objective = "" if self.objective is None else f"; objective {self.objective:.3f}"
        label = self.method if self.converged else f"NOT CONVERGED ({self.method})"
        lines = [f"{label}: {self.message}{objective}"]
        if own := self.figures:
            facts = [f"with constant {_text(own.objective_with_constant, '.3f')}", f"AIC {_text(own.aic, '.2f')}"]
            facts += [f"BIC {_text(own.bic, '.2f')}", f"condition number {_text(self.condition_number, '.3g')}"]
            lines.append("  " + ", ".join([*facts, f"{_text(self.seconds, '.1f')} s"]))
        header = ("", "estimate", "SE", "RSE %", "95 % interval", "CV % or r")
        rows = [header, *(_cells(name, row) for name, row in self.estimates.items())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  " + "  ".join(cells).rstrip())
        known = [f"{name} {value:.5g}" for name, value in self.truth.items()]
        lines += [f"  true: {', '.join(known)}"] if known else []
        if own and self.shrinkage:
            for name, shrinkage in self.shrinkage.items():
                bar = own.eta_bar[name]
                tested = f"mean of the estimates {_text(bar.mean, '.3g')} (p {_text(bar.p, '.2g')})"
                lines.append(f"  {name}: shrinkage {_text(shrinkage, '.1%')}, {tested}")
            for name, shrinkage in own.epsilon_shrinkage.items():
                lines.append(f"  residual error of {name}: shrinkage {_text(shrinkage, '.1%')}")
        if self.sampling and self.sampling.unreliable:
            lines.append(f"  unreliable (Pareto k above 0.7): {_listed(self.sampling.unreliable)}")
        if self.searches_not_converged:
            lines.append(f"  {self.searches_not_converged} of {self.subjects} individual searches did not converge")
        lines += [f"  {line}" for line in self.interval_lines()]
        return lines + ([f"  {line}" for line in self.images.lines()] if self.images else [])

    def interval_lines(self) -> list[str]:
        """The intervals that were made after the fit, as text."""
        if not (self.bootstrap or self.sir or self.profiles):
            return []
        cells = interval_cells(self.estimates, self.bootstrap, self.sir, self.profiles)
        notes = [own.text() for own in (self.bootstrap, self.sir) if own]
        notes += [f"profile of {name}: {own.problem}" for name, own in self.profiles.items() if own.problem]
        return [*interval_lines(cells), *notes]


def _cells(name: str, row: ParameterEstimate) -> tuple[str, ...]:
    """A row of the printed table."""
    interval = "" if row.lower is None or row.upper is None else f"{row.lower:.4g} – {row.upper:.4g}"
    cv = "" if row.cv_percent is None else f"{row.cv_percent:.3g} %"
    spread = cv if row.correlation is None else f"r {row.correlation:.2f}"
    error, relative = _text(row.standard_error, ".3g"), _text(row.relative_error, ".3g")
    return name, _text(row.estimate, ".5g"), error, relative, interval, spread


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _listed(names: tuple[str, ...], most: int = 10) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"subjects {', '.join(names[:most])}{more}"


def read_summary(folder: Path) -> FitSummary | None:
    """The summary of a finished fit; None without a readable one."""
    try:
        return FitSummary.model_validate_json((folder / NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def finite(value: float) -> float | None:
    """The number, or None (JSON's null) if it is infinite or undefined."""
    return float(value) if np.isfinite(value) else None
