"""Feature spaces in which sets of images are compared."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.vae.latent_model import LatentModel

Matrix = NDArray[np.float64]
Features = Callable[[NDArray[np.uint8]], Matrix]  # images (n, S, S) uint8 → (n, F)

ENCODER_BATCH, DINOV2_BATCH = 256, 32


def encoder_features(vae: LatentModel) -> Features:
    """Features of the model between images and z: images (n, S, S) of any size → (n, F)."""
    return lambda images: encoded(vae, images, vae.features)


def encoded(vae: LatentModel, images: NDArray[np.uint8], function: Callable[[Tensor], Tensor]) -> Matrix:
    """``function`` of images (n, S, S), as float32 (b, 1, s, s) at the VAE's size on its device: (n, F)."""
    device, size = vae.device, (vae.image_size, vae.image_size)

    def of_batch(batch: NDArray[np.uint8]) -> Tensor:
        pixels = to_unit(batch, device)
        if pixels.shape[-2:] != size:
            pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
        return function(pixels)

    return in_batches(of_batch, images, ENCODER_BATCH)


def in_batches(function: Callable[[NDArray[np.uint8]], Tensor], images: NDArray[np.uint8], batch_size: int) -> Matrix:
    """``function`` of images (n, S, S), computed ``batch_size`` images at a time without gradients: (n, F)."""
    with torch.no_grad():
        parts = [function(images[i : i + batch_size]).cpu() for i in range(0, len(images), batch_size)]
    return torch.cat(parts).double().numpy()


def dinov2_features(folder: str) -> Features:
    """Features of a DINOv2 network (Oquab et al. 2024) from a local folder in transformers' layout, (n, F).

    Raises:
        ModelError: the folder holds no such network.
    """
    from transformers import Dinov2Model  # here: it takes seconds to import, and few probes use it

    try:
        network = Dinov2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise ModelError(
            "cannot load the DINOv2 network", where=folder,
            expected="a local folder in transformers' layout, with safetensors", got=str(error).splitlines()[0],
            do="correct or drop probe.dinov2",
        ) from error  # fmt: skip
    side = 16 * int(network.config.patch_size)  # 224 for the published networks: 16x16 patches of 14 pixels
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet's channels

    def of_batch(batch: NDArray[np.uint8]) -> Tensor:
        pixels = to_unit(batch, "cpu").expand(-1, 3, -1, -1)
        pixels = interpolate(pixels, (side, side), mode="bicubic", antialias=True)
        found: Tensor = network((pixels - mean[:, None, None]) / sd[:, None, None]).pooler_output
        return found

    return lambda images: in_batches(of_batch, images, DINOV2_BATCH)
