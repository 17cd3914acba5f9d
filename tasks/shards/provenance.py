"""What a manifest says of its origin, derived again from the configuration: identity, image model, names of effects."""

from collections.abc import Iterator
from importlib.metadata import version as package_version

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.models.design.association import is_identity
from image_longitudinal.models.imaging.backends import describe, needs_training
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.storage.dataset.layout import ROOT_MANIFEST
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.dataset.verify import Problem
from image_longitudinal.tasks.shards.specs import DatasetSpec, ImageSpec, OutcomeSpec

PACKAGE = "image-longitudinal"


def check_provenance(manifest: RootManifest) -> tuple[list[Problem], str | None]:
    """A problem for each statement that does not follow from the recorded configuration, or why none was derived.

    Data sets of another version of the software are not compared: specs and models may have changed since.
    """
    made, here = manifest.versions.get(PACKAGE), package_version(PACKAGE)
    if made != here:
        return [], f"identity and image model were not derived: made by version {made}, this is {here}"
    try:
        config = validate_config(manifest.config, where=manifest.name)
    except ConfigError as error:
        return [], f"identity and image model were not derived: {error}"
    problems = [
        Problem(ROOT_MANIFEST, f"{what} does not follow from the configuration", None, str(expected), str(got))
        for what, expected, got in _derived(manifest, config)
        if expected != got
    ]
    return problems, None


def _derived(manifest: RootManifest, config: Config) -> Iterator[tuple[str, object, object]]:
    """Name, derived and recorded value of what can be derived."""
    model, image = get_model(config.outcomes.model), manifest.image
    backend = config.generator.backend
    yield "random_effects", tuple(model.random_effect_names), manifest.random_effects
    yield "parameters", tuple(model.parameter_names), manifest.parameters
    yield "eta_latents", is_identity(model.omega), manifest.eta_latents is not None
    yield "image.version", image.model if image.model != image.backend else "1", image.version
    if not needs_training(backend):
        described = describe(config.generator, None)
        found = (described.digest, described.image_size, described.image_size, described.latent_dim, backend)
        yield "image", found, (image.digest, image.height, image.width, image.latent_dim, image.model)
    eta_dims = manifest.eta_latents if config.dataset.eta_dims == "auto" else config.dataset.eta_dims
    if eta_dims is not None:  # else chosen by a measurement, and recorded only in the tables
        yield "identity", _spec(manifest, config, eta_dims).digest, (manifest.part_of or manifest).identity


def _spec(manifest: RootManifest, config: Config, eta_dims: tuple[int, ...]) -> DatasetSpec:
    """The spec behind a manifest; its digest is the identity of the data set."""
    image, dataset = manifest.image, config.dataset
    images = ImageSpec(
        generator=image.digest, image_size=image.height, latent_dim=image.latent_dim,
        batch_size=config.generator.batch_size, seed=config.seed, shard_size=dataset.shard_size, start=0,
        stop=dataset.n_subjects,
    )  # fmt: skip
    return DatasetSpec(
        images=images, outcomes=OutcomeSpec.of(config, image.latent_dim, eta_dims), plan=dataset.plan,
        probe=config.probe, backend=config.generator.backend, model=image.model, name=dataset.name, date=dataset.date,
    )  # fmt: skip
