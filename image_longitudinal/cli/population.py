"""Commands ``simulate`` and ``fit``: simulate a table from a population model, and fit a model to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from image_longitudinal.cli.console import print_result
from image_longitudinal.cli.options import Threads
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.errors import ConfigError

METHOD_HELP = (
    "fo, foce, focei, laplace; imp: maximum likelihood, without the bias of the others where a subject's data leave "
    "its effects uncertain, as with depot-central-mm; nuts: full Bayes."
)
Model = Annotated[str, typer.Option(help="Name of the population model.")]
ModelFile = Annotated[Path | None, typer.Option(help="Python file that registers the model.")]
Values = Annotated[list[str] | None, typer.Option("--set", help="Value over the model's, e.g. imax=1.1, omega=0.2.")]
Seed = Annotated[int, typer.Option(min=0)]


def simulate(
    output: Annotated[Path, typer.Argument(help="CSV or Parquet file to write.")],
    model: Model = "depot-central-mm",
    subjects: Annotated[int, typer.Option(min=1)] = 100,
    times: Annotated[str | None, typer.Option(help="Observation times, e.g. 0,0.5,1,2; else the model's.")] = None,
    dose: Annotated[
        list[str] | None, typer.Option(help="TIME:AMOUNT[:COMPARTMENT[:DURATION]]; several times; else the model's.")
    ] = None,
    seed: Seed = 1,
    values: Values = None,
    truth: Annotated[Path | None, typer.Option(help="File for the true random effects and parameters.")] = None,
    covariate: Annotated[
        list[str] | None, typer.Option(help="NAME=LOW:HIGH, drawn uniformly for each subject, or NAME=VALUE.")
    ] = None,
    jitter: Annotated[float, typer.Option(min=0, help="Visits are up to this much earlier or later.")] = 0.0,
    missed: Annotated[float, typer.Option(min=0, max=1, help="Probability of missing a visit.")] = 0.0,
    dropout: Annotated[float, typer.Option(min=0, max=1, help="Probability of leaving before the last visit.")] = 0.0,
    model_file: ModelFile = None,
    workers: Threads = 2,
) -> None:
    """Simulate a trial from a population model, as a table for this or any other program."""
    at = tuple(_number(part, "time") for part in times.split(",")) if times else None
    typer.echo(f"simulate {subjects:,} subjects of {model} into {output}")
    with starting_prefect():
        from image_longitudinal.flows.simulate_table import simulate_table
    path = simulate_table(
        model, str(output), subjects, at, tuple(dose or ()), seed, _named(values), str(truth) if truth else None,
        str(model_file) if model_file else None, workers, _ranges(covariate), jitter, missed, dropout,
    )  # fmt: skip
    print_result(path, f"image-longitudinal fit {path} --model {model} --output {Path(path).with_suffix('')}-fit")


def fit(
    table: Annotated[str, typer.Argument(help="CSV or Parquet table, or the address of a published data set.")],
    output: Annotated[Path, typer.Option(help="Folder for results and report.")],
    model: Model = "depot-central-mm",
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "focei",
    level: Annotated[float | None, typer.Option(help="Association level of a published data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a published data set; all without one.")] = None,
    subjects: Annotated[
        int | None, typer.Option(min=1, help="Fit only the first N subjects; EBEs are for all.")
    ] = None,
    start: Annotated[list[str] | None, typer.Option(help="Start value, e.g. imax=1.1, omega=0.2.")] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(help="Parameter to hold; omega and residual hold those."),
    ] = None,
    diagonal: Annotated[bool, typer.Option("--diagonal", help="No covariances of random effects.")] = False,
    draws: Annotated[int, typer.Option(min=50, help="Per subject for imp, per chain for nuts.")] = 300,
    seed: Seed = 1,
    model_file: ModelFile = None,
    workers: Threads = 2,
) -> None:
    """Fit a population model to a table, keep the results and write a report."""
    methods = ("fo", "foce", "focei", "laplace", "imp", "nuts")
    if method.lower() not in methods:
        raise ConfigError("unknown method", expected=", ".join(methods), got=repr(method))
    typer.echo(f"fit {model} to {table} by {method}")
    chosen: Any = method.lower()
    with starting_prefect():
        from image_longitudinal.flows.fit_table import fit_table
    summary: dict[str, Any] = fit_table(
        table, model, str(output), chosen, level, split, subjects, _named(start), tuple(fixed or ()), diagonal,
        draws, seed, str(model_file) if model_file else None, workers,
    )  # fmt: skip
    typer.echo(format_estimates(summary))
    print_result(output / "report.html", f"open {output / 'report.html'}")


def format_estimates(summary: dict[str, Any]) -> str:
    """The estimates of a fit.json as lines for the terminal."""
    lines = [f"{summary['method']}: {summary['message']}"]
    if not summary["converged"]:
        lines = [f"NOT CONVERGED ({summary['method']}): {summary['message']}"]
    if summary.get("objective") is not None:
        lines[0] += f"; objective {summary['objective']:.3f}"
    for name, row in summary["estimates"].items():
        error = "" if row["standard_error"] is None else f"  ± {row['standard_error']:.3g}"
        lines.append(f"  {name:32} {row['estimate']:<12.5g}{error}")
    if summary["searches_not_converged"]:
        lines.append(
            f"  {summary['searches_not_converged']} of {summary['subjects']} individual searches did not converge"
        )
    return "\n".join(lines)


def _named(values: list[str] | None) -> dict[str, float]:
    """name=1.5 → {name: 1.5}."""
    named = {}
    for text in values or ():
        name, found, value = text.partition("=")
        if not found:
            raise ConfigError("a value needs a name", expected="name=number", got=repr(text))
        named[name.strip()] = _number(value, name)
    return named


def _ranges(values: list[str] | None) -> dict[str, tuple[float, float]]:
    """weight=50:90 → {weight: (50, 90)}; weight=70 → {weight: (70, 70)}."""
    ranges = {}
    for text in values or ():
        name, _, value = text.partition("=")
        low, _, high = value.partition(":")
        ranges[name.strip()] = (_number(low, f"covariate {name}"), _number(high or low, f"covariate {name}"))
    return ranges


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{what} is not a number", got=repr(text)) from error
