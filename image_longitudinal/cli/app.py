"""The console script ``image-longitudinal``: its commands, and how their errors are printed."""

import sys

import typer

from image_longitudinal.cli import models
from image_longitudinal.cli.escaping import escaping
from image_longitudinal.cli.evaluate import evaluate, score
from image_longitudinal.cli.inspect import show, verify
from image_longitudinal.cli.make import distill, generate, ingest, train
from image_longitudinal.cli.population import export, fit_command, simulate_command
from image_longitudinal.cli.transfer import convert, fetch, publish
from image_longitudinal.core.errors import ImageLongitudinalError, naming_missing_extra
from image_longitudinal.core.escapes import for_terminal

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
for registered in (*app.registered_commands, *models.app.registered_commands):
    assert registered.callback is not None, "a command has a function"
    registered.callback = escaping(registered.callback)


def main() -> None:
    """Run the command; an error of this project is printed in one line, with exit status 1."""
    try:
        with naming_missing_extra():
            app()
    except ImageLongitudinalError as error:
        print(for_terminal(f"error: {error}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
