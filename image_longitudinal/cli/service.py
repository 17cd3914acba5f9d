"""The command ``run``: start a run of a deployment on a Prefect server."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from image_longitudinal.cli.console import show
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.engine.prefect_setup import configure_prefect


def run_command(
    deployment: Annotated[str, typer.Argument(help="Its name: demo, or generate-dataset/demo.", metavar="DEPLOYMENT")],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", help="A parameter of the flow; JSON, or else text.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Start a run of a deployment on the server (make server), for a worker to take up."""
    parameters = dict(_parameter(one) for one in param or [])
    configure_prefect()
    from image_longitudinal.deployments.start import start_run

    run = start_run(deployment, parameters)
    show(f"{run.deployment} waits for a worker of the pool {run.pool}\n{run.page}", **run._asdict())


def _parameter(text: str) -> tuple[str, object]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise ConfigError("a parameter has no value", expected="KEY=VALUE", got=text)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
