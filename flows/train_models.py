"""train-models: images → VAE → diffusion model → measured, registered version."""

from __future__ import annotations

from prefect import flow, get_run_logger

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.flows.ingest_images import ingest_images
from image_longitudinal.models.imaging.backends import needs_training
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.engine.parameters import ConfigChoice, images_in_words, resolve
from image_longitudinal.tasks.training.training import trained_model
from image_longitudinal.tasks.workspace import Workspace


@flow(name="train-models", flow_run_name=lambda: f"train on {images_in_words()}", persist_result=False)
def train_models(
    images: str | None = None,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    workspace: str = "workspace",
    refresh: bool = False,
) -> ModelVersion:
    """Train the image models and register them; what is trained already is not trained again.

    Args:
        images: Folder of scans. Without one, phantom images are drawn and trained on.
        preset: Configuration to start from.
        overrides: Values over the preset's, such as dataset.n_subjects=2000, one per line.
        config: A whole configuration in the preset's place; what it leaves out is as in the published method.
        workspace: Local folder for prepared images, checkpoints and models.
        refresh: Prepare and train anew, whatever is cached.
    """
    config = resolve(preset, config, overrides)
    if not needs_training(config.generator.backend):
        raise ConfigError(
            "nothing to train", expected="generator.backend vae or diffusion", got=config.generator.backend
        )
    prepared = ingest_images(images, config=config, workspace=workspace, refresh=refresh)
    version = trained_model(config, prepared, Workspace.at(workspace), refresh)
    best = ", ".join(
        f"entry {entry} R² {version.metadata['recoverability'][entry]:.3f}" for entry in version.metadata["entries"][:3]
    )
    get_run_logger().info(f"model {version.version} in {version.folder}; reads back best: {best}")
    return version
