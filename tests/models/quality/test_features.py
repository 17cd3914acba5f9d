"""Feature spaces: the VAE's encoder and DINOv2."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.quality.features import dinov2_features, encoder_features
from image_longitudinal.models.vae.network import VAE
from tests.models.conftest import phantoms


def test_features_of_the_encoder_are_those_before_its_heads() -> None:
    vae = VAE(32, 5, 1 / 64).eval()
    features = encoder_features(vae)(phantoms(3, 64))  # of another size
    assert features.shape == (3, vae.encoder.mean.in_features)
    same = encoder_features(vae)(phantoms(3, 32))
    head = vae.encoder.mean(torch.from_numpy(same).float().relu())
    with torch.no_grad():
        expected, _ = vae.encoder(torch.from_numpy(phantoms(3, 32))[:, None].float() / 255)
    torch.testing.assert_close(head, expected, atol=1e-5, rtol=1e-4)


def test_dinov2_is_read_from_a_local_folder(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=2)
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2", safe_serialization=True)
    features = dinov2_features(str(tmp_path / "dinov2"))(phantoms(3, 64))
    assert features.shape == (3, 16)
    assert np.abs(features[0] - features[1]).max() > 1e-6
    with pytest.raises(ModelError, match=r"cannot load the DINOv2 network .*probe\.dinov2"):
        dinov2_features(str(tmp_path / "none"))
