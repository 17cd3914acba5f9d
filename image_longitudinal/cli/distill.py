"""``image-longitudinal distill``: from a trained model to one that samples in a few steps."""

from __future__ import annotations

from typing import Annotated

import typer

from image_longitudinal.cli.console import File, Images, Overrides, Preset, Workspace, done, prepare_prefect, say
from image_longitudinal.core.presets import load_config


def distill(
    model: Annotated[str, typer.Argument(help="Registered model, a version or an alias.")] = "production",
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
) -> None:
    """Train a few-step student of a model (and a light decoder), and measure their loss of quality."""
    settings = load_config(preset, config, overrides or ())
    asked = settings.distillation
    say(f"distil model {model}: student {asked.student_steps:,} steps, light decoder {asked.decoder_steps:,} steps")
    prepare_prefect("image_longitudinal.flows.distill_model")
    from image_longitudinal.flows.distill_model import distill_model

    version = distill_model(model, images, config=settings, workspace=workspace)
    networks = version.metadata.distillation.networks if version.metadata.distillation else ()
    options = []
    if "student" in networks:
        options.append(f"--set generator.scheduler=student --set generator.steps={asked.solver_steps}")
    if "light-decoder" in networks:
        options.append("--set generator.decoder=light")
    done(version.folder, f"image-longitudinal generate --model {version.version} {' '.join(options)} --output DIR")
