"""Networks of others whose features images are compared in, where their weights are at hand; never fetched."""

from __future__ import annotations

from typing import Any

from transformers import Dinov2Model

from image_longitudinal.core.errors import ModelError


def load_dinov2(folder: str) -> tuple[Any, int]:
    """A DINOv2 network in evaluation mode, from a local folder (config.json, model.safetensors), and its image side.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        network = Dinov2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            "cannot load the DINOv2 network",
            where=folder,
            expected="a local folder in transformers' layout, with safetensors",
            got=str(error).splitlines()[0],
            do="correct or drop probe.dinov2",
        ) from error
    patch = int(network.config.patch_size)
    return network.eval(), 16 * patch  # 224 for the published networks: 16x16 patches of 14 pixels
