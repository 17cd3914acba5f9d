"""Commands that make something: ``ingest``, ``train``, ``distill`` and ``generate``."""

from typing import Annotated

import typer

from image_longitudinal.cli.console import print_result
from image_longitudinal.cli.options import HIDDEN, DryRun, File, Images, Overrides, Preset, Refresh, WorkspaceOption
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.cli.run_plan import describe_plan
from image_longitudinal.core.presets import load_config


def ingest(
    images: Annotated[
        str | None, typer.Argument(help="Folder, zip or tar file, or URL of scans; phantoms without one.", **HIDDEN)
    ] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
) -> None:
    """Clean scans and bring them to one geometry, split by patient."""
    settings = load_config(preset, config, overrides or ())
    typer.echo(f"ingest {images or 'phantom images'} into {workspace}")
    with starting_prefect():
        from image_longitudinal.flows.ingest_images import ingest_images
    prepared = ingest_images(images, config=settings, workspace=workspace)
    counts, duplicates = prepared.manifest.counts, len(prepared.manifest.near_duplicates)
    typer.echo(
        f"{counts.images} images of {counts.patients} patients, {counts.set_aside} files set aside with reason, "
        f"{duplicates} near-duplicates across patients"
    )
    source = f" --images {images}" if images else ""
    print_result(prepared.folder, f"image-longitudinal train --preset {preset}{source}")


def train(
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    refresh: Refresh = False,
    dry_run: DryRun = False,
) -> None:
    """Train and register the image models."""
    settings = load_config(preset, config, overrides or ())
    typer.echo(describe_plan(settings, training=True, generation=False))
    if dry_run:
        return
    with starting_prefect():
        from image_longitudinal.flows.train_models import train_models
    version = train_models(images, config=settings, workspace=workspace, refresh=refresh)
    command = f"image-longitudinal generate --preset {preset} --model {version.version} --output DIR"
    print_result(version.folder, command)


def distill(
    model: Annotated[str, typer.Argument(help="Registered model, a version or an alias.")] = "production",
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
) -> None:
    """Train a few-step student of a model (and a light decoder), and measure what they lose."""
    settings = load_config(preset, config, overrides or ())
    wanted = settings.distillation
    steps = f"student {wanted.student_steps:,} steps, light decoder {wanted.decoder_steps:,} steps"
    typer.echo(f"distill model {model}: {steps}")
    with starting_prefect():
        from image_longitudinal.flows.distill_model import distill_model
    version = distill_model(model, images, config=settings, workspace=workspace)
    made = version.metadata.distillation.networks if version.metadata.distillation else ()
    chosen = [f"--set generator.scheduler=student --set generator.steps={wanted.solver_steps}"] * ("student" in made)
    chosen += ["--set generator.decoder=light"] * ("light-decoder" in made)
    command = f"image-longitudinal generate --model {version.version} {' '.join(chosen)} --output DIR"
    print_result(version.folder, command)


def generate(
    output: Annotated[str, typer.Option(help="Where to write the data set: a folder or an fsspec URL.", **HIDDEN)],
    images: Images = None,
    model: Annotated[
        str | None, typer.Option(help="Registered model, or `pretrained`, to use instead of training one.")
    ] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    reuse: Annotated[
        str | None, typer.Option(help="Data set whose images are shared: only outcomes differ.", **HIDDEN)
    ] = None,
    refresh: Refresh = False,
    dry_run: DryRun = False,
) -> None:
    """Generate and publish a data set; train the image models first if no registered one fits."""
    settings = load_config(preset, config, overrides or ())
    typer.echo(describe_plan(settings, training=model is None, generation=True))
    if dry_run:
        return
    with starting_prefect():
        from image_longitudinal.flows.generate_dataset import generate_dataset
    url = generate_dataset(
        output, images, config=settings, model=model, workspace=workspace, reuse=reuse, refresh=refresh
    )
    typer.echo(f"report: {url}/report.html")
    print_result(url, f"image-longitudinal verify {url}")
