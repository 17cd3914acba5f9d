"""The published predictor: a ResNet18 that regresses empirical Bayes estimates on images, end to end.

Added to the published recipe: the learning rate decays to 0, and the weights are averaged. Where the image explains a
few percent of the outcomes, raw weights hold more noise of single batches than signal
(docs/measurements/evaluation.md).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import ResNetConfig
from image_longitudinal.core.random import stream_key
from image_longitudinal.models.evaluation.ridge import row_chunks
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows, to_unit
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.step_random import batch_indices
from image_longitudinal.models.vae.network import Encoder

FloatArray = NDArray[np.float64]

LEARNING_RATE = 1e-3  # the published one, with Adam
AVERAGE = 0.999  # of the weights, over about the last ninth of a training shorter than 9,000 steps
VALIDATION = 20  # one of so many training subjects validates: the published 95 to 5
VALIDATIONS, PATIENCE = 10, 5  # per training; so many without a new best end it
BLOCK = 256


class Regressor(nn.Module):
    """ResNet18 with one channel in and k numbers out; ``width`` multiplies its channels."""

    def __init__(self, outputs: int, width: float) -> None:
        super().__init__()
        encoder = Encoder(outputs, width)
        self.features, self.head = encoder.features, encoder.mean

    def forward(self, images: Tensor) -> Tensor:
        """(B, k) of images (B, 1, S, S), values 0 to 1."""
        return self.head(self.features(images).pooler_output.flatten(1).relu())


def train_resnet(
    images: ImageRows, targets: FloatArray, network: ResNetConfig, *, seed: int, device: str, checkpoint: Path,
    report: Callable[[TrainingProgress], None] | None = None,
) -> Callable[[NDArray[np.uint8]], FloatArray]:  # fmt: skip
    """Train on images and targets; resumes from the checkpoint.

    Args:
        images: of the training subjects, (n, S, S) uint8, S at least 32.
        targets: their empirical Bayes estimates, (n, k).
        network: its size and training, which stops early when the validation error no longer falls.
        seed: of weights and order.
        device: as in ``compute.device``.
        checkpoint: safetensors file.
        report: receives progress.

    Returns:
        The network that validated best, as a function from images (m, S, S) uint8 to (m, k).
    """
    held_out = np.arange(len(images)) % VALIDATION == VALIDATION - 1
    learning, validating = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    values = torch.from_numpy(np.asarray(targets, np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "resnet-weights") >> 1)
        regressor = Regressor(targets.shape[1], network.width)
    batch_size = min(network.batch_size, len(learning))

    def loss(model: nn.Module, step: int, where: torch.device) -> dict[str, Tensor]:
        rows = learning[batch_indices(len(learning), batch_size, seed, "resnet", step)]
        return {"loss": mse_loss(model(to_unit(images[rows], where)), values[rows].to(where))}

    def validate(model: nn.Module) -> float:
        return float(np.square(_predict(model, images, validating) - values[validating].numpy()).mean())

    settings = LoopSettings(
        steps=network.steps, learning_rate=LEARNING_RATE, cosine_decay=True, ema_decay=AVERAGE, ema_warmup=True,
        validate_every=max(1, network.steps // VALIDATIONS), patience=PATIENCE,
        mixed_precision=network.mixed_precision, device=device,
    )  # fmt: skip
    trained, _ = train("resnet", regressor, loss, settings, checkpoint, report, validate if len(validating) else None)
    trained.to(default_device(device))
    return lambda new: _predict(trained, new, np.arange(len(new)))


@torch.no_grad()
def _predict(model: nn.Module, images: ImageRows, rows: NDArray[np.int64]) -> FloatArray:
    device = next(model.parameters()).device
    parts = (model(to_unit(images[rows[part]], device)).float().cpu() for part in row_chunks(len(rows), BLOCK))
    return torch.cat(list(parts)).double().numpy()
