"""What decides each product of training; the digest of a spec is the cache key of its task.

It includes the arithmetic (threads, instruction set, torch, device): on another machine the same configuration trains
other bits, so it is another product.
"""

from pathlib import Path
from typing import Self

from image_longitudinal.core.config import Config, DiffusionConfig, DistillationConfig, ProbeConfig, VAEConfig
from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.specs import Spec
from image_longitudinal.models.registry.metadata import Arithmetic
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.arithmetic import arithmetic_of

TRAINING_VERSION = 4  # raise it whenever the same spec would give other weights
MEASURING_VERSION = 3  # raise it whenever the same networks would be measured or shown differently
DISTILLATION_VERSION = 2  # raise it whenever the same spec would give other distilled weights


class VAETrainingSpec(Spec):
    """Decides the weights of a VAE; images, VGG16 of the loss (``perception``) and ``start`` version are digests."""

    product = "vae"
    code_version = TRAINING_VERSION
    arithmetic: Arithmetic
    images: str
    vae: VAEConfig
    seed: int
    perception: str | None
    start: str | None

    @classmethod
    def of(cls, config: Config, images: str, start: ModelVersion | None = None) -> Self:
        """The spec for this configuration and these images.

        Raises:
            ModelError: the VGG16 weights are missing.
        """
        path = config.vae.vgg_weights
        if path is not None and not Path(path).is_file():
            raise ModelError("the VGG16 weights are missing", where=path, do="correct or drop vae.vgg_weights")
        perception = file_sha256(path) if path is not None else None
        return cls.from_config(
            config, images=images, perception=perception, start=start.digest if start else None,
            arithmetic=arithmetic_of(config.compute),
        )  # fmt: skip


class DiffusionTrainingSpec(Spec):
    """Decides the weights of a diffusion model trained around a VAE with these weights.

    ``vae_sha256``: another device may train other bits from the same spec. ``pretrained``: see
    :func:`pretrained_digest`.
    """

    product = "diffusion model"
    code_version = TRAINING_VERSION
    vae: VAETrainingSpec
    vae_sha256: str
    diffusion: DiffusionConfig
    pretrained: str | None

    @classmethod
    def of(cls, config: Config, vae: VAETrainingSpec, vae_sha256: str) -> Self:
        """The spec for this configuration and a trained VAE."""
        pretrained = pretrained_digest(config.diffusion)
        return cls.from_config(config, vae=vae, vae_sha256=vae_sha256, pretrained=pretrained)


class RegistrationSpec(Spec):
    """Decides a registered version: both trainings and how the result is measured."""

    product = "registered model"
    code_version = MEASURING_VERSION
    vae: VAETrainingSpec
    diffusion: DiffusionTrainingSpec | None
    probe: ProbeConfig


class DistilledNetworksSpec(Spec):
    """Decides the weights of a student and a light decoder of the version with the digest ``model``."""

    product = "distilled networks"
    code_version = DISTILLATION_VERSION
    model: str
    distillation: DistillationConfig
    seed: int
    arithmetic: Arithmetic


class DistillationSpec(Spec):
    """Decides a registered distilled version: its networks, and the samplers they are compared with."""

    product = "distilled model"
    code_version = DISTILLATION_VERSION
    networks: DistilledNetworksSpec
    probe: ProbeConfig
    scheduler: str
    steps: int

    @classmethod
    def of(cls, config: Config, model: ModelVersion) -> Self:
        """The spec for this configuration and a registered model."""
        arithmetic, generator = arithmetic_of(config.compute), config.generator
        networks = DistilledNetworksSpec.from_config(config, model=model.digest, arithmetic=arithmetic)
        return cls.from_config(config, networks=networks, scheduler=generator.scheduler, steps=generator.steps)


class RemeasureSpec(Spec):
    """Decides a version with new figures, on these ``images``, of the networks of the version with digest ``model``.

    ``judge``: digest of the judge's network.
    """

    product = "remeasured model"
    code_version = MEASURING_VERSION
    model: str
    images: str
    judge: str
    probe: ProbeConfig
    seed: int
    arithmetic: Arithmetic

    @classmethod
    def of(cls, config: Config, model: ModelVersion, images: str, judge: str) -> Self:
        """The spec for this configuration, a registered model, these images and the judge with this digest."""
        arithmetic = arithmetic_of(config.compute)
        return cls.from_config(config, model=model.digest, images=images, judge=judge, arithmetic=arithmetic)


def pretrained_digest(diffusion: DiffusionConfig) -> str | None:
    """Digest of the local weights that a diffusion model starts from, its autoencoder's included.

    None if there are none, or if they come from the hub, where their name identifies them.
    """
    places: dict[str, list[str | None]] = {
        "residual": [],
        "flattened": [],
        "latent": [diffusion.autoencoder],
        "stable-diffusion": [diffusion.pretrained, diffusion.unet],
    }
    files = [file for place in places[diffusion.kind] if place for file in sorted(Path(place).rglob("*.safetensors"))]
    return digest_of([file_sha256(file) for file in files]) if files else None
