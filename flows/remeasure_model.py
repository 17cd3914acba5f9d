"""measure-model: a registered model → the same networks with the figures of another probe, registered."""

from prefect import flow

from image_longitudinal.core.config import Config
from image_longitudinal.flows.ingest_images import ingest_images
from image_longitudinal.models.quality.judge.networks import VGG16
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.engine.parameters import ConfigChoice, resolve
from image_longitudinal.tasks.training.register import remeasured_model
from image_longitudinal.tasks.workspace import Workspace


@flow(name="measure-model", flow_run_name="measure {model}", persist_result=False)
def measure_model(
    model: str = "production",
    images: str | None = None,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    workspace: str = "workspace",
    judge: str = VGG16,
) -> ModelVersion:
    """Measure a registered model again, unless this probe has measured it before. Aliases are unchanged.

    Args:
        model: Registered model (version or alias); pretrained is the bundled one.
        images: The folder of scans it was trained on. Without one, the phantom images.
        preset: Configuration whose probe measures; its seed and fractions must split the images as in training.
        overrides: Values over the preset's, such as probe.reader=network, one per line.
        config: A whole configuration instead of the preset.
        workspace: Local folder for prepared images and models.
        judge: Feature network from outside that judges the images: vgg16 (extra judge), a folder in transformers'
            layout, or a safetensors file of VGG16.
    """
    config = resolve(preset, config, overrides)
    place = Workspace.at(workspace)
    base = place.model(model)
    prepared = ingest_images(images, config=config, workspace=workspace)
    return remeasured_model(base, config, prepared, place, judge)
