"""Tensors on disk: safetensors only (no code runs on loading), written whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.core.files import replacing


class ImageRows(Protocol):
    """Grey images that are read some at a time: an array (n, S, S) uint8, or a view of one on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of some rows, (m, S, S) uint8."""
        ...


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to a safetensors file, atomically.

    Raises:
        ModelError: the file cannot be written (disk full, no permission); nothing is left under ``path``'s name.
    """
    try:
        with replacing(path) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "cannot write tensors", where=path, got=error, do="free space or choose another place"
        ) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelError("a model file is missing", where=path, do="train the model again, or restore it") from error
    except (OSError, SafetensorError) as error:
        raise ModelError("a model file is damaged", where=path, got=error, do="delete it and train again") from error


def tensors_digest(tensors: dict[str, Tensor]) -> str | None:
    """SHA-256 (64 hex digits) over names, types, shapes and bits, wherever they come from; None for no tensors."""
    if not tensors:
        return None
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def default_device(device: str = "auto") -> torch.device:
    """The device to compute on: the one named, or for ``auto`` the first accelerator, else the CPU.

    Raises:
        ConfigError: no device has that name, or it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:  # torch's ways to say so
        raise ConfigError(
            "compute.device cannot be used",
            expected="auto, cpu, or an accelerator that is there, as cuda or cuda:1",
            got=device,
        ) from error


def to_unit(images: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """Grey levels (B, S, S) uint8 → float32 (B, 1, S, S), values 0 to 1, on ``device``."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device)[:, None].float() / 255


def as_grey_levels(images: Tensor) -> Tensor:
    """Images (B, 1, S, S), values 0 to 1 → grey levels (B, S, S) uint8, rounded, where they are."""
    return (images[:, 0].float() * 255).round().clamp(0, 255).to(torch.uint8).contiguous()


def to_grey_levels(images: Tensor) -> NDArray[np.uint8]:
    """:func:`as_grey_levels` in host memory."""
    return np.asarray(as_grey_levels(images).cpu().numpy())
