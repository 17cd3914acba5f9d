"""The console script ``image-longitudinal``: its commands, and how their errors are printed."""

import io
import sys

import typer

from image_longitudinal.cli import models
from image_longitudinal.cli.evaluate import evaluate, score
from image_longitudinal.cli.inspect import show, verify
from image_longitudinal.cli.make import distill, generate, ingest, train
from image_longitudinal.cli.population import export, fit_command, simulate_command
from image_longitudinal.cli.transfer import convert, fetch, publish
from image_longitudinal.core.errors import ImageLongitudinalError, naming_missing_extra

app = typer.Typer(
    help="Benchmark data sets of synthetic retinal OCT images paired with longitudinal outcomes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
for command in (
    ingest, train, generate, verify, show, evaluate, score, publish, fetch, convert, export, simulate_command,
    fit_command, distill,
):  # fmt: skip
    app.command(command.__name__.removesuffix("_command"))(command)


def main() -> None:
    """Run the command; an error of this project is printed in one line, with exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without η must not end a run
            stream.reconfigure(errors="replace")
    try:
        with naming_missing_extra():
            app()
    except ImageLongitudinalError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
