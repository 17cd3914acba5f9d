"""Commands ``image-longitudinal models ...``: list, show, promote, measure, export and import registered models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from image_longitudinal.cli.console import aligned, print_result
from image_longitudinal.cli.options import HIDDEN, File, Images, Overrides, Preset, WorkspaceOption
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.presets import load_config

if TYPE_CHECKING:  # imports torch
    from image_longitudinal.models.registry.registry import Registry

app = typer.Typer(help="List, show, promote, measure, export and import registered models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Version, its first six digits or more, or an alias.")]
Shared = Annotated[
    str | None,
    typer.Option("--registry", envvar="IMAGE_LONGITUDINAL_REGISTRY", help="Shared registry: an fsspec URL."),
]


@app.command("list")
def list_models(workspace: WorkspaceOption = "workspace", registry: Shared = None) -> None:
    """List the versions, with their aliases and metrics."""
    from image_longitudinal.cli.describe import describe_models

    typer.echo(describe_models(_registry(workspace, registry)))


@app.command()
def show(name: Name, workspace: WorkspaceOption = "workspace", registry: Shared = None) -> None:
    """Print a version's model card and metrics."""
    version = _registry(workspace, registry).get(name)
    typer.echo(version.card)
    typer.echo(f"version {version.digest}\nfiles   {', '.join(sorted(version.files))}")


@app.command()
def promote(
    name: Name = "candidate",
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric that must be no worse than production's; may be repeated.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative worsening that is accepted.")] = 0.0,
    force: Annotated[bool, typer.Option("--force", help="Promote without comparing.")] = False,
    workspace: WorkspaceOption = "workspace",
    registry: Shared = None,
) -> None:
    """Point the alias `production` to a version if it is no worse than the current one on the same held-out images."""
    from image_longitudinal.models.registry import promotion

    models = _registry(workspace, registry)
    for comparison in promotion.promote(models, name, metric or promotion.GATE, tolerance=tolerance, force=force):
        typer.echo(str(comparison))
    name = models.aliases()["production"]
    print_result(f"production is {name}", "image-longitudinal generate --model production --output DIR")


@app.command()
def measure(
    name: Name = "production",
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    judge: Annotated[
        str,
        typer.Option(help="Network that judges images: vgg16, a transformers folder, or VGG16 in a safetensors file."),
    ] = "vgg16",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a version beside held-out scans, and print every figure with its interval.

    The preset's probe samples the images; the same networks are registered with the new figures.
    """
    settings = load_config(preset, config, overrides or ())
    with starting_prefect():
        from image_longitudinal.flows.remeasure_model import measure_model
    from image_longitudinal.tasks.reports.model_table import model_report, model_table

    version = measure_model(name, images, config=settings, workspace=workspace, judge=judge)
    report = model_report(version, settings)
    if json:
        typer.echo(report.model_dump_json(indent=1))
        return
    typer.echo(aligned(model_table(report)))
    print_result(version.folder, f"image-longitudinal models show {version.version}")


@app.command()
def export(
    name: Name,
    target: Annotated[str, typer.Argument(help="Folder or fsspec URL.", **HIDDEN)],
    layout: Annotated[str, typer.Option(help="version (for import) or diffusers (for from_pretrained).")] = "version",
    scans_licence: Annotated[
        str | None,
        typer.Option(help="Include pictures of real scans, under this licence; without it they are left out."),
    ] = None,
    workspace: WorkspaceOption = "workspace",
    registry: Shared = None,
) -> None:
    """Export a version, without its pictures of real scans."""
    from image_longitudinal.models.registry.exchange import export_model
    from image_longitudinal.storage.io.open import open_root

    version = _registry(workspace, registry).get(name)
    for file in export_model(version, open_root(target), layout, scans_licence=scans_licence):
        typer.echo(file)
    if (private := version.private_files) and not scans_licence:
        typer.echo(f"left out, as they show real scans: {', '.join(private)} (--scans-licence includes them)")
    used_by = f"image-longitudinal models import {target}" if layout == "version" else "diffusers from_pretrained"
    print_result(target, used_by)


@app.command("import")
def import_model(
    source: Annotated[str, typer.Argument(help="An exported version: a folder or an fsspec URL.", **HIDDEN)],
    alias: Annotated[str, typer.Option(help="Alias to set.")] = "candidate",
    workspace: WorkspaceOption = "workspace",
    registry: Shared = None,
) -> None:
    """Register an exported version."""
    from image_longitudinal.storage.io.open import open_root

    models = _registry(workspace, registry)
    version = models.add(open_root(source))
    models.set_alias(alias, version.version)
    print_result(version.folder, f"image-longitudinal generate --model {version.version} --output DIR")


def _registry(workspace: str, shared: str | None) -> Registry:
    from image_longitudinal.tasks.workspace import Workspace

    return Workspace.at(workspace).registry_at(shared)
