"""The tables of an evaluation, written as markdown, LaTeX and CSV."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from image_longitudinal.core.escapes import for_markdown
from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.evaluation.bootstrap import Estimate
from image_longitudinal.models.evaluation.design_checks import Check
from image_longitudinal.models.evaluation.predictors import IMAGE_PREDICTORS, LABELS, REFERENCES
from image_longitudinal.models.evaluation.records import LevelScores, NullCheck


class Table(NamedTuple):
    """A table: its name in file names, its title, columns and rows of text."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    @property
    def records(self) -> list[dict[str, str]]:
        """The rows as dictionaries, for a Prefect table."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def markdown(self) -> str:
        """As a markdown table under its title."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(for_markdown(cell) for cell in line) + " |" for line in lines)
        return f"**{for_markdown(self.title)}**\n\n{body}\n"

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def latex(self) -> str:
        """As a LaTeX table with booktabs rules."""
        head = " & ".join(map(_escaped, self.columns))
        body = "\n".join(" & ".join(map(_escaped, row)) + r" \\" for row in self.rows)
        return (
            f"\\begin{{table}}\n\\centering\n\\caption{{{_escaped(self.title)}}}\n\\label{{tab:{self.name}}}\n"
            f"\\begin{{tabular}}{{{'l' * 2}{'r' * (len(self.columns) - 2)}}}\n\\toprule\n{head} \\\\\n\\midrule\n"
            f"{body}\n"
            "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
        )

    def write(self, folder: Path) -> None:
        """Write it in the three formats, each file whole or not at all."""
        for file, text in zip(file_names(self.name), (self.markdown(), self.latex(), self.csv()), strict=True):
            write_atomically(folder / file, text)

    def csv(self) -> str:
        """As CSV."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()


def file_names(table: str) -> list[str]:
    """The files of a table: markdown, LaTeX, CSV."""
    return [f"{table}.{suffix}" for suffix in ("md", "tex", "csv")]


def effect_table(levels: Sequence[LevelScores]) -> Table:
    """Predicted against true random effects and against empirical Bayes estimates."""
    rows = []
    for level in levels:
        rows.append((f"{level.level:g}", "E[η | z], the realised ceiling", "", _text(level.ceiling), *[""] * 5))
        for source, label in LABELS.items():
            if source not in level.effects:
                continue
            one = level.effects[source]
            of_ceilings = (one.of_nominal, one.of_realised, one.of_oracle) if source not in REFERENCES else (None,) * 3
            rows.append(
                (f"{level.level:g}", label, _text(one.mse), _text(one.r2), *map(_percent, of_ceilings),
                 _text(one.mse_to_modes), _text(one.r2_to_modes))
            )  # fmt: skip
    columns = (
        "ρ²", "source", "MSE to true η", "R² to true η", "% of nominal ceiling", "% of realised ceiling", "% of oracle",
        "MSE to EBEs", "R² to EBEs",
    )  # fmt: skip
    return Table("effects", "Random effects: test subjects, 95 % bootstrap intervals over subjects", columns, rows)


def each_effect_table(levels: Sequence[LevelScores], names: Sequence[str]) -> Table:
    """R² of each random effect."""
    rows = [
        (f"{level.level:g}", label, *map(_text, level.effects[source].r2_each))
        for level in levels
        for source, label in LABELS.items()
        if source in level.effects and source not in ("average", "random")
    ]
    return Table("each-effect", "R² to each true random effect", ("ρ²", "source", *names), rows)


def outcome_table(levels: Sequence[LevelScores]) -> Table:
    """Outcomes at each source's random effects, in both protocols."""
    rows = [
        (f"{level.level:g}", label, _text(one.mse), _text(one.nll_observed), _text(one.nll_simulated))
        for level in levels
        for source, label in LABELS.items()
        if (one := level.outcomes.get(source))
    ]
    columns = (
        "ρ²", "source", "outcome MSE", "NLL of observed outcomes at η", "NLL of outcomes simulated from η at true η",
    )  # fmt: skip
    return Table(
        "outcomes", "Outcomes of test subjects; negative log-likelihoods per subject, all visits", columns, rows
    )


