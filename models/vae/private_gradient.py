"""The gradient of a step of DP-SGD: of each patient alone, clipped, summed, with noise (Abadi et al. 2016, 1607.00133).

The loss is a function of one image, and torch.func.vmap computes it for each: no patient can have an influence on what
another contributes, whatever the loss is.
"""

import secrets
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vmap

PATIENTS_AT_ONCE = 16  # each has a gradient of all weights in memory

Parameters = Mapping[str, Tensor]
ImageLoss = Callable[[Parameters, Tensor, Tensor], Tensor]  # weights, image (1, S, S), noise (D,) → scalar


def secret_generator() -> torch.Generator:
    """A generator (CPU) that nobody can start again: whoever knows sample and noise can subtract them."""
    return torch.Generator().manual_seed(secrets.randbits(63))


def sampled_scans(patients: NDArray[np.int64], rate: float, generator: torch.Generator) -> NDArray[np.int64]:
    """A Poisson sample of patients, with one scan of each: rows of ``patients``, the number of each scan's patient.

    Each patient is drawn with probability ``rate``, apart from all others, and then one of their scans, all alike.
    """
    of_patient = np.argsort(patients, kind="stable")
    counts = np.bincount(patients)
    counts = counts[counts > 0]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    uniform = torch.rand(2, len(counts), dtype=torch.float64, generator=generator).numpy()
    chosen = uniform[0] < rate
    return of_patient[starts[chosen] + (uniform[1][chosen] * counts[chosen]).astype(np.int64)]


def clipped_sum(
    loss: ImageLoss, parameters: Parameters, images: Tensor, noise: Tensor, max_norm: float
) -> dict[str, Tensor]:
    """Sum over patients of their gradients, each scaled down to a norm over all weights of at most ``max_norm``.

    Args:
        loss: of one image.
        parameters: the weights, by name; the sums have their shapes.
        images: one of each patient, (B, 1, S, S); B may be 0.
        noise: of the posterior, (B, D).
        max_norm: one patient more changes the sum by at most this norm. A gradient that is not finite counts as 0.
    """
    weights = {name: value.detach() for name, value in parameters.items()}
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    of_each = vmap(grad(loss), in_dims=(None, 0, 0))
    for start in range(0, len(images), PATIENTS_AT_ONCE):
        rows = slice(start, start + PATIENTS_AT_ONCE)
        found = of_each(weights, images[rows], noise[rows])
        norms = torch.stack([value.flatten(1).square().sum(1) for value in found.values()]).sum(0).sqrt()
        factors = torch.where(norms.isfinite(), (max_norm / norms).clamp(max=1), 0)
        for name, value in found.items():
            total[name] += torch.einsum("b,b...->...", factors, torch.nan_to_num(value, 0, 0, 0))
    return total


def with_noise(
    total: Mapping[str, Tensor], deviation: float, expected: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """The mean gradient of a step: the sum with normal noise, by the ``expected``, not the actual number of patients.

    ``deviation``: standard deviation of the noise of each weight; ``generator`` is on the CPU.
    """
    return {
        name: (value + deviation * torch.randn(value.shape, generator=generator).to(value.device)) / expected
        for name, value in total.items()
    }
