"""A network that regresses z on generated images; no part of the generator was trained with it.

Its R² is a lower bound of what the images hold.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss

from image_longitudinal.core.progress import Counter
from image_longitudinal.core.random import stream_key
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.quality.features import in_batches
from image_longitudinal.models.quality.recoverability import Reader
from image_longitudinal.models.training.step_random import batch_indices

SIDE = 64  # pixels a side of the network's input: dimensions that can become an η are coarse
CHANNELS = (32, 64, 96, 128)
BATCH, PEAK_RATE = 64, 2e-3
DROPOUT = 0.3  # without it, dimensions that no image holds are memorised, and R² of the others drops
BLOCK = 256


def train_latent_regressor(
    images: NDArray[np.uint8], latents: NDArray[np.float32], *, steps: int, seed: int, device: torch.device
) -> Reader:
    """Train on pairs of generated images and latents, apart from those that figures are measured on.

    Images are uint8 (n, S, S), S at least 32, latents (n, D) from N(0, I); each step is a batch of 64. ``seed`` is that
    of weights, order and dropout. Returns a function from images (m, S, S) to estimates of z, (m, D).
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream_key(seed, "reader-weights") >> 1)  # of weights and dropout
        network = _network(latents.shape[1]).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), PEAK_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
        targets, counter = torch.from_numpy(latents).to(device), Counter("train reader", steps, "steps")
        for step in range(steps):
            chosen = batch_indices(len(images), BATCH, seed, "reader", step)
            loss = mse_loss(network(_pixels(images[chosen], device)), targets[torch.from_numpy(chosen).to(device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            counter.update(step + 1)
    network.eval()
    return lambda new: in_batches(lambda batch: network(_pixels(batch, device)), new, BLOCK)


def _network(latent_dim: int) -> nn.Sequential:
    """Halves 64 pixels to 4 and keeps positions: some dimensions encode where the retina lies."""
    layers: list[nn.Module] = []
    inputs = 1
    for channels in CHANNELS:
        layers += [nn.Conv2d(inputs, channels, 3, stride=2, padding=1), nn.GroupNorm(8, channels), nn.SiLU()]
        layers += [nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.Conv2d(channels, channels, 1)]
        layers += [nn.GroupNorm(8, channels), nn.SiLU()]
        inputs = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(CHANNELS[-1] * 16, latent_dim))


def _pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    pixels = adaptive_avg_pool2d(to_unit(images, device), SIDE)
    return (pixels - 0.25) * 4
