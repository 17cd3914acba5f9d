"""What decides a trained model, beside its configuration."""

from __future__ import annotations

from pathlib import Path

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.tasks.training.training import pretrained_digest


def test_other_weights_in_a_pretrained_folder_are_another_model(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"one")
    config = DiffusionConfig(kind="stable-diffusion", pretrained=str(tmp_path))
    first = pretrained_digest(config)
    weights.write_bytes(b"two")
    assert None not in (first, pretrained_digest(config))
    assert pretrained_digest(config) != first
    latent = DiffusionConfig(kind="latent", autoencoder=str(tmp_path / "vae"))
    assert pretrained_digest(latent) == pretrained_digest(config)  # the same files
    assert pretrained_digest(DiffusionConfig(kind="residual", pretrained=str(tmp_path))) is None
    assert pretrained_digest(DiffusionConfig(kind="stable-diffusion", pretrained="name/on-the-hub")) is None
