"""The device by name, and the batch size that suits it."""

import pytest
import torch

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.imaging.device import auto_batch_size, default_device


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "hpu", ""])
def test_a_device_that_is_not_there_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"compute\.device cannot be used"):
        default_device(name)
    assert default_device("cpu") == torch.device("cpu")
    assert default_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("device", "side", "size"),
    [("cuda", 512, 64), ("cuda", 224, 256), ("cuda", 64, 1024), ("cpu", 64, 32), ("cpu", 32, 32), ("cpu", 512, 1)],
)
def test_the_first_batch_is_a_power_of_two_that_suits_the_device(device: str, side: int, size: int) -> None:
    assert auto_batch_size(torch.device(device), side) == size
