"""Tensors on disk: safetensors only (no code runs on loading), written atomically."""

import hashlib
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from image_longitudinal.core.digest import file_sha256_once
from image_longitudinal.core.errors import ModelError, writing_advice
from image_longitudinal.core.files import replacing

CHECKSUM = "checksum"  # the key in a file's metadata


class DamagedTensorsError(ModelError):
    """A file of tensors is missing or not as it was written: it can be made anew by training again."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to a safetensors file.

    Raises:
        ModelError: the file cannot be written (disk full, no permission); an earlier file of that name stays.
    """
    try:
        with replacing(path) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise ModelError("cannot write tensors", where=path, got=error, do=writing_advice(error)) from error


def load_tensors(path: Path, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file; with ``sha256``, only of the file with that digest.

    Raises:
        DamagedTensorsError: the file is missing or damaged.
    """
    try:
        if sha256 is not None and (found := file_sha256_once(path)) != sha256:
            advice = "delete it and train again"
            raise DamagedTensorsError(
                "a model file is damaged", where=path, expected=f"sha256 {sha256}", got=found, do=advice
            )
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        advice = "train the model again, or restore it"
        raise DamagedTensorsError("a model file is missing", where=path, do=advice) from error
    except (OSError, SafetensorError) as error:
        advice = "delete it and train again"
        raise DamagedTensorsError("a model file is damaged", where=path, got=error, do=advice) from error


def save_checked(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """:func:`save_tensors` with a checksum of tensors and metadata inside, for files that are replaced as they grow.

    A digest beside such a file would, after a kill between the two writes, condemn a good file.
    """
    metadata = metadata or {}
    save_tensors(path, tensors, {**metadata, CHECKSUM: _checksum(tensors, metadata)})


def load_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of :func:`save_checked`.

    Raises:
        DamagedTensorsError: the file is missing or not as written.
    """
    tensors, metadata = load_tensors(path)
    if metadata.pop(CHECKSUM, None) != _checksum(tensors, metadata):
        what, do = "a model file is damaged: its checksum does not match", "delete it and train again"
        raise DamagedTensorsError(what, where=path, do=do)
    return tensors, metadata


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """CRC-32 over names, types, shapes, bits and metadata: 4 GB/s on one core, where SHA-256 would slow training."""
    crc = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}\n".encode(), crc)
        crc = zlib.crc32(_bytes(value), crc)
    return f"{crc:08x}"


def _bytes(value: Tensor) -> memoryview:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def tensors_digest(tensors: dict[str, Tensor]) -> str | None:
    """SHA-256 (64 hex digits) over names, types, shapes and bits, on whatever device; None for no tensors."""
    if not tensors:
        return None
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()
