"""Per-subject noise generated on the device: :func:`core.random.seeded_normals` in torch, with the same random words.

Philox4x32-10 needs 32-bit products only. Torch has no unsigned 64-bit arithmetic on every device, but a signed product
wraps around to the same 64 bits, and masking its shifted upper half gives the unsigned one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from image_longitudinal.core.random import seeded_normals, stream_key

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF
_CELLS = 4503599627370496.0  # 2⁵²


def subject_noise(seeds: Tensor, stage: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that depend on each row's own seed and the stage alone.

    Their uniforms are those of :func:`core.random.seeded_normals` bit for bit on every device; the normals agree to
    float32's last digit, because each device has its own quantile function.

    Args:
        seeds: one per row, int64 (B,), not negative; the result is on their device.
        stage: names the stream, as in :func:`core.random.seeded_normals`.
        shape: of one row.

    Returns:
        float32, shape (B, *shape).
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


def philox4x32(
    counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten Philox rounds (Salmon et al. 2011) on 32-bit words held in int64 tensors (broadcast together)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (_high(p1) ^ c1 ^ k0), p1 & _LOW, (_high(p0) ^ c3 ^ k1), p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3  # type: ignore[return-value]  # after a round all four are tensors


def _high(product: Tensor | int) -> Tensor | int:
    """Upper half of a 64-bit product; the shift copies the sign bit, the mask removes the copies."""
    return product >> 32 & _LOW


def _to_unit(high: Tensor, low: Tensor) -> Tensor:
    """52 bits from two 32-bit words, centred in their cell, float64."""
    return ((high >> 6).double() * 67108864.0 + (low >> 6).double() + 0.5) / _CELLS
