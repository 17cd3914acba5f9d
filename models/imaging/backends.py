"""Image models behind one interface: latents (B, D) float32 and seeds → images (B, S, S) uint8.

``phantom``, ``vae`` and ``diffusion`` ship with the project. A fourth is named ``package.module:factory``; the factory
is called like :func:`phantom_backend` and returns anything with the members of :class:`ImageModel`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.config import DiffusionConfig, GeneratorConfig, VAEConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.light_decoder import build_light_decoder
from image_longitudinal.models.diffusion.residual_diffusion import ResidualDiffusion
from image_longitudinal.models.diffusion.sampler import sample_on_device
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.diffusion.train import build_diffusion
from image_longitudinal.models.evaluation.pca_regressor import fit_pca_regressor
from image_longitudinal.models.imaging import phantom
from image_longitudinal.models.imaging.device import auto_batch_size, default_device
from image_longitudinal.models.imaging.grey_images import as_grey_levels
from image_longitudinal.models.imaging.sampling_pipeline import BatchInFlight, BatchSize, render_batches, start_batch
from image_longitudinal.models.quality.recoverability import (
    encoder_reader,
    probe_latents,
    r_squared,
    recoverable_axes,
)
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.tensor_files import tensors_digest
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import build_vae

FROZEN = "frozen/"  # begins the names of weights that are not the denoiser's
BACKENDS_VERSION = 2  # goes into cache keys: raise it whenever a backend's pixels change for the same weights


class ImageModel(Protocol):
    """What the pipeline asks of an image model."""

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        ...

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        ...

    @property
    def digest(self) -> str:
        """Of everything that decides a pixel: weights, solver, steps, code version."""
        ...

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (B, S, S) uint8 of latents (B, D); each depends on its own row and seed alone."""
        ...


