"""The files of a training: whole and as written, or not used."""

import random
from pathlib import Path

import pytest
import torch

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.registry.metadata import VAETraining
from image_longitudinal.models.training.tensor_files import DamagedTensorsError
from image_longitudinal.tasks.training.networks import TrainedNetwork

FIGURES = VAETraining(history=[{"step": 0, "mse": 0.25}], kl=[1.0], active_units=1, validation_mse=0.1, perception="-")
WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}


@pytest.fixture
def trained(tmp_path: Path) -> TrainedNetwork:
    assert TrainedNetwork.find(tmp_path / "vae") is None
    TrainedNetwork.write(tmp_path / "vae", WEIGHTS, FIGURES)
    found = TrainedNetwork.find(tmp_path / "vae")
    assert found is not None
    return found


def test_weights_and_figures_come_back(trained: TrainedNetwork) -> None:
    assert trained.is_intact()
    assert trained.read_figures(VAETraining) == FIGURES
    assert all(torch.equal(value, WEIGHTS[key]) for key, value in trained.tensors().items())


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_no_flipped_bit_is_used(trained: TrainedNetwork, tmp_path: Path, suffix: str) -> None:
    path, source = tmp_path / f"vae.{suffix}", random.Random(7)
    good = path.read_bytes()
    for bit in source.sample(range(8 * len(good)), 100):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert not trained.is_intact()
        assert TrainedNetwork.find(tmp_path / "vae") is None
        with pytest.raises(DamagedTensorsError if suffix == "safetensors" else ModelError, match="damaged"):
            trained.tensors() if suffix == "safetensors" else trained.read_figures(VAETraining)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_torn_or_missing_file_is_no_finished_training(trained: TrainedNetwork, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vae.{suffix}"
    for content in (path.read_bytes()[:40], b"", None):
        path.unlink() if content is None else path.write_bytes(content)
        assert not trained.is_intact()
        assert TrainedNetwork.find(tmp_path / "vae") is None
