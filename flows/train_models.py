"""train-models: images → VAE → diffusion model → measured, registered version."""

from __future__ import annotations

from prefect import flow, get_run_logger

from core.config import Config
from core.errors import ConfigError
from flows.ingest_images import ingest_images
from flows.parameters import ConfigChoice, resolve
from models.backends import needs_training
from models.registry import ModelVersion
from tasks.training import trained_model
from tasks.workspace import Workspace


@flow(name="train-models", flow_run_name="train on {images}", persist_result=False)
def train_models(
    images: str | None = None, preset: ConfigChoice = "demo", config: Config | None = None, workspace: str = "workspace"
) -> ModelVersion:
    """Train the image models and register them; what is trained already is not trained again.

    Args:
        images: folder of scans. Without one, phantom images are drawn and trained on.
        preset: configuration to start from.
        config: a whole configuration; takes the preset's place.
        workspace: local folder for prepared images, checkpoints and models.
    """
    config = resolve(preset, config)
    if not needs_training(config.generator.backend):
        raise ConfigError(
            "nothing to train", expected="generator.backend vae or diffusion", got=config.generator.backend
        )
    prepared = ingest_images(images, config=config, workspace=workspace)
    version = trained_model(config, prepared, Workspace.at(workspace))
    best = ", ".join(
        f"entry {entry} R² {version.metadata['recoverability'][entry]:.3f}" for entry in version.metadata["entries"][:3]
    )
    get_run_logger().info(f"model {version.version} in {version.folder}; reads back best: {best}")
    return version
