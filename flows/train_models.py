"""train-models: images → VAE → diffusion model → measured, registered version."""

from prefect import flow, get_run_logger

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.gates import GateKind
from image_longitudinal.flows.ingest_images import ingest_images
from image_longitudinal.models.imaging.backends import needs_training
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.engine.parameters import ConfigChoice, images_in_words, resolve
from image_longitudinal.tasks.training.train import trained_model
from image_longitudinal.tasks.workspace import Workspace


@flow(name="train-models", flow_run_name=lambda: f"train on {images_in_words()}", persist_result=False)
def train_models(
    images: str | None = None,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    workspace: str = "workspace",
    refresh: bool = False,
    accept: tuple[GateKind, ...] = (),
) -> ModelVersion:
    """Train the image models and register them; skips what is already trained.

    Args:
        images: Folder of scans. Without one, phantom images are used.
        preset: Configuration to start from.
        overrides: Values over the preset's, such as dataset.n_subjects=2000, one per line.
        config: A whole configuration instead of the preset; omitted values are those of the published method.
        workspace: Local folder for prepared images, checkpoints and models.
        refresh: Prepare and train again, ignoring the cache.
        accept: Gates that may fail, by kind: latents, recoverability, fidelity, copies. What failed stays on record.

    Raises:
        RefusedByGateError: VAE or finished model are not good enough: see section gates of the configuration.
    """
    config = resolve(preset, config, overrides)
    if not needs_training(config.generator.backend):
        expected = "generator.backend vae or diffusion"
        raise ConfigError("nothing to train", expected=expected, got=config.generator.backend)
    prepared = ingest_images(images, config=config, workspace=workspace, refresh=refresh)
    version = trained_model(config, prepared, Workspace.at(workspace), refresh, accept=accept)
    measured = version.metadata.measured
    best = ", ".join(f"z[{dim}] R² {measured.recoverability[dim]:.3f}" for dim in measured.latent_order[:3])
    get_run_logger().info(f"model {version.version} in {version.folder}; most recoverable: {best}")
    return version
