"""The console script ``image-longitudinal``: its commands, exit statuses, and how errors are printed."""

import contextlib
import os
import sys
from typing import Annotated

import typer

from image_longitudinal.cli import config, models
from image_longitudinal.cli.commands import add_command
from image_longitudinal.cli.doctor import doctor_command
from image_longitudinal.cli.evaluate import evaluate_command, score_command, study_command
from image_longitudinal.cli.export import export_command
from image_longitudinal.cli.inspect import show_command, verify_command
from image_longitudinal.cli.make import distill_command, generate_command, ingest_command, train_command
from image_longitudinal.cli.model_choice import compare_command, covariates_command
from image_longitudinal.cli.population import fit_command, predict_command, simulate_command
from image_longitudinal.cli.service import run_command
from image_longitudinal.cli.signals import ending_by_signals
from image_longitudinal.cli.transfer import convert_command, fetch_command, publish_command
from image_longitudinal.core.errors import ImageLongitudinalError, naming_missing_extra
from image_longitudinal.core.escapes import for_terminal

STATUSES = (
    "Exit status: 0 done; 1 an error, explained in one line; 2 the command line cannot be read; 3 verify found faults; "
    "4 a gate refused a model or a data set that is not good enough (--accept), or a model that is worse than "
    "production; 129, 130 and 143 interrupted."
)

app = typer.Typer(
    help="Benchmark data sets of synthetic retinal OCT images paired with longitudinal outcomes.",
    epilog=STATUSES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")

DATA = "datasets/demo"
add_command(
    app, ingest_command, "image-longitudinal ingest scans/", "image-longitudinal ingest OCT2017.zip --preset scans"
)
add_command(
    app,
    train_command,
    "image-longitudinal train --images scans/ --preset scans",
    "image-longitudinal train --preset demo --dry-run",
)
add_command(
    app,
    generate_command,
    f"image-longitudinal generate --output {DATA}",
    "image-longitudinal generate --model pretrained --set dataset.n_subjects=2000 --output datasets/quick",
)
add_command(app, verify_command, f"image-longitudinal verify {DATA}", f"image-longitudinal verify {DATA} --repair")
add_command(
    app, show_command, f"image-longitudinal show {DATA}", f"image-longitudinal show {DATA} --subject 17 --png 17.png"
)
add_command(
    app,
    evaluate_command,
    f"image-longitudinal evaluate {DATA}",
    f"image-longitudinal evaluate {DATA} --set evaluation.bootstrap=200 --output quick-look",
)
add_command(
    app,
    score_command,
    f"image-longitudinal score {DATA} mine.parquet",
    f"image-longitudinal score {DATA} mine.parquet --output tables --json",
)
add_command(
    app,
    study_command,
    "image-longitudinal study datasets/trial",
    "image-longitudinal study datasets/trial --output tables --json",
)
add_command(
    app,
    publish_command,
    f"image-longitudinal publish {DATA} s3://bucket/demo",
    f"image-longitudinal publish {DATA} /mnt/share/demo",
)
add_command(
    app,
    fetch_command,
    "image-longitudinal fetch s3://bucket/demo datasets/demo",
    "image-longitudinal fetch hf://datasets/me/demo part --split test --level 0.5 --shards 0-9",
)
add_command(
    app,
    convert_command,
    "image-longitudinal convert datasets/old datasets/new",
    "image-longitudinal convert s3://bucket/old s3://bucket/new",
)
add_command(
    app,
    export_command,
    f"image-longitudinal export {DATA} test.csv --level 0.5 --split test",
    f"image-longitudinal export {DATA} exports/hub --to huggingface --level 0.5 --level 1",
)
add_command(
    app,
    simulate_command,
    "image-longitudinal simulate trial.csv --model one-compartment --subjects 200",
    "image-longitudinal simulate trial.parquet --set imax=1.1 --missed 0.1 --truth truth.csv",
)
add_command(
    app,
    fit_command,
    "image-longitudinal fit trial.csv --model one-compartment --output trial-fit",
    f"image-longitudinal fit {DATA} --level 0.5 --method imp --output demo-fit",
)
add_command(
    app,
    predict_command,
    "image-longitudinal predict trial-fit --images new-scans/ --output predictions.csv",
    "image-longitudinal predict trial-fit --images new-scans/ --table first-visits.csv --output predictions.parquet",
)
add_command(
    app,
    covariates_command,
    "image-longitudinal covariates trial.csv --model one-compartment --candidate cl,v:weight:power --output search",
    "image-longitudinal covariates trial.csv --model pk-emax --candidate cl:sex:categorical --output by-sex",
)
add_command(
    app,
    compare_command,
    "image-longitudinal compare fit-a fit-b",
    "image-longitudinal compare base weight weight-sex --output comparison.csv",
)
add_command(
    app,
    distill_command,
    "image-longitudinal distill production --images scans/ --preset scans",
    "image-longitudinal distill candidate --set distillation.student_steps=2000",
)
add_command(
    app,
    run_command,
    "image-longitudinal run demo",
    "image-longitudinal run generate-dataset --param preset=small --param output=datasets/small",
)
add_command(app, doctor_command,
    "image-longitudinal doctor", "image-longitudinal doctor --json")  # fmt: skip


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"image-longitudinal {version('image-longitudinal')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run the command; an error of this project is printed in one line, with its exit status."""
    os.environ.pop("MPLBACKEND", None)  # of the notebook that calls the command, and not always installed here
    for stream in (sys.stdout, sys.stderr):  # a terminal whose encoding lacks a letter shows ? in its place
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    with ending_by_signals(next(iter(sys.argv[1:]), "")):
        try:
            with naming_missing_extra():
                app()
        except ImageLongitudinalError as error:
            print(for_terminal(f"error: {error}"), file=sys.stderr)
            sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