@dataclass(frozen=True)
class PhantomImages:
    """The procedural B-scan: exact ground truth, no training."""

    latent_dim: int
    image_size: int
    digest: str

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`ImageModel`."""
        return phantom.render(latents, seeds, self.image_size)


@dataclass(frozen=True)
class VAEImages:
    """The VAE's decoder: one forward pass, smooth images."""

    vae: VAE
    digest: str
    device_lock: Lock = field(default_factory=Lock, compare=False)  # one thread at a time renders

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.vae.latent_dim

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        return self.vae.image_size

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`ImageModel`; the seeds play no part."""
        return self.start(latents, seeds).wait()

    def start(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> BatchInFlight:
        """:meth:`generate` without waiting."""
        return start_batch(self._draw, self.vae.shift.device, latents, seeds)

    @torch.no_grad()
    def _draw(self, latents: Tensor, seeds: Tensor) -> Tensor:
        return as_grey_levels(self.vae.decode(latents))


@dataclass(frozen=True)
class DiffusionImages:
    """The diffusion model."""

    model: DiffusionModel
    scheduler: str
    steps: int
    device: torch.device
    digest: str
    device_lock: Lock = field(default_factory=Lock, compare=False)  # one thread at a time renders

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.model.latent_dim

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        return self.model.image_size

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`ImageModel`."""
        return self.start(latents, seeds).wait()

    def start(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> BatchInFlight:
        """:meth:`generate` without waiting."""
        return start_batch(self._draw, self.device, latents, seeds)

    def _draw(self, latents: Tensor, seeds: Tensor) -> Tensor:
        return sample_on_device(self.model, latents, seeds, scheduler=self.scheduler, steps=self.steps)


def phantom_backend(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> ImageModel:
    """Make the phantom; ``version`` (a trained model) and ``device`` play no part."""
    digest = digest_of("phantom", phantom.PHANTOM_VERSION, config.image_size, config.latent_dim)
    return PhantomImages(config.latent_dim, config.image_size, digest)


def vae_backend(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> ImageModel:
    """Load a registered version's decoder."""
    trained = _required(version, "vae")
    return VAEImages(load_vae(trained).to(device), digest_of("vae", BACKENDS_VERSION, trained.digest))


def diffusion_backend(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> ImageModel:
    """Load a registered version's diffusion model."""
    trained = _required(version, "diffusion")
    student, light = config.scheduler == "student", config.decoder == "light"
    weights = trained.tensors("diffusion")
    if student:
        weights = with_denoiser(weights, trained.tensors(_distilled(trained, "student", "scheduler")))
    model = assemble_diffusion(trained.metadata, load_vae(trained), weights)
    if light:
        use_light_decoder(model, trained.tensors(_distilled(trained, "light-decoder", "decoder")))
    model.to(device)
    compiled = device.type == "cuda" if config.compile == "auto" else config.compile
    model.for_sampling(getattr(torch, config.precision), compiled)
    ways = [config.scheduler, config.steps, config.precision, *(["light"] if light else [])]
    digest = digest_of("diffusion", BACKENDS_VERSION, trained.digest, *ways)
    return DiffusionImages(model, config.scheduler, config.steps, device, digest)


BACKENDS: dict[str, Callable[[GeneratorConfig, ModelVersion | None, torch.device], ImageModel]] = {
    "phantom": phantom_backend,
    "vae": vae_backend,
    "diffusion": diffusion_backend,
}


def needs_training(backend: str) -> bool:
    """Whether a backend draws from a registered model."""
    return backend != "phantom"


def needs_diffusion(backend: str) -> bool:
    """Whether a backend's model includes a diffusion model (a backend of one's own is given all there is)."""
    return backend not in ("phantom", "vae")


def load_image_model(config: GeneratorConfig, version: ModelVersion | None, device: str = "auto") -> ImageModel:
    """The image model that the configuration names.

    Raises:
        ConfigError: no backend has that name.
        ModelError: it needs a registered model and none is given, or the weights are missing or altered.
    """
    return find_backend(config.backend)(config, version, default_device(device))


def generate_in_batches(
    model: ImageModel, latents: NDArray[np.float32], seeds: NDArray[np.int64], batch_size: int
) -> NDArray[np.uint8]:
    """Images (n, S, S) uint8 of any number of latents (n, D); see :func:`render_batches`."""
    images = np.empty((len(latents), model.image_size, model.image_size), np.uint8)
    start = 0
    for made in render_batches(model, latents, seeds, BatchSize(batch_size)):
        images[start : start + len(made)] = made
        start += len(made)
    return images


def measure_recoverability(
    model: ImageModel, vae: VAE | None, *, n: int, batch_size: int, seed: int
) -> tuple[list[float], str]:
    """R² per latent entry, z read back from images made as a data set's are: z ~ N(0, I), this solver, 8-bit images.

    Args:
        model: makes the images.
        vae: whose encoder reads them; without one a regression does, fitted on 3n other images.
        n: images that the figure is measured on.
        batch_size: images made at a time.
        seed: of latents and images.

    Returns:
        One R² per entry, and what read it: ``encoder`` or ``regression``.
    """
    latents, seeds = probe_latents(seed, n if vae else 4 * n, model.latent_dim)
    images = generate_in_batches(model, latents, seeds, batch_size)
    if vae:
        estimates = encoder_reader(vae)(images[:n])
    else:
        others = (np.arange(3 * n), images[n:], latents[n:])
        estimates = fit_pca_regressor(lambda: iter([others]), components=48, products=12, penalty=1.0)(images[:n])
    figures = r_squared(latents[:n], estimates)
    return [float(value) for value in figures], "encoder" if vae else "regression"


def find_recoverable_axes(model: ImageModel, vae: VAE, *, n: int, batch_size: int, seed: int) -> Tensor:
    """:func:`recoverable_axes` of ``n`` images of a finished model, float32 (D, D); the draws are no measure's."""
    latents, seeds = probe_latents(seed, n, model.latent_dim, "axes")
    reading = encoder_reader(vae)(generate_in_batches(model, latents, seeds, batch_size))
    return torch.from_numpy(recoverable_axes(latents, reading)).float()


def load_vae(version: ModelVersion) -> VAE:
    """The VAE of a registered version, on the CPU, in evaluation mode."""
    return assemble_vae(version.metadata, version.tensors("vae"))


def assemble_vae(metadata: dict[str, Any], weights: dict[str, Tensor]) -> VAE:
    """A VAE of its recorded configuration and weights, on the CPU, in evaluation mode."""
    vae = build_vae(VAEConfig.model_validate(metadata["vae"]), 0)
    vae.load_state_dict(weights)
    return vae.eval()


def diffusion_weights(model: DiffusionModel) -> dict[str, Tensor]:
    """What :func:`assemble_diffusion` needs of a model beside its VAE: the denoiser's weights, and the frozen parts."""
    frozen = {f"{FROZEN}{key}": value for key, value in model.frozen_state().items()}
    return {**model.denoiser.state_dict(), **frozen}


def with_denoiser(weights: dict[str, Tensor], denoiser: dict[str, Tensor]) -> dict[str, Tensor]:
    """The frozen parts of a model's weights with another denoiser."""
    return {**{key: value for key, value in weights.items() if key.startswith(FROZEN)}, **denoiser}


def assemble_diffusion(metadata: dict[str, Any], vae: VAE, weights: dict[str, Tensor]) -> DiffusionModel:
    """A diffusion model of its recorded configuration and weights, on the CPU, in evaluation mode.

    Raises:
        ModelError: the pretrained part that it borrows is another one now than when it was registered.
    """
    config = DiffusionConfig.model_validate(metadata["diffusion"])
    model = build_diffusion(vae, config, 0)
    found, expected = tensors_digest(model.borrowed_state()), metadata.get("borrowed")
    if expected not in (None, found):  # none: registered before it was recorded
        raise ModelError(
            "the pretrained autoencoder is not the one that this model was trained with",
            where=config.pretrained,
            expected=f"sha256 {expected} over its tensors",
            got=found,
            do="restore it there, or train again",
        )
    frozen = {key: value for key, value in weights.items() if key.startswith(FROZEN)}
    model.denoiser.load_state_dict({key: value for key, value in weights.items() if key not in frozen})
    model.load_frozen_state({key.removeprefix(FROZEN): value for key, value in frozen.items()})
    if isinstance(model, ResidualDiffusion):
        model.residual_scale = float(metadata["residual_scale"])
    return model.eval()


def first_batch_size(model: ImageModel, config: GeneratorConfig, device: str = "auto") -> int:
    """Images at a time to begin with: as configured, or what suits device and image size."""
    if config.batch_size == "auto":
        return auto_batch_size(default_device(device), model.image_size)
    return config.batch_size


def use_light_decoder(model: DiffusionModel, weights: dict[str, Tensor]) -> None:
    """Put a light decoder of these weights in the place of the model's autoencoder's."""
    assert isinstance(model, StableDiffusion), "only such a model is given one"
    width = len(weights["network.layers.0.bias"])
    model.light = build_light_decoder(model, width, 0)
    model.light.load_state_dict(weights)


def _distilled(version: ModelVersion, what: str, key: str) -> str:
    if what not in version.metadata.get("distillation", {}).get("made", ()):
        raise ModelError(
            f"the model has no {what}",
            where=version.version,
            do=f"make one with: image-longitudinal distill {version.version}; or choose another generator.{key}",
        )
    return what


def find_backend(name: str) -> Callable[[GeneratorConfig, ModelVersion | None, torch.device], ImageModel]:
    """What makes the image model of this name.

    Raises:
        ConfigError: there is none.
    """
    if name in BACKENDS:
        return BACKENDS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(
            "generator.backend is unknown",
            expected=f"one of {', '.join(BACKENDS)}, or package.module:factory",
            got=name,
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("generator.backend cannot be imported", where=name, got=error) from error


def _required(version: ModelVersion | None, backend: str) -> ModelVersion:
    if version is None:
        raise ModelError(f"the {backend} backend needs a trained model", do="train one with: image-longitudinal train")
    return version
