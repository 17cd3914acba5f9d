"""Flattened training images, computed once and kept beside the checkpoint, and their augmentation.

They have twice the resolution that the model works at, and are resampled by choosing pixels, not by interpolation,
which would take away the speckle.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from image_longitudinal.core.digest import file_sha256, file_sha256_once, sealed_json, unsealed_json
from image_longitudinal.core.files import replacing, write_atomically
from image_longitudinal.models.flattened.retina import retina_rows
from image_longitudinal.models.imaging.geometry import (
    CURVE_TERMS,
    FLAT_ROW,
    fit_curve,
    flatten,
    mirrored,
    trace_outer_boundary,
)
from image_longitudinal.models.imaging.grey_images import ImageRows, to_unit

OVERSAMPLING = 2  # stored rows and columns per row and column of the model's flattened images
BATCH = 64
THICKNESS = 0.07  # most relative change of the distance from the outer boundary
WIDTH = 0.15  # most that a view is narrower than the scan
BRIGHTNESS = 0.05  # most relative change of grey levels


@dataclass(frozen=True)
class FlattenedImages:
    """Flattened images uint8 (n, R, C), perhaps on disk, and the curves float64 (n, 4) that they were flattened by.

    R and C are 4 S and 2 S, or what the source can fill.
    """

    flat: NDArray[np.uint8]
    curves: NDArray[np.float64]
    image_size: int

    def __len__(self) -> int:
        return len(self.flat)

    def plain(self, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        """Images (B, 1, 2 S, S), values 0 to 1, as they are."""
        return self._shrink(to_unit(self.flat[rows], device))

    def augmented(self, rows: NDArray[np.int64], generator: torch.Generator, device: torch.device) -> Tensor:
        """Views (B, 1, 2 S, S): mirrored or not, thinner or thicker, a part of the width, darker or brighter.

        The generator is on the CPU and gives five random numbers per image.
        """
        images = to_unit(self.flat[rows], device)
        n, height, width = len(images), *images.shape[2:]
        mirror, thickness, part, place, brightness = torch.rand(n, 5, generator=generator).to(device).unbind(1)
        images = torch.where((mirror < 0.5)[:, None, None, None], images.flip(-1), images)
        row = (torch.arange(height, device=device) + 0.5) / height
        row = FLAT_ROW + (row - FLAT_ROW) / (1 + THICKNESS * (2 * thickness - 1))[:, None]
        row_index = mirrored((row * height).floor().long(), height)
        share = 1 - WIDTH * part
        column = (torch.arange(width, device=device) + 0.5) / width - 0.5
        column = column * share[:, None] + 0.5 + ((place - 0.5) * (1 - share))[:, None]
        column_index = (column * width).long().clamp(0, width - 1)
        chosen = images[:, 0].gather(1, row_index[:, :, None].expand(-1, -1, width))
        chosen = chosen.gather(2, column_index[:, None].expand(-1, height, -1))[:, None]
        return self._shrink(chosen) * (1 + BRIGHTNESS * (2 * brightness - 1))[:, None, None, None]

    def _shrink(self, images: Tensor) -> Tensor:
        return interpolate(images, (retina_rows(self.image_size), self.image_size), mode="area")


def _are_intact(files: list[Path], record: Path) -> bool:
    try:
        recorded = unsealed_json(record.read_bytes())
        return all(file_sha256_once(file) == recorded.get(file.name) for file in files)
    except (OSError, ValueError):
        return False


def flatten_images(images: ImageRows, image_size: int, path: Path) -> FlattenedImages:
    """Trace and flatten images (n, H, H) uint8 for a model of images (S, S), or open the files if they exist.

    The files are ``<path>.flat.npy`` and ``<path>.curves.npy``, with their SHA-256 in ``<path>.flattened.json``;
    damaged ones are made again.
    """
    if not len(images):
        nothing = np.zeros((0, retina_rows(image_size), image_size), np.uint8)
        return FlattenedImages(nothing, np.zeros((0, CURVE_TERMS)), image_size)
    files = [path.with_name(f"{path.name}.{name}.npy") for name in ("flat", "curves")]
    record = path.with_name(f"{path.name}.flattened.json")
    if not _are_intact(files, record):
        flat_rows = retina_rows(image_size)
        source = images[slice(0, 1)].shape[1]
        rows = min(OVERSAMPLING * flat_rows, max(source, flat_rows))  # finer than the source brings nothing
        columns = min(OVERSAMPLING * image_size, max(source, image_size))
        with ExitStack() as stack:
            new = [stack.enter_context(replacing(file)) for file in files]
            flat = np.lib.format.open_memmap(new[0], "w+", np.uint8, (len(images), rows, columns))
            curves = np.lib.format.open_memmap(new[1], "w+", np.float64, (len(images), CURVE_TERMS))
            for start in range(0, len(images), BATCH):
                part = slice(start, min(start + BATCH, len(images)))
                batch = to_unit(images[part], "cpu")
                curve = fit_curve(trace_outer_boundary(batch))
                curves[part] = curve.numpy()
                flat[part] = (flatten(batch, curve, rows, columns)[:, 0] * 255).round().to(torch.uint8).numpy()
            flat.flush()
            curves.flush()
        write_atomically(record, sealed_json({file.name: file_sha256(file) for file in files}))
    flat, curves = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
    return FlattenedImages(flat, curves, image_size)
