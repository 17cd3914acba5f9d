"""The evaluation's tables: rows of plain values, written as markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from image_longitudinal.core.files import write_atomically

Level = Mapping[str, Any]  # the figures of one association level, of image_longitudinal.models.evaluation.summary

SOURCES = {
    "submission": "this submission",
    "true": "true effects",
    "regression": "(a) regression on EBEs",
    "resnet": "(a) ResNet18 on EBEs, end to end",
    "informed": "(b) image-informed model",
    "one_step": "(c) one-step correction",
    "oracle": "(d) oracle, trained on true effects",
    "ebe": "empirical Bayes (sees the outcomes)",
    "average": "average subject",
    "random": "random subject",
}


class Table(NamedTuple):
    """A table: its name for files, what it shows, its columns and rows of text."""

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
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"**{self.title}**\n\n{body}\n"

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
        for suffix, text in (("md", self.markdown()), ("tex", self.latex()), ("csv", self.csv())):
            write_atomically(folder / f"{self.name}.{suffix}", text)

    def csv(self) -> str:
        """As CSV."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()


def effect_table(levels: Sequence[Level]) -> Table:
    """Predicted against true random effects and against empirical Bayes estimates."""
    rows = []
    for level in levels:
        rows.append((_level(level), "E[η | z], the realised ceiling", "", _text(level["ceiling"]), *[""] * 5))
        for source in SOURCES:
            if source not in level["effects"]:
                continue
            one = level["effects"][source]
            shares = [
                _percent(one[name]) if _has_share(source) else "" for name in ("of_nominal", "of_realised", "of_oracle")
            ]
            rows.append(
                (_level(level), SOURCES[source], _text(one["mse"]), _text(one["r2"]), *shares,
                 _text(one["mse_to_modes"]), _text(one["r2_to_modes"]))
            )  # fmt: skip
    columns = (
        "ρ²", "source", "MSE to true η", "R² to true η", "% of nominal ceiling", "% of realised ceiling", "% of oracle",
        "MSE to EBEs", "R² to EBEs",
    )  # fmt: skip
    return Table("effects", "Random effects: test subjects, 95 % bootstrap intervals over subjects", columns, rows)


def each_effect_table(levels: Sequence[Level], names: Sequence[str]) -> Table:
    """R² of each random effect."""
    rows = [
        (_level(level), label, *map(_text, level["effects"][source]["r2_each"]))
        for level in levels
        for source, label in SOURCES.items()
        if source in level["effects"] and source not in ("average", "random")
    ]
    return Table("each-effect", "R² to each true random effect", ("ρ²", "source", *names), rows)


def outcome_table(levels: Sequence[Level]) -> Table:
    """Outcomes at each source's effects, in both protocols."""
    rows = []
    for level in levels:
        for source, label in SOURCES.items():
            if source in level["outcomes"]:
                one = level["outcomes"][source]
                figures = (one["mse"], one["nll_observed"], one["nll_simulated"])
                rows.append((_level(level), label, *map(_text, figures)))
    columns = (
        "ρ²",
        "source",
        "outcome MSE",
        "NLL of observed outcomes at η",
        "NLL of outcomes simulated from η at true η",
    )
    return Table(
        "outcomes", "Outcomes of test subjects; negative log-likelihoods per subject, all visits", columns, rows
    )


def forecast_table(levels: Sequence[Level]) -> Table:
    """Later outcomes foretold with the first visits, with the image and without."""
    rows = [
        (
            _level(level), str(one["visits"]), _text(one["outcomes_with_image"]), _text(one["outcomes_without"]),
            _percent(one["gain"]), _text(one["effects_with_image"]), _text(one["effects_without"]),
        )
        for level in levels
        for one in level.get("forecasts", ())
    ]  # fmt: skip
    columns = (
        "ρ²", "visits seen", "MSE of later outcomes, image and visits", "visits alone", "% less error with the image",
        "MSE of η, image and visits", "MSE of η, visits alone",
    )  # fmt: skip
    return Table("forecasts", "Forecasts of the visits after the last that any forecast sees", columns, rows)


def calibration_table(levels: Sequence[Level], shares: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> Table:
    """Share of true effects inside the regions of the image-informed model's N(g(x), Ω_r)."""
    rows = [
        (_level(level), f"{100 * one['nominal']:g} %", *map(_percent, one["each"]), _percent(one["joint"]))
        for level in levels
        for one in level.get("calibration", ())
        if one["nominal"] in shares
    ]
    width = max((len(row) for row in rows), default=3) - 3
    columns = ("ρ²", "nominal", *(f"% inside, η{i + 1}" for i in range(width)), "% inside, jointly")
    return Table("calibration", "Calibration of (b): true effects inside its predicted regions", columns, rows)


def population_table(levels: Sequence[Level]) -> Table:
    """Population parameters per level: true, by FOCE, and those used with their standard errors; shrinkage."""
    rows = []
    for level in levels:
        found = level["population"]
        for name, true in found["true"].items():
            value, error = found["estimates"].get(name, (true, float("nan")))
            known = error == error
            far = f"{(value - true) / error:+.1f}" if known and error > 0 else ""
            foce = f"{found['foce'][name]:.5g}" if found["foce"] else ""
            error_text = f"{error:.2g}" if known else ""
            rows.append((_level(level), name, f"{true:.5g}", foce, f"{value:.5g}", error_text, far))
        for name, share in found.get("shrinkage", {}).items():
            rows.append((_level(level), f"shrinkage of {name}", "", "", f"{100 * share:.1f} %", "", ""))
    columns = ("ρ²", "parameter", "true", "FOCE", "used", "SE", "(used - true) / SE")
    return Table("population", "Population parameters: true and fitted", columns, rows)


def check_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    """Design against truth."""
    rows = [
        (
            "all" if check["level"] is None else f"{check['level']:g}", f"{check['group']}: {check['name']}",
            f"{check['value']:.4f} [{check['low']:.4f}, {check['high']:.4f}]", f"{check['expected']:g}",
            f"{check['p']:.2g}", "pass" if check["passed"] else "FAIL",
        )
        for check in checks
    ]  # fmt: skip
    columns = ("ρ²", "what the design says", "found [95 %]", "expected", "p", "verdict")
    return Table("checks", "Design against truth, judged together at 1 %", columns, rows)


def null_table(null: Mapping[str, Any]) -> Table:
    """The shuffled association."""
    rows = [
        (
            f"{null['level']:g}", SOURCES[name], f"{one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]",
            "nothing found" if one["low"] <= 0 else "SIGNAL WHERE THERE IS NONE",
        )
        for name, one in null["r2"].items()
    ]  # fmt: skip
    return Table(
        "null", "Null check: images dealt to subjects at random", ("ρ²", "source", "R² [99 %]", "verdict"), rows
    )


def _has_share(source: str) -> bool:
    return source not in ("ebe", "average", "random")


def _level(level: Level) -> str:
    return f"{level['level']:g}"


def _text(value: Sequence[float] | None) -> str:
    if value is None:
        return ""
    digits = 4 if abs(value[0]) < 100 else 1
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*value, d=digits)


def _percent(value: Sequence[float] | None) -> str:
    return "" if value is None else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * one for one in value))


_LATEX = {
    "\\": r"\textbackslash{}", "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "²": r"\textsuperscript{2}", "ρ": r"$\rho$", "η": r"$\eta$", "σ": r"$\sigma$", "Ω": r"$\Omega$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"$\mid$", "<": r"$<$", ">": r"$>$", "–": "--",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
