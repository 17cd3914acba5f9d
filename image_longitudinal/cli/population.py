"""Commands for tables in NM-TRAN's columns: ``simulate`` and ``fit``."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from image_longitudinal.cli.console import command_line, note, opening, print_result, show
from image_longitudinal.cli.options import Overwrite, Threads, WorkspaceOption, address
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.errors import ConfigError, Problems
from image_longitudinal.core.outputs import check_new_file, expanded
from image_longitudinal.tasks.engine.prefect_setup import run_or_call

METHOD_HELP = (
    "fo, foce, focei, laplace; imp, saem, agq: maximum likelihood, without the bias of the others if individual data "
    "are sparse or allow several modes (agq: one mode), as with depot-central-mm; nuts: full Bayes."
)
PopulationModelOption = Annotated[str, typer.Option("--model", help="Name of the population model.")]
ModelFileOption = Annotated[
    str | None, typer.Option(help="Python file that registers the model.", parser=expanded, metavar="FILE")
]
TableFile = Annotated[str, typer.Argument(help="CSV or Parquet file to write.", parser=expanded, metavar="FILE")]
Covariates = Annotated[str, typer.Option(help="Covariates between rows: locf, nocb or linear.")]
DialectOption = Annotated[str, typer.Option(help="nonmem, nlmixr2, monolix or pumas.")]
Texts = list[str] | None
Endpoints = Annotated[
    Texts,
    typer.Option("--endpoint", help="NAME=VALUE of an endpoint's observations in DVID, or in CMT; repeatable."),
]
DecimalOption = Annotated[str, typer.Option(help="Decimal mark of a text file: . or a comma.")]
Seed = Annotated[int, typer.Option(min=0)]
Level = Annotated[float | None, typer.Option(help="Association level of a published data set.")]
Split = Annotated[str | None, typer.Option(help="Split of a published data set; all without one.")]
Start = Annotated[Texts, typer.Option(help="Start value, e.g. imax=1.1, omega=0.2.")]
Fixed = Annotated[Texts, typer.Option(help="Value to hold: a parameter, omega, residual, eta_ka.")]
Diagonal = Annotated[bool, typer.Option("--diagonal", help="No covariances of random effects.")]
Block = Annotated[
    Texts, typer.Option(help="Parameters whose random effects covary, e.g. cl,v; repeatable; others do not.")
]

ImageList = Annotated[
    str | None,
    typer.Option(
        help="CSV or Parquet file with an id and an image in each row; else names of files have ids.",
        parser=expanded, metavar="FILE",
    ),
]  # fmt: skip
IdColumn = Annotated[
    str | None, typer.Option(help="Column of ids of the list, which is in the folder if it is not named.")
]


def simulate_command(
    output: TableFile,
    model: PopulationModelOption = "depot-central-mm",
    subjects: Annotated[int, typer.Option(min=1)] = 100,
    times: Annotated[str | None, typer.Option(help="Observation times, e.g. 0,0.5,1,2; else the model's.")] = None,
    dose: Annotated[
        Texts, typer.Option(help="TIME:AMOUNT[:COMPARTMENT[:DURATION]]; repeatable; else the model's.")
    ] = None,
    seed: Seed = 1,
    values: Annotated[
        Texts, typer.Option("--set", help="Value in place of the model's, e.g. imax=1.1, omega=0.2.")
    ] = None,
    from_fit: Annotated[
        str | None,
        typer.Option("--from", help="Folder of a fit: simulate from its estimates.", parser=expanded, metavar="FOLDER"),
    ] = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="With --from: estimates drawn from their distribution, by the seed.")
    ] = False,
    truth: Annotated[
        str | None,
        typer.Option(help="File for the true random effects and parameters.", parser=expanded, metavar="FILE"),
    ] = None,
    covariate: Annotated[Texts, typer.Option(help="NAME=LOW:HIGH, uniform over subjects, or NAME=VALUE.")] = None,
    jitter: Annotated[float, typer.Option(min=0, help="Visits are up to this much earlier or later.")] = 0.0,
    missed: Annotated[float, typer.Option(min=0, max=1, help="Probability of missing a visit.")] = 0.0,
    dropout: Annotated[float, typer.Option(min=0, max=1, help="Probability of leaving before the last visit.")] = 0.0,
    events: Annotated[
        str | None,
        typer.Option(help="Table of subjects, doses, covariates, times; no design.", parser=expanded, metavar="FILE"),
    ] = None,
    covariates: Covariates = "locf",
    endpoint: Endpoints = None,
    decimal: DecimalOption = ".",
    dialect: DialectOption = "nonmem",
    model_file: ModelFileOption = None,
    workers: Threads = 2,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a trial from a population model, as a table for this or any other program."""
    from image_longitudinal.tasks.population.options import SimulateOptions, options_of

    # weight=50:90 → (50, 90), and weight=70 → (70, 70)
    ranges = {name: (value.split(":")[0], value.split(":", 1)[-1]) for name, value in named(covariate).items()}
    options = options_of(SimulateOptions, {
        "model": model, "model_file": model_file, "values": named(values), "seed": seed, "dialect": dialect,
        "fit": from_fit, "uncertainty": uncertainty,
        "subjects": subjects, "times": times.split(",") if times else None,
        "doses": dose or (), "covariate_ranges": ranges, "jitter": jitter, "missed": missed,
        "dropout": dropout, "events": events, "covariates": covariates, "endpoints": named(endpoint),
        "decimal": decimal,
    })  # fmt: skip
    source = f"the events of {events}" if events else f"{subjects:,} subjects"
    for path in (output, truth):
        if path is not None:
            check_new_file(Path(path), overwrite)
    check_inputs(model, model_file, events)
    note(f"simulate {source} with {f'the fit in {from_fit}' if from_fit else model} into {output}")
    with starting_prefect(server=False):
        from image_longitudinal.flows.simulate_table import simulate_table
    path = run_or_call(simulate_table, options, output, truth, workers, overwrite)
    if from_fit:
        print_result(path)
        return
    words = ["fit", path, "--model", model, *(["--model-file", model_file] if model_file else [])]
    print_result(path, command_line(*words, "--output", f"{Path(path).with_suffix('')}-fit"))


