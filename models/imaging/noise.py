"""Per-subject noise on the device: :func:`core.random.seeded_normals` in torch, from the same random words."""

import numpy as np
import torch
from torch import Tensor

from image_longitudinal.core.random import philox4x32, seeded_normals, stream_key

_LOW = 0xFFFFFFFF
_CELLS = 4503599627370496.0  # 2⁵²


def subject_noise(seeds: Tensor, stage: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that depend on each row's own seed and the stage alone.

    Their uniforms are those of :func:`core.random.seeded_normals` bit for bit on every device; the normals agree to
    float32's last digit, because each device has its own quantile function.

    Seeds are int64 (B,), not negative; the result is float32 (B, *shape) on their device.
    """
    count = int(np.prod(shape))
    if seeds.device.type == "mps":  # has no float64, which the 52 bits of a uniform need
        on_cpu = seeded_normals(seeds.cpu().numpy(), stage, count).astype(np.float32)
        normals = torch.from_numpy(on_cpu).to(seeds.device)
    else:
        normals = torch.special.ndtri(seeded_uniforms(seeds, stage, count)).float()
    return normals.reshape(len(seeds), *shape)


def seeded_uniforms(seeds: Tensor, stage: str, n: int) -> Tensor:
    """The uniforms on (0, 1) behind :func:`subject_noise`, float64 (B, n), from seeds (B,) int64."""
    row = stream_key(0, stage)  # numpy's version counts rows by this number and keys them by their seeds
    blocks = torch.arange((n + 1) // 2, dtype=torch.int64, device=seeds.device)
    counter = (blocks[None], torch.zeros_like(blocks)[None], row & _LOW, row >> 32)
    words = philox4x32(counter, ((seeds & _LOW)[:, None], (seeds >> 32 & _LOW)[:, None]))
    pairs = torch.stack([_to_unit(words[0], words[1]), _to_unit(words[2], words[3])], dim=-1)
    return pairs.flatten(1)[:, :n]


def _to_unit(high: Tensor, low: Tensor) -> Tensor:
    """52 bits from two 32-bit words, centred in their cell, float64."""
    return ((high >> 6).double() * 67108864.0 + (low >> 6).double() + 0.5) / _CELLS
