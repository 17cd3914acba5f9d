"""Commands that choose among population models: ``covariates`` and ``compare``."""

from pathlib import Path
from typing import Annotated

import typer

from image_longitudinal.cli.console import aligned, command_line, note, print_result, show
from image_longitudinal.cli.options import Overwrite, Threads, address
from image_longitudinal.cli.population import (
    Block,
    Covariates,
    DecimalOption,
    Diagonal,
    Endpoints,
    Fixed,
    Level,
    ModelFileOption,
    PopulationModelOption,
    Seed,
    Split,
    Start,
    check_inputs,
    named,
    structure,
)
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.files import write_atomically
from image_longitudinal.core.outputs import check_new_file, check_new_folder, expanded
from image_longitudinal.tasks.engine.prefect_setup import run_or_call


def covariates_command(
    table: Annotated[
        str,
        typer.Argument(
            help="CSV or Parquet table, or the address of a published data set.", parser=address, metavar="TABLE"
        ),
    ],
    output: Annotated[str, typer.Option(help="Folder for the search.", parser=expanded, metavar="FOLDER")],
    candidate: Annotated[
        list[str],
        typer.Option(
            help="PARAMETERS:COVARIATES:KINDS, e.g. cl,v:weight:power; repeatable. Kinds: power, exponential, linear, "
            "categorical."
        ),
    ],
    model: PopulationModelOption = "depot-central-mm",
    method: Annotated[str, typer.Option(help="fo, foce, focei, laplace, agq, imp or saem.")] = "focei",
    forward: Annotated[float, typer.Option(help="A relation is added if its p is below this.")] = 0.05,
    backward: Annotated[float, typer.Option(help="A relation is removed if its p is this or above.")] = 0.01,
    level: Level = None,
    split: Split = None,
    covariates: Covariates = "locf",
    endpoint: Endpoints = None,
    decimal: DecimalOption = ".",
    subjects: Annotated[int | None, typer.Option(min=1, help="Fit the first N subjects.")] = None,
    start: Start = None,
    fixed: Fixed = None,
    diagonal: Diagonal = False,
    block: Block = None,
    seed: Seed = 1,
    model_file: ModelFileOption = None,
    workers: Threads = 2,
    overwrite: Overwrite = False,
) -> None:
    """Search relations of parameters with covariates step by step (SCM), and write the model found as a file."""
    from image_longitudinal.tasks.population.options import CovariateOptions, options_of

    options = options_of(CovariateOptions, {
        "table": table, "model": model, "model_file": model_file, "method": method.lower(), "candidates": candidate,
        "forward": forward, "backward": backward, "level": level, "split": split, "covariates": covariates,
        "endpoints": named(endpoint), "decimal": decimal, "subjects": subjects, "start": named(start),
        "fixed": fixed or (), "omega": structure(diagonal, block or ()), "seed": seed,
    })  # fmt: skip
    check_inputs(model, model_file, table)
    note(f"search covariates of {model} in {table} by {method}")
    with starting_prefect(server=False):
        from image_longitudinal.flows.search_covariates import search_covariates
        from image_longitudinal.tasks.population.covariates import FILES, MODEL
    check_new_folder(Path(output), FILES, overwrite)
    summary = run_or_call(search_covariates, options, output, workers, overwrite)
    show("\n".join(summary.lines()), search=summary)
    words = ["fit", table, "--model", summary.name, "--model-file", Path(output, MODEL), "--method", method]
    words += ["--diagonal"] if diagonal else [word for own in block or () for word in ("--block", own)]
    print_result(Path(output), command_line(*words, "--output", f"{output}-fit"))


def compare_command(
    fits: Annotated[list[str], typer.Argument(help="Folders of fits; the first is the reference.", metavar="FIT...")],
    output: Annotated[
        str | None, typer.Option(help="Also write the table as CSV.", parser=expanded, metavar="FILE")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare fits of the same table: objective, AIC, BIC, and likelihood ratio tests of nested models."""
    from image_longitudinal.tasks.population.comparison import compare_fits

    if output is not None:
        check_new_file(Path(output), overwrite)
    found = compare_fits([expanded(fit) for fit in fits])
    rows = found.rows()
    show("\n".join([aligned(rows, left=2), *found.notes]), comparison=found)
    if output is not None:
        import csv
        import io

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [list(found.fits[0].model_dump()), *(list(one.model_dump().values()) for one in found.fits)]
        )
        write_atomically(Path(output), text.getvalue())
        print_result(output)
