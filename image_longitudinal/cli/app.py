"""The console script ``image-longitudinal``: what people type. Reads arguments, runs a flow, says what came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from image_longitudinal.cli import models as cli_models
from image_longitudinal.cli.console import (
    DryRun,
    File,
    Images,
    Output,
    Overrides,
    Preset,
    Refresh,
    Workspace,
    done,
    plan,
    prepare_prefect,
    say,
)
from image_longitudinal.cli.distill import distill
from image_longitudinal.cli.evaluate import evaluate, score
from image_longitudinal.cli.export import export
from image_longitudinal.cli.population import fit, simulate
from image_longitudinal.cli.transfer import convert, fetch, publish
from image_longitudinal.core.errors import ImageLongitudinalError, StorageError
from image_longitudinal.core.presets import load_config

app = typer.Typer(
    help="Benchmark data sets of synthetic retinal OCT images paired with longitudinal outcomes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app, name="models")


@app.command()
def ingest(
    images: Annotated[
        str | None, typer.Argument(help="Folder, zip or tar file, or URL of scans; phantoms without one.")
    ] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
) -> None:
    """Clean scans and bring them to one geometry, split by patient."""
    settings = load_config(preset, config, overrides or ())
    say(f"ingest {images or 'phantom images'} into {workspace}")
    prepare_prefect()
    from image_longitudinal.flows.ingest_images import ingest_images

    prepared = ingest_images(images, config=settings, workspace=workspace)
    counts = prepared.manifest["counts"]
    say(
        f"{counts['images']} images of {counts['patients']} patients, {counts['set_aside']} files set aside with "
        f"reason, {len(prepared.manifest['near_duplicates'])} near-duplicates across patients"
    )
    done(prepared.folder, f"image-longitudinal train --preset {preset}{(images and f' --images {images}') or ''}")


@app.command()
def train(
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
    refresh: Refresh = False,
    dry_run: DryRun = False,
) -> None:
    """Train and register the image models."""
    settings = load_config(preset, config, overrides or ())
    plan(settings, training=True, generation=False)
    if dry_run:
        return
    prepare_prefect()
    from image_longitudinal.flows.train_models import train_models

    version = train_models(images, config=settings, workspace=workspace, refresh=refresh)
    done(version.folder, f"image-longitudinal generate --preset {preset} --model {version.version} --output DIR")


@app.command()
def generate(
    output: Output,
    images: Images = None,
    model: Annotated[
        str | None, typer.Option(help="Registered model, or `pretrained`, to use in place of training.")
    ] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
    reuse: Annotated[str | None, typer.Option(help="Data set whose images are shared: only outcomes differ.")] = None,
    refresh: Refresh = False,
    dry_run: DryRun = False,
) -> None:
    """Make and publish a data set; trains the image models first where none fits."""
    settings = load_config(preset, config, overrides or ())
    plan(settings, training=model is None, generation=True)
    if dry_run:
        return
    prepare_prefect()
    from image_longitudinal.flows.generate_dataset import generate_dataset

    url = generate_dataset(
        output, images, config=settings, model=model, workspace=workspace, reuse=reuse, refresh=refresh
    )
    say(f"report: {url}/report.html")
    done(url, f"image-longitudinal verify {url}")


@app.command()
def verify(
    output: Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.")],
    repair: Annotated[bool, typer.Option("--repair", help="Make exactly the bad shards anew.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Shards checked at a time.")] = 2,
    sample: Annotated[int, typer.Option(min=0, help="Subjects made again from their seeds and compared.")] = 8,
    workspace: Workspace = "workspace",
) -> None:
    """Re-hash and re-read a published data set, make some subjects again, and name what is wrong."""
    prepare_prefect()
    from image_longitudinal.flows.verify_dataset import verify as flow

    report = flow(output, repair=repair, workers=workers, workspace=workspace, sample=sample)
    say(str(report))
    done(output, f"image-longitudinal show {output}")


@app.command()
def show(
    output: Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.")],
    subject: Annotated[int | None, typer.Option(min=0, help="Draw this subject, and print its numbers.")] = None,
    png: Annotated[Path | None, typer.Option(help="Where the drawing goes (default: NAME-subject-N.png here).")] = None,
) -> None:
    """Print what a data set is, or draw one of its subjects."""
    from image_longitudinal.cli.descriptions import describe_dataset, describe_subject
    from image_longitudinal.storage.dataset.reader import open_dataset

    dataset = open_dataset(output)
    if subject is None:
        say(describe_dataset(dataset))
        return
    say(describe_subject(dataset, subject))
    from image_longitudinal.tasks.reports.dataset_figures import subject_figure

    path = png or Path(f"{dataset.manifest.name}-subject-{subject}.png")
    try:
        path.write_bytes(subject_figure(dataset, subject))
    except OSError as error:
        raise StorageError(
            "cannot write the drawing", where=path, got=error, do="name another file with --png"
        ) from error
    say(f"\ndrawn: {path}")


app.command()(evaluate)
app.command()(score)
app.command()(publish)
app.command()(fetch)
app.command()(simulate)
app.command()(fit)
app.command()(distill)
app.command()(export)
app.command()(convert)


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
