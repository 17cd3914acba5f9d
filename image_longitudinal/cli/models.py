"""``image-longitudinal models``: what is registered, and how it moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from image_longitudinal.cli.console import File, Images, Overrides, Preset, Workspace, done, prepare_prefect, say
from image_longitudinal.core.presets import load_config

if TYPE_CHECKING:  # imported where it is needed: `--help` need not wait for torch
    from image_longitudinal.models.registry.registry import Registry

app = typer.Typer(help="List, show, promote, measure, export and import registered models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Version, its first six digits or more, or an alias.")]
Shared = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="IMAGE_LONGITUDINAL_REGISTRY",
        help="fsspec URL of a shared registry; the workspace's own without it.",
    ),
]


@app.command("list")
def list_models(workspace: Workspace = "workspace", registry: Shared = None) -> None:
    """List the versions, with their aliases and metrics."""
    from image_longitudinal.cli.descriptions import describe_models

    say(describe_models(_registry(workspace, registry)))


@app.command()
def show(name: Name, workspace: Workspace = "workspace", registry: Shared = None) -> None:
    """Print a version's model card and metrics."""
    from image_longitudinal.models.registry.registry import CARD

    version = _registry(workspace, registry).get(name)
    say((version.folder / CARD).read_text())
    say(f"version {version.digest}\nfiles   {', '.join(sorted(version.content['files']))}")


@app.command()
def promote(
    name: Name = "candidate",
    metric: Annotated[list[str] | None, typer.Option(help="Must be no worse than production's; repeatable.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Worsening that counts as none, share of the value.")] = 0.0,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the figures say.")] = False,
    workspace: Workspace = "workspace",
    registry: Shared = None,
) -> None:
    """Let `production` point to a version, if it is no worse than the present one on the same held-out images."""
    from image_longitudinal.models.registry import promotion

    models = _registry(workspace, registry)
    for comparison in promotion.promote(models, name, metric or promotion.GATE, tolerance=tolerance, force=force):
        say(str(comparison))
    done(
        f"production is {models.aliases()['production']}", "image-longitudinal generate --model production --output DIR"
    )


@app.command()
def measure(
    name: Name = "production",
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
) -> None:
    """Measure a version again, as the preset's probe says: the same networks become a version with these figures."""
    settings = load_config(preset, config, overrides or ())
    prepare_prefect("image_longitudinal.flows.remeasure_model")
    from image_longitudinal.flows.remeasure_model import measure_model

    version = measure_model(name, images, config=settings, workspace=workspace)
    done(version.folder, f"image-longitudinal models show {version.version}")


@app.command()
def export(
    name: Name,
    target: Annotated[str, typer.Argument(help="Folder or fsspec URL.")],
    layout: Annotated[
        str, typer.Option(help="version (for `models import`) or diffusers (for from_pretrained).")
    ] = "version",
    workspace: Workspace = "workspace",
    registry: Shared = None,
) -> None:
    """Copy a version out."""
    from image_longitudinal.models.registry.exchange import export_model
    from image_longitudinal.storage.io.open import open_root

    for file in export_model(_registry(workspace, registry).get(name), open_root(target), layout):
        say(file)
    done(target, f"image-longitudinal models import {target}" if layout == "version" else "diffusers from_pretrained")


@app.command("import")
def import_model(
    source: Annotated[str, typer.Argument(help="An exported version: a folder or an fsspec URL.")],
    alias: Annotated[str, typer.Option(help="Alias to set.")] = "candidate",
    workspace: Workspace = "workspace",
    registry: Shared = None,
) -> None:
    """Take in a version that was exported elsewhere."""
    from image_longitudinal.storage.io.open import open_root

    models = _registry(workspace, registry)
    version = models.add(open_root(source))
    models.set_alias(alias, version.version)
    done(version.folder, f"image-longitudinal generate --model {version.version} --output DIR")


def _registry(workspace: str, shared: str | None) -> Registry:
    from image_longitudinal.tasks.workspace import Workspace as Files

    return Files.at(workspace).registry_at(shared)