def forecast_table(levels: Sequence[LevelScores]) -> Table:
    """Forecasts of later outcomes from the first visits, with and without the image."""
    rows = [
        (
            f"{level.level:g}", str(one.visits), _text(one.outcomes_with_image), _text(one.outcomes_without),
            _percent(one.gain), _text(one.effects_with_image), _text(one.effects_without),
        )
        for level in levels
        for one in level.forecasts
    ]  # fmt: skip
    columns = (
        "ρ²", "visits seen", "MSE of later outcomes, image and visits", "visits alone", "% less error with the image",
        "MSE of η, image and visits", "MSE of η, visits alone",
    )  # fmt: skip
    return Table("forecasts", "Forecasts of the visits after the last that any forecast sees", columns, rows)


def calibration_table(levels: Sequence[LevelScores]) -> Table:
    """Coverage of some regions of the image-informed model's N(g(x), Ω_r)."""
    rows = [
        (f"{level.level:g}", f"{100 * one.nominal:g} %", *map(_percent, one.each), _percent(one.joint))
        for level in levels
        for one in level.calibration
        if one.nominal in (0.5, 0.8, 0.9, 0.95)
    ]
    width = max((len(row) for row in rows), default=3) - 3
    columns = ("ρ²", "nominal", *(f"% inside, η{i + 1}" for i in range(width)), "% inside, jointly")
    return Table("calibration", "Calibration of (b): true effects inside its predicted regions", columns, rows)


def population_table(levels: Sequence[LevelScores]) -> Table:
    """Population parameters per level: true, by FOCE, and those used with their standard errors; shrinkage."""
    rows = []
    for level, found in ((level.level, level.population) for level in levels if level.population):
        for name, true in found.true.items():
            value, error = found.estimates.get(name, (true, math.nan))
            foce = f"{found.foce[name]:.5g}" if found.foce else ""
            distance = f"{(value - true) / error:+.1f}" if error > 0 else ""
            error_text = "" if math.isnan(error) else f"{error:.2g}"
            rows.append((f"{level:g}", name, f"{true:.5g}", foce, f"{value:.5g}", error_text, distance))
        for name, shrinkage in found.shrinkage.items():
            rows.append((f"{level:g}", f"shrinkage of {name}", "", "", f"{100 * shrinkage:.1f} %", "", ""))
    columns = ("ρ²", "parameter", "true", "FOCE", "used", "SE", "(used - true) / SE")
    return Table("population", "Population parameters: true and fitted", columns, rows)


def check_table(checks: Sequence[Check]) -> Table:
    """The checks against the design."""
    rows = [
        (
            "all" if check.level is None else f"{check.level:g}", f"{check.group}: {check.name}",
            _text(Estimate(check.value, check.low, check.high), 4), f"{check.expected:g}", f"{check.p:.2g}",
            "pass" if check.passed else "FAIL",
        )
        for check in checks
    ]  # fmt: skip
    columns = ("ρ²", "statement of the design", "found [95 %]", "expected", "p", "verdict")
    return Table("checks", "Design against truth, judged together at 1 %", columns, rows)


def null_table(null: NullCheck) -> Table:
    """The predictors on images assigned at random."""
    rows = [
        (f"{null.level:g}", LABELS[name], _text(one, 4), "nothing found" if one.low <= 0 else "SIGNAL FOUND")
        for name, one in null.r2.items()
    ]
    columns = ("ρ²", "source", "R² [99 %]", "verdict")
    return Table("null", "Null check: images assigned to subjects at random", columns, rows)


def headline_table(levels: Sequence[LevelScores]) -> Table:
    """Percent of the realised ceiling per predictor and level; a dash if the ceiling does not differ from 0."""

    def cell(level: LevelScores, source: str) -> str:
        return f"{100 * level.effects[source].of_realised.value:.1f}" if level.ceiling.low > 0 else "–"

    sources = [source for source in IMAGE_PREDICTORS if all(source in level.effects for level in levels)]
    rows = [(LABELS[source], *(cell(level, source) for level in levels)) for source in sources]
    columns = ("% of the realised ceiling at ρ² =", *(f"{level.level:g}" for level in levels))
    return Table("headline", "Percent of the realised ceiling", columns, rows)


def _text(one: Estimate | None, digits: int | None = None) -> str:
    if one is None:
        return ""
    digits = digits or (4 if abs(one.value) < 100 else 1)
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"


def _percent(one: Estimate | None) -> str:
    return "" if one is None else _text(one.scaled(100), 1)


_LATEX = {
    "\\": r"\textbackslash{}", "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "²": r"\textsuperscript{2}", "ρ": r"$\rho$", "η": r"$\eta$", "σ": r"$\sigma$", "Ω": r"$\Omega$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"$\mid$", "<": r"$<$", ">": r"$>$", "–": "--",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
