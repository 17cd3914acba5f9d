"""Blocks of pixels as cosine coefficients: what makes a large image small enough for a network on a fixed grid."""

import math

import torch
from torch import Tensor, nn


class Blocks(nn.Module):
    """Images (B, 1, H, W) ↔ coefficients (B, C, H/p, W/q) of blocks of p x q pixels, with C = p q.

    The cosine transform (DCT-II) of each block is orthonormal: white noise stays white, sums of squares stay as they
    are. Coefficients are ordered by their vertical, then by their horizontal frequency.
    """

    basis: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.shape = (rows, columns)
        self.coefficients = rows * columns
        basis = torch.kron(cosines(rows), cosines(columns)).float()
        self.register_buffer("basis", basis, persistent=False)  # (C, C): coefficients by pixels

    def split(self, images: Tensor) -> Tensor:
        """Coefficients of images."""
        rows, columns = self.shape
        blocks = images[:, 0].unflatten(2, (-1, columns)).unflatten(1, (-1, rows))  # (B, h, p, w, q)
        pixels = blocks.permute(0, 2, 4, 1, 3).flatten(1, 2)
        return torch.einsum("kc,bchw->bkhw", self.basis.to(pixels), pixels).contiguous()

    def join(self, coefficients: Tensor) -> Tensor:
        """Images of coefficients: the inverse of :meth:`split`."""
        pixels = torch.einsum("kc,bkhw->bchw", self.basis.to(coefficients), coefficients)
        blocks = pixels.unflatten(1, self.shape).permute(0, 3, 1, 4, 2)  # (B, h, p, w, q)
        return blocks.flatten(3, 4).flatten(1, 2)[:, None]


def cosines(n: int) -> Tensor:
    """The orthonormal DCT-II matrix (n, n) float64: frequencies by samples."""
    frequency, sample = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi * (sample + 0.5) * frequency / n) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix
