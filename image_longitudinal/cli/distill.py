"""``image-longitudinal distill``: from a trained model to one that draws in a few steps."""

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
    """Train a few-step student of a model (and a light decoder), and measure what they lose."""
    settings = load_config(preset, config, overrides or ())
    wanted = settings.distillation
    say(f"distil model {model}: student {wanted.student_steps:,} steps, light decoder {wanted.decoder_steps:,} steps")
    prepare_prefect("image_longitudinal.flows.distill_model")
    from image_longitudinal.flows.distill_model import distill_model

    version = distill_model(model, images, config=settings, workspace=workspace)
    made = version.metadata["distillation"]["made"]
    how = [f"--set generator.scheduler=student --set generator.steps={wanted.solver_steps}"] * ("student" in made)
    how += ["--set generator.decoder=light"] * ("light-decoder" in made)
    done(version.folder, f"image-longitudinal generate --model {version.version} {' '.join(how)} --output DIR")
