"""What an image generator produces, read from configuration and metadata: no network is loaded."""

from __future__ import annotations

from typing import NamedTuple

from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging import phantom
from image_longitudinal.models.imaging.backends import BACKENDS_VERSION, load_image_model
from image_longitudinal.models.registry.registry import ModelVersion


class GeneratorDescription(NamedTuple):
    """Digest of everything that decides a pixel, side of the images in pixels, length of z."""

    digest: str
    image_size: int
    latent_dim: int


def describe(generator: GeneratorConfig, version: ModelVersion | None) -> GeneratorDescription:
    """Describe the generator that the configuration names, sampled from a registered model version.

    A custom backend (``package.module:factory``) is built on the CPU to ask it.

    Raises:
        ConfigError: no backend has that name.
        ModelError: it needs a registered model and none is given.
    """
    if generator.backend == "phantom":
        digest = digest_of("phantom", phantom.PHANTOM_VERSION, generator.image_size, generator.latent_dim)
        return GeneratorDescription(digest, generator.image_size, generator.latent_dim)
    if generator.backend not in ("vae", "diffusion"):
        model = load_image_model(generator, version, "cpu")
        return GeneratorDescription(model.digest, model.image_size, model.latent_dim)
    if version is None:
        raise ModelError(
            f"the {generator.backend} backend needs a trained model", do="train one with: image-longitudinal train"
        )
    metadata = version.metadata
    latent_dim = int(metadata["vae"]["latent_dim"])
    if generator.backend == "vae":
        digest = digest_of("vae", BACKENDS_VERSION, version.digest)
        return GeneratorDescription(digest, int(metadata["vae"]["image_size"]), latent_dim)
    sampler = [generator.scheduler, generator.steps, generator.precision]
    sampler += ["light"] if generator.decoder == "light" else []
    digest = digest_of("diffusion", BACKENDS_VERSION, version.digest, *sampler)
    return GeneratorDescription(digest, int(metadata["diffusion"]["image_size"]), latent_dim)
