"""The image models by name: ``phantom``, ``vae``, ``diffusion``, and custom ones.

A custom backend is named ``package.module:factory``. Its factory has the signature of :func:`phantom_backend` and
returns anything with the members of :class:`models.imaging.interface.ImageModel`. It is imported only where the user
names it (:func:`import_backend`): data sets that others made hold such names too.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.config import GeneratorConfig, ProbeConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.core.network_kinds import check_solver
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.solvers import sample_on_device
from image_longitudinal.models.imaging import phantom
from image_longitudinal.models.imaging.assembly import load_diffusion, load_vae, require_networks
from image_longitudinal.models.imaging.device import auto_batch_size, default_device
from image_longitudinal.models.imaging.grey_images import as_grey_levels
from image_longitudinal.models.imaging.interface import BatchInFlight, ImageModel, start_batch
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.vae.latent_model import LatentModel

BACKENDS_VERSION = 2  # goes into cache keys: raise it whenever a backend's pixels change for the same weights


class GeneratorDescription(NamedTuple):
    """What is known of a generator without loading it; see :class:`models.imaging.interface.ImageModel`."""

    digest: str
    image_size: int
    latent_dim: int


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
class NetworkImages:
    """A network on a device, which takes batches from one thread at a time without making it wait.

    ``sample``: latents (B, D) and seeds (B,) on the device → grey levels (B, S, S) uint8 there.
    """

    network: LatentModel | DiffusionModel
    sample: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    digest: str
    device_lock: Lock = field(default_factory=Lock, compare=False)  # held by the thread that samples

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.network.latent_dim

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        return self.network.image_size

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`ImageModel`."""
        return self.start(latents, seeds).wait()

    def start(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> BatchInFlight:
        """:meth:`generate` without waiting."""
        return start_batch(self.sample, self.device, latents, seeds)


def vae_images(vae: LatentModel, digest: str) -> NetworkImages:
    """The VAE's decoder as an image model: one forward pass, smooth images; the seeds are not used."""

    @torch.no_grad()
    def sample(latents: Tensor, seeds: Tensor) -> Tensor:
        return as_grey_levels(vae.decode(latents))

    return NetworkImages(vae, sample, vae.device, digest)


def diffusion_images(
    model: DiffusionModel, scheduler: str, steps: int, device: torch.device, digest: str
) -> NetworkImages:
    """A diffusion model as an image model."""
    return NetworkImages(model, partial(sample_on_device, model, scheduler=scheduler, steps=steps), device, digest)


def describe(config: GeneratorConfig, version: ModelVersion | None) -> GeneratorDescription:
    """A generator's digest, image size and latent length from configuration and metadata, without loading a network.

    A custom backend is loaded on the CPU, because only its factory knows them. A registered model needs no weights on
    this machine; the phantom needs none (None).

    Raises:
        ConfigError: no backend has that name, or the solver does not fit the model.
        ModelError: the backend needs a registered model, or a network that the model does not have.
    """
    if config.backend == "phantom":
        digest = digest_of("phantom", phantom.PHANTOM_VERSION, config.image_size, config.latent_dim)
        return GeneratorDescription(digest, config.image_size, config.latent_dim)
    if config.backend not in BACKENDS:
        model = find_backend(config.backend)(config, version, torch.device("cpu"))
        return GeneratorDescription(model.digest, model.image_size, model.latent_dim)
    registered = _required(version, config.backend)
    networks = registered.metadata.networks
    decisive: list[str | int] = []
    image_size = networks.vae.image_size
    if config.backend == "diffusion":
        require_networks(registered, *_distilled_parts(config))
        check_solver("generator", config.scheduler, config.steps, networks.diffusion.kind if networks.diffusion else "")
        decisive = [config.scheduler, config.steps, config.precision, *(["light"] if config.decoder == "light" else [])]
        image_size = networks.image_size
    digest = digest_of(config.backend, BACKENDS_VERSION, registered.digest, *decisive)
    return GeneratorDescription(digest, image_size, networks.vae.latent_dim)


def phantom_backend(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> ImageModel:
    """Create the phantom; ``version`` (a trained model) and ``device`` are not used."""
    return PhantomImages(config.latent_dim, config.image_size, describe(config, version).digest)


def vae_backend(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> ImageModel:
    """Load a registered version's decoder."""
    return vae_images(load_vae(_required(version, "vae")).to(device), describe(config, version).digest)


def diffusion_backend(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> ImageModel:
    """Load a registered version's diffusion model."""
    registered = _required(version, "diffusion")
    model = load_diffusion(registered, *_distilled_parts(config))
    model.to(device)
    compiled = device.type == "cuda" if config.compile == "auto" else config.compile
    model.for_sampling(getattr(torch, config.precision), compiled)
    return diffusion_images(model, config.scheduler, config.steps, device, describe(config, version).digest)


BACKENDS: dict[str, Callable[[GeneratorConfig, ModelVersion | None, torch.device], ImageModel]] = {
    "phantom": phantom_backend,
    "vae": vae_backend,
    "diffusion": diffusion_backend,
}
_imported: dict[str, Callable[[GeneratorConfig, ModelVersion | None, torch.device], ImageModel]] = {}


def needs_training(backend: str) -> bool:
    """Whether a backend needs a registered model."""
    return backend != "phantom"


def needs_diffusion(backend: str) -> bool:
    """Whether a backend's model includes a diffusion model (custom backends get one)."""
    return backend not in ("phantom", "vae")


def load_image_model(config: GeneratorConfig, version: ModelVersion | None, device: str = "auto") -> ImageModel:
    """The image model that the configuration names.

    Raises:
        ConfigError: no backend has that name.
        ModelError: it needs a registered model and none is given, or the weights are missing or altered.
    """
    return find_backend(config.backend)(config, version, default_device(device))


def probed_model(
    vae: LatentModel, diffusion: DiffusionModel | None, probe: ProbeConfig, device: torch.device
) -> ImageModel:
    """Finished networks on ``device`` as the image model that a probe measures; not registered, so without a digest."""
    if diffusion is None:
        return vae_images(vae, digest="")
    return diffusion_images(diffusion, probe.scheduler, probe.steps, device, digest="")


def first_batch_size(model: ImageModel, config: GeneratorConfig, device: str = "auto") -> int:
    """The first batch size to try: as configured, or one that suits device and image size."""
    if config.batch_size == "auto":
        return auto_batch_size(default_device(device), model.image_size)
    return config.batch_size


def find_backend(name: str) -> Callable[[GeneratorConfig, ModelVersion | None, torch.device], ImageModel]:
    """The factory of the image model of this name; a custom one only after :func:`import_backend`.

    Runs no code: the name may come from a data set.

    Raises:
        ConfigError: the name is unknown, or code that the user has not named.
    """
    if found := BACKENDS.get(name) or _imported.get(name):
        return found
    if ":" not in name:
        expected = f"one of {', '.join(BACKENDS)}, or package.module:factory"
        raise ConfigError("generator.backend is unknown", expected=expected, got=name)
    raise ConfigError(
        "generator.backend is code, which is not imported because data name it", where=name,
        do="if you trust that package, name it yourself (--trust PACKAGE.MODULE:FACTORY)",
    )  # fmt: skip


def import_backend(name: str) -> None:
    """Import the custom backend that the user's own configuration or command names; nothing to do for the others.

    Raises:
        ConfigError: the name is unknown, or cannot be imported.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        find_backend(name)
        return
    try:
        _imported[name] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("generator.backend cannot be imported", where=name, got=error) from error


def _distilled_parts(config: GeneratorConfig) -> tuple[bool, bool]:
    """Whether the configuration samples with the student, and with the light decoder."""
    return config.scheduler == "student", config.decoder == "light"


def _required(version: ModelVersion | None, backend: str) -> ModelVersion:
    if version is None:
        raise ModelError(f"the {backend} backend needs a trained model", do="train one with: image-longitudinal train")
    return version
