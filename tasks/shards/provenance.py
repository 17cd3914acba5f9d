"""What a manifest says of its origin, derived again from the configuration: identity and names of effects."""

from collections.abc import Iterator

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.models.design.association import is_identity
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.storage.dataset.layout import ROOT_MANIFEST
from image_longitudinal.storage.dataset.manifest import RootManifest, read_shard_manifest
from image_longitudinal.storage.dataset.verify import Problem
from image_longitudinal.storage.io.root import Root
from image_longitudinal.tasks.shards.specs import DatasetSpec, ImageSpec, OutcomeSpec
from image_longitudinal.tasks.shards.study import study_info

NOT_DERIVED = "the identity was not derived"


def check_provenance(root: Root, manifest: RootManifest) -> tuple[list[Problem], str | None]:
    """A problem for each statement that does not follow from the recorded configuration, or why none was derived.

    The identity covers image model, latent dimensions and seed. The keys of a shard's parts tell whether this version
    of the software derives the same from a configuration as the one that made the data set: if both differ, nothing is
    judged.
    """
    try:
        config = validate_config(manifest.config, where=manifest.name)
        get_model(config.outcomes.model)  # a user's own model is code, which does not run because data name it
        shard = next(iter(manifest.plan))
        made = read_shard_manifest(root, shard.index)
    except (ConfigError, StorageError) as error:
        return [], f"{NOT_DERIVED}: {error}"
    eta_dims = manifest.eta_latents if config.dataset.eta_dims == "auto" else config.dataset.eta_dims
    if eta_dims is None and manifest.study is not None:
        eta_dims = manifest.study.eta_dims
    if eta_dims is None:
        return [], f"{NOT_DERIVED}: the latent dimensions behind the effects are not recorded"
    spec = _spec(manifest, config, eta_dims)
    keys = spec.shard_keys(config.dataset.plan.shard(shard.index))
    if made is None or not any(part.key == keys.get(name) for name, part in made.parts.items()):
        return [], f"{NOT_DERIVED}: another version of the software made the data set"
    problems = [
        Problem(ROOT_MANIFEST, f"{what} does not follow from the configuration", None, str(expected), str(got))
        for what, expected, got in _derived(manifest, config, spec)
        if expected != got
    ]
    return problems, None


def _derived(manifest: RootManifest, config: Config, spec: DatasetSpec) -> Iterator[tuple[str, object, object]]:
    """Name, derived and recorded value of what can be derived."""
    model, image = get_model(config.outcomes.model), manifest.image
    yield "identity", spec.digest, (manifest.part_of or manifest).identity
    yield "random_effects", tuple(model.random_effect_names), manifest.random_effects
    yield "parameters", tuple(model.parameter_names), manifest.parameters
    yield "eta_latents", is_identity(model.omega), manifest.eta_latents is not None
    yield "image.version", image.model if image.model != image.backend else "1", image.version
    yield "image.width", image.height, image.width
    yield "study", study_info(spec.outcomes), manifest.study


def _spec(manifest: RootManifest, config: Config, eta_dims: tuple[int, ...]) -> DatasetSpec:
    """The spec behind a manifest; its digest is the identity of the data set."""
    image, dataset = manifest.image, config.dataset
    images = ImageSpec(
        generator=image.digest, image_size=image.height, latent_dim=image.latent_dim,
        batch_size=config.generator.batch_size, seed=config.seed, shard_size=dataset.shard_size, start=0,
        stop=dataset.n_subjects,
    )  # fmt: skip
    outcomes = OutcomeSpec.of(config, image.latent_dim, eta_dims)
    return DatasetSpec(
        images=images.at_sites(outcomes), outcomes=outcomes, plan=dataset.plan,
        probe=config.probe, backend=config.generator.backend, model=image.model, name=dataset.name, date=dataset.date,
        report=config.report,
    )  # fmt: skip
