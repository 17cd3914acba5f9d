"""What every command of the console script shares: its options, and how it talks to people."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from image_longitudinal.cli.temporary_server import stop_orphaned_servers, temporary_server
from image_longitudinal.core.config import Config
from image_longitudinal.core.presets import preset_names
from image_longitudinal.tasks.engine.logs import OF_OURS

Preset = Annotated[str, typer.Option(help=f"Configuration to start from: {', '.join(preset_names())}.")]
File = Annotated[Path | None, typer.Option("--config", help="YAML file with values over the preset's.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. dataset.n_subjects=2000.")]
Images = Annotated[str | None, typer.Option(help="Folder, archive or URL of scans to train on; phantoms without one.")]
Workspace = Annotated[str, typer.Option(envvar="IMAGE_LONGITUDINAL_WORKSPACE", help="Prepared images and models.")]
Output = Annotated[str, typer.Option(help="Where the data set goes: a folder or an fsspec URL.")]
Refresh = Annotated[bool, typer.Option("--refresh", help="Make all anew, whatever is cached or in place.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]


def plan(config: Config, *, training: bool, generation: bool) -> None:
    """Print what is about to be done."""
    from image_longitudinal.cli.descriptions import describe_plan

    say(describe_plan(config, training=training, generation=generation))


def prepare_prefect(flows: str = "image_longitudinal.flows.generate_dataset") -> None:
    """Settings for a run without a server of one's own: patient start, no telemetry, errors of ours in one line.

    Prefect's temporary server takes as long to start as the module of ``flows`` to import: both happen at once.
    """
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")  # or a service takes this run for dead
    say("starting (the first start on a machine takes longer)")
    stop_orphaned_servers()
    import prefect  # noqa: F401
    from prefect.logging.configuration import setup_logging

    setup_logging()
    for handler in logging.getLogger().handlers:  # the console; the Prefect UI keeps the whole record
        handler.addFilter(is_not_said_by_main)
    with temporary_server():
        import_module(flows)


def is_not_said_by_main(record: logging.LogRecord) -> bool:
    """Keep from the console what :func:`main` says in one line anyway, and what only Prefect's makers need."""
    told = hasattr(record, OF_OURS)
    message = record.getMessage()
    about_prefect = record.name == "EventsWorker" or "temporary server on" in message
    return not (told or about_prefect or "Finished in state Failed" in message)


def say(text: str) -> None:
    """Print for people, at once."""
    print(text, flush=True)


def done(path: object, following: str) -> None:
    """The end of every command: where the result is, and what comes next."""
    say(f"\ndone: {path}\nnext: {following}")
