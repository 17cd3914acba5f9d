"""The console script ``image-longitudinal``: what people type. Reads arguments, runs a flow, says what came of it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from core.config import Config
from core.errors import ImageLongitudinalError
from core.presets import load_config, preset_names
from flows.temporary_server import stop_orphaned_servers

app = typer.Typer(
    help="Benchmark data sets of synthetic retinal OCT images paired with longitudinal outcomes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Preset = Annotated[str, typer.Option(help=f"Configuration to start from: {', '.join(preset_names())}.")]
File = Annotated[Path | None, typer.Option("--config", help="YAML file with values over the preset's.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. dataset.n_subjects=2000.")]
Images = Annotated[str | None, typer.Option(help="Folder of scans to train on; phantom images without one.")]
Workspace = Annotated[str, typer.Option(envvar="IMAGE_LONGITUDINAL_WORKSPACE", help="Prepared images and models.")]
Output = Annotated[str, typer.Option(help="Where the data set goes: a folder or an fsspec URL.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]


@app.command()
def ingest(
    images: Annotated[str | None, typer.Argument(help="Folder of scans; phantom images without one.")] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
) -> None:
    """Clean scans and bring them to one geometry, split by patient."""
    settings = load_config(preset, config, overrides or ())
    say(f"ingest {images or 'phantom images'} into {workspace}")
    prepare_prefect()
    from flows.ingest_images import ingest_images

    prepared = ingest_images(images, config=settings, workspace=workspace)
    counts = prepared.manifest["counts"]
    say(
        f"{counts['images']} images of {counts['patients']} patients, {counts['set_aside']} files set aside with reason"
    )
    done(prepared.folder, f"image-longitudinal train --preset {preset}{(images and f' --images {images}') or ''}")


@app.command()
def train(
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
    dry_run: DryRun = False,
) -> None:
    """Train and register the image models."""
    settings = load_config(preset, config, overrides or ())
    plan(settings, training=True, generation=False)
    if dry_run:
        return
    prepare_prefect()
    from flows.train_models import train_models

    version = train_models(images, config=settings, workspace=workspace)
    done(version.folder, f"image-longitudinal generate --preset {preset} --model {version.version} --output DIR")


@app.command()
def generate(
    output: Output,
    images: Images = None,
    model: Annotated[str | None, typer.Option(help="Registered model to use in place of training.")] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
    dry_run: DryRun = False,
) -> None:
    """Make and publish a data set; trains the image models first where none fits."""
    settings = load_config(preset, config, overrides or ())
    plan(settings, training=model is None, generation=True)
    if dry_run:
        return
    prepare_prefect()
    from flows.generate_dataset import generate_dataset

    url = generate_dataset(output, images, config=settings, model=model, workspace=workspace)
    say(f"report: {url}/report.html")
    done(url, f"image-longitudinal verify {url}")


@app.command()
def verify(
    output: Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.")],
    repair: Annotated[bool, typer.Option("--repair", help="Make exactly the bad shards anew.")] = False,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    workspace: Workspace = "workspace",
) -> None:
    """Re-hash and re-read a published data set, and name what is wrong."""
    prepare_prefect()
    from flows.verify_dataset import verify as flow

    report = flow(output, repair=repair, workers=workers, workspace=workspace)
    say(str(report))
    done(output, f"image-longitudinal show {output}")


@app.command()
def show(
    output: Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.")],
    subject: Annotated[int | None, typer.Option(min=0, help="Show this subject's numbers.")] = None,
) -> None:
    """Print what a data set is, or one of its subjects."""
    from flows.description import describe_dataset, describe_subject
    from storage.reader import open_dataset

    dataset = open_dataset(output)
    say(describe_dataset(dataset) if subject is None else describe_subject(dataset, subject))


def plan(config: Config, *, training: bool, generation: bool) -> None:
    """Print what is about to be done."""
    from flows.description import describe_plan

    say(describe_plan(config, training=training, generation=generation))


def prepare_prefect() -> None:
    """Settings for a run without a server of one's own: patient start, no telemetry, errors of ours in one line."""
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    say("starting (the first start on a machine takes longer)")
    stop_orphaned_servers()
    import prefect  # noqa: F401
    from prefect.logging.configuration import setup_logging

    setup_logging()
    for handler in logging.getLogger().handlers:  # the console; the Prefect UI keeps the whole record
        handler.addFilter(is_not_said_by_main)


def is_not_said_by_main(record: logging.LogRecord) -> bool:
    """Keep from the console what :func:`main` says in one line anyway, and what only Prefect's makers need."""
    told = record.exc_info is not None and isinstance(record.exc_info[1], ImageLongitudinalError)
    return not (told or "Finished in state Failed" in record.getMessage() or record.name == "EventsWorker")


def say(text: str) -> None:
    """Print for people, at once."""
    print(text, flush=True)


def done(path: object, following: str) -> None:
    """The end of every command: where the result is, and what comes next."""
    say(f"\ndone: {path}\nnext: {following}")


def main() -> None:
    """Run the command; an error of ours is one line and exit status 1."""
    try:
        app()
    except ImageLongitudinalError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