def fit_command(
    table: Annotated[
        str,
        typer.Argument(
            help="CSV or Parquet table, or the address of a published data set.", parser=address, metavar="TABLE"
        ),
    ],
    output: Annotated[str, typer.Option(help="Folder for results and report.", parser=expanded, metavar="FOLDER")],
    model: PopulationModelOption = "depot-central-mm",
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "focei",
    level: Level = None,
    split: Split = None,
    covariates: Covariates = "locf",
    endpoint: Endpoints = None,
    decimal: DecimalOption = ".",
    subjects: Annotated[int | None, typer.Option(min=1, help="Fit the first N subjects; EBEs are for all.")] = None,
    start: Start = None,
    fixed: Fixed = None,
    diagonal: Diagonal = False,
    block: Block = None,
    draws: Annotated[int, typer.Option(min=50, help="Per subject for imp and saem, per chain for nuts.")] = 300,
    order: Annotated[int, typer.Option(min=1, max=31, help="Nodes per random effect of agq (four at most).")] = 5,
    burn_in: Annotated[int, typer.Option(min=1, help="Iterations of saem that explore.")] = 200,
    smoothing: Annotated[int, typer.Option(min=1, help="Iterations of saem that are averaged.")] = 150,
    seed: Seed = 1,
    sdtab: Annotated[
        str | None, typer.Option(help="Also write sdtab.parquet or sdtab.csv: residuals and EBEs by observation.")
    ] = None,
    stratify: Annotated[
        Texts,
        typer.Option(
            help="Column of the table by which predictive checks are also made, and within which --bootstrap draws; "
            "repeatable."
        ),
    ] = None,
    bootstrap: Annotated[
        int | None, typer.Option(min=2, help="Intervals from so many replicates; the same command goes on.")
    ] = None,
    profile: Annotated[
        Texts, typer.Option(help="Estimates for a profile likelihood interval, e.g. cl,v,eta_cl; repeatable.")
    ] = None,
    sir: Annotated[
        int | None, typer.Option(min=100, help="Intervals by importance resampling, from so many draws an iteration.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Folder of pictures, Zarr array or data set: what images explain of the random effects.",
            parser=address, metavar="FOLDER",
        ),
    ] = None,
    image_list: ImageList = None,
    id_column: IdColumn = None,
    image_model: Annotated[
        str, typer.Option(help="linear in principal components, mlp: a network of these, cnn: a network of pixels.")
    ] = "linear",
    image_encoder: Annotated[
        str | None, typer.Option(help="Registered model whose encoder reads features, e.g. pretrained.")
    ] = None,
    image_learning: Annotated[
        str, typer.Option(help="likelihood, or two-step: regression on empirical Bayes estimates.")
    ] = "likelihood",
    permutations: Annotated[int, typer.Option(min=0, help="Of images over subjects, as a check.")] = 19,
    workspace: WorkspaceOption = "workspace",
    model_file: ModelFileOption = None,
    workers: Threads = 2,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Fit a population model to a table, save the results and write a report."""
    from image_longitudinal.tasks.population.options import FitOptions, options_of

    options = options_of(FitOptions, {
        "table": table, "model": model, "model_file": model_file, "method": method.lower(), "level": level,
        "split": split, "covariates": covariates, "subjects": subjects, "start": named(start), "fixed": fixed or (),
        "omega": structure(diagonal, block or ()), "draws": draws, "seed": seed, "endpoints": named(endpoint),
        "decimal": decimal, "sdtab": sdtab, "stratify": stratify or (), "order": order, "burn_in": burn_in,
        "smoothing": smoothing, "bootstrap": bootstrap, "sir": sir,
        "profile": [name for one in profile or () for name in listed(one)],
        "images": images, "image_list": image_list, "id_column": id_column, "image_model": image_model,
        "image_encoder": image_encoder, "image_learning": image_learning, "permutations": permutations,
        "workspace": workspace,
    })  # fmt: skip
    check_inputs(model, model_file, table, images)
    note(f"fit {model} to {table} by {method}")
    with starting_prefect(server=False):
        from image_longitudinal.flows.fit_table import fit_table
    summary, page = run_or_call(fit_table, options, output, workers, overwrite), Path(output, "report.html")
    show("\n".join(summary.lines()), fit=summary)
    print_result(page, opening(page))


def predict_command(
    fit: Annotated[str, typer.Argument(help="Folder of a fit with images.", parser=expanded, metavar="FIT")],
    images: Annotated[
        str, typer.Option(help="Pictures of new subjects, as for fit.", parser=address, metavar="FOLDER")
    ],
    output: Annotated[str, typer.Option(help="CSV or Parquet file to write.", parser=expanded, metavar="FILE")],
    table: Annotated[
        str | None, typer.Option(help="Table of their first visits, as for fit.", parser=expanded, metavar="TABLE")
    ] = None,
    visits: Annotated[int | None, typer.Option(min=1, help="Use the first N observations of each subject.")] = None,
    image_list: ImageList = None,
    id_column: IdColumn = None,
    covariates: Covariates = "locf",
    endpoint: Endpoints = None,
    decimal: DecimalOption = ".",
    workspace: WorkspaceOption = "workspace",
    model_file: ModelFileOption = None,
    workers: Threads = 2,
    overwrite: Overwrite = False,
) -> None:
    """Predict random effects and parameters of new subjects: by their images, and with first visits."""
    check_new_file(Path(output), overwrite)
    if not Path(fit).is_dir():
        raise ConfigError("no such fit", got=fit)
    check_inputs(None, model_file, table, images)
    with starting_prefect(server=False):
        from image_longitudinal.tasks.population.options import PredictOptions, options_of
        from image_longitudinal.tasks.population.prediction import predict_effects
    options = options_of(PredictOptions, {
        "fit": fit, "images": images, "table": table, "visits": visits, "image_list": image_list,
        "id_column": id_column, "covariates": covariates, "endpoints": named(endpoint), "decimal": decimal,
        "workspace": workspace, "model_file": model_file,
    })  # fmt: skip
    note(f"predict random effects by the fit in {fit}")
    print_result(predict_effects(options, output, workers))


def check_inputs(model: str | None, model_file: str | None, table: str | None, images: str | None = None) -> None:
    """Check what the command names, before Prefect and the engine are imported: model, its file, table, images.

    A model that comes with a file, or with a fit (None), is checked when that is read.

    Raises:
        ConfigError: no such model, file or folder.
    """
    from image_longitudinal.models.nlme.library import get_model

    problems = Problems()
    with problems.noting():
        if model_file is None:
            if model is not None:
                get_model(model)
        elif not Path(model_file).is_file():
            raise ConfigError("no such model file", where=model_file)
    with problems.noting():
        if table is not None and "://" not in table and not Path(table).exists():
            raise ConfigError("no such table", got=table)
    with problems.noting():
        if images is not None and "://" not in images and not Path(images).is_dir():
            raise ConfigError("no such folder of images", got=images)
    problems.require_none()


def structure(diagonal: bool, blocks: Sequence[str]) -> str:
    """The structure of Ω that the options ask for."""
    if diagonal and blocks:
        raise ConfigError("both --diagonal and --block", do="leave one of them out")
    return "diagonal" if diagonal else " ".join("".join(own.split()) for own in blocks) or "full"


def listed(text: str) -> list[str]:
    """Names between commas; a comma in brackets, as in omega(eta_cl,eta_cl), separates none."""
    return [name.strip() for name in re.split(r",(?![^(]*\))", text) if name.strip()]


def named(values: Texts) -> dict[str, str]:
    """name=value → {name: value}; the options' validation reads the numbers."""
    pairs = {}
    for text in values or ():
        name, found, value = text.partition("=")
        if not found:
            raise ConfigError("a value needs a name", expected="name=value", got=repr(text))
        pairs[name.strip()] = value
    return pairs
