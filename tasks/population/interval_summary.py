"""The sections of fit.json about intervals that are made after a fit: bootstrap, SIR, profile likelihood."""

from collections.abc import Iterable
from typing import Self

import numpy as np
from pydantic import Field

from image_longitudinal.core.config import Section
from image_longitudinal.models.nlme.estimation.pareto import UNRELIABLE
from image_longitudinal.models.nlme.intervals.bootstrap import FEWEST, BootstrapRow, Replicate, problems
from image_longitudinal.models.nlme.intervals.profiles import ProfileInterval
from image_longitudinal.models.nlme.intervals.sir import Sir


class IntervalEstimate(Section):
    """Standard error and percentiles 2.5, 50 and 97.5 of an estimate; None for what does not exist.

    ``bias``: of a bootstrap, mean of the replicates minus the estimate.
    """

    standard_error: float | None
    lower: float | None
    median: float | None
    upper: float | None
    bias: float | None = None


class BootstrapSummary(Section):
    """A bootstrap of a fit.

    ``key``: digest of what decides a replicate; ``replicates`` were made, of which ``counted`` converged; ``failures``:
    how many others, by reason (bootstrap.parquet names each). ``strata``: the columns within which subjects were drawn.
    """

    key: str
    replicates: int
    counted: int
    failures: dict[str, int] = Field({})
    strata: tuple[str, ...] = ()
    estimates: dict[str, IntervalEstimate]

    @classmethod
    def of(
        cls, key: str, strata: tuple[str, ...], replicates: list[Replicate], rows: Iterable[BootstrapRow]
    ) -> Self:  # fmt: skip
        """From the replicates and what they say of each estimate."""
        return cls(
            key=key,
            replicates=len(replicates),
            counted=sum(not one.problem for one in replicates),
            failures=problems(replicates),
            strata=strata,
            estimates={
                row.name: IntervalEstimate(
                    standard_error=row.standard_error, lower=row.lower, median=row.median, upper=row.upper,
                    bias=row.bias,
                )
                for row in rows
            },
        )  # fmt: skip

    def text(self) -> str:
        """How it went, in one sentence."""
        failed = [f"{count} x {reason}" for reason, count in self.failures.items()]
        within = f" within {', '.join(self.strata)}" if self.strata else ""
        few = f"; no intervals from fewer than {FEWEST}" if self.counted < FEWEST else ""
        lost = f"; not counted: {', '.join(failed)}" if failed else ""
        return f"Bootstrap: {self.counted:,} of {self.replicates:,} replicates{within}{few}{lost}"


class SirSummary(Section):
    """Sampling importance resampling: figures of the last iteration, and effective draws of all."""

    key: str
    samples: int
    effective: float
    pareto_k: float | None
    inflation: float
    effective_by_iteration: tuple[float, ...]
    reliable: bool
    estimates: dict[str, IntervalEstimate]

    @classmethod
    def of(cls, key: str, found: Sir) -> Self:
        """From the draws."""
        last = found.iterations[-1]
        columns = (found.standard_errors, found.lower, found.median, found.upper)
        rows = zip(found.names, *(column.tolist() for column in columns), strict=True)
        return cls(
            key=key,
            samples=len(found.weight),
            effective=last.effective,
            pareto_k=last.pareto_k if np.isfinite(last.pareto_k) else None,
            inflation=last.inflation,
            effective_by_iteration=tuple(one.effective for one in found.iterations),
            reliable=found.reliable,
            estimates={
                name: IntervalEstimate(standard_error=error, lower=lower, median=median, upper=upper)
                for name, error, lower, median, upper in rows
            },
        )

    def text(self) -> str:
        """How it went, in one sentence."""
        own = f"SIR: {self.effective:.0f} effective of {self.samples:,} draws"
        shape = "" if self.pareto_k is None else f", Pareto k {self.pareto_k:.2f}"
        rounds = f" after {len(self.effective_by_iteration)} iterations"
        doubt = "" if self.reliable else f"; UNRELIABLE (k above {UNRELIABLE}): take more draws, or a bootstrap"
        return f"{own}{shape}{rounds}{doubt}"


class ProfileSummary(Section):
    """A 95 % profile likelihood interval; a bound that was not found is None, and ``problem`` says why.

    ``points``: value, objective, and whether the estimation of the others converged.
    """

    lower: float | None
    upper: float | None
    problem: str
    points: tuple[tuple[float, float, bool], ...]

    @classmethod
    def of(cls, found: ProfileInterval) -> Self:
        """From the interval."""
        points = tuple((one.value, one.objective, one.converged) for one in found.points)
        return cls(lower=found.lower, upper=found.upper, problem=found.problem, points=points)


class IntervalCells(Section):
    """One estimate's intervals as text, for a table."""

    name: str
    bootstrap_error: str = ""
    bootstrap: str = ""
    sir_error: str = ""
    sir: str = ""
    profile: str = ""


def interval_cells(
    names: Iterable[str], bootstrap: BootstrapSummary | None, sir: SirSummary | None,
    profiles: dict[str, ProfileSummary],
) -> list[IntervalCells]:  # fmt: skip
    """A row for each estimate, with what there is."""
    rows = []
    for name in names:
        own = bootstrap.estimates.get(name) if bootstrap else None
        drawn = sir.estimates.get(name) if sir else None
        profiled = profiles.get(name)
        rows.append(
            IntervalCells(
                name=name,
                bootstrap_error=_number(own.standard_error, ".3g") if own else "",
                bootstrap=_range(own.lower, own.upper) if own else "",
                sir_error=_number(drawn.standard_error, ".3g") if drawn else "",
                sir=_range(drawn.lower, drawn.upper) if drawn else "",
                profile=_range(profiled.lower, profiled.upper) if profiled else "",
            )
        )
    return rows


def interval_lines(rows: list[IntervalCells]) -> list[str]:
    """The rows as an aligned table with a header, without columns that are empty."""
    header = IntervalCells(
        name="",
        bootstrap_error="bootstrap SE",
        bootstrap="95 %",
        sir_error="SIR SE",
        sir="95 %",
        profile="profile 95 %",
    )
    table = [list(row.model_dump().values()) for row in (header, *rows)]
    kept = [0, *(at for at in range(1, len(table[0])) if any(row[at] for row in table[1:]))]
    widths = [max(len(row[at]) for row in table) for at in kept]
    lines = []
    for row in table:
        first, *others = (row[at] for at in kept)
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _range(lower: float | None, upper: float | None) -> str:
    if lower is None and upper is None:
        return "–"
    return f"{_number(lower, '.4g', 'not found')} – {_number(upper, '.4g', 'not found')}"


def _number(value: float | None, form: str, missing: str = "–") -> str:
    return missing if value is None else format(value, form)
