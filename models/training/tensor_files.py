"""Tensors on disk: safetensors only (no code runs on loading), written atomically."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.files import replacing


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to a safetensors file.

    Raises:
        ModelError: the file cannot be written (disk full, no permission); an earlier file of that name stays.
    """
    try:
        with replacing(path) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata)
    except (OSError, SafetensorError) as error:
        advice = "free space or choose another place"
        raise ModelError("cannot write tensors", where=path, got=error, do=advice) from error


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
    """SHA-256 (64 hex digits) over names, types, shapes and bits, on whatever device; None for no tensors."""
    if not tensors:
        return None
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
