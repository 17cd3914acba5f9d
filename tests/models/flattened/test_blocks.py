"""Blocks of pixels as cosine coefficients."""

import pytest
import torch
from scipy.fft import dctn

from image_longitudinal.models.flattened.blocks import Blocks


@pytest.mark.parametrize("shape", [(1, 1), (4, 2), (8, 4)])
def test_coefficients_are_those_of_the_cosine_transform_and_give_the_image_back(shape: tuple[int, int]) -> None:
    blocks = Blocks(*shape)
    images = torch.randn(3, 1, 16, 8, generator=torch.Generator().manual_seed(0))
    coefficients = blocks.split(images)
    assert coefficients.shape == (3, shape[0] * shape[1], 16 // shape[0], 8 // shape[1])
    expected = dctn(images[1, 0, -shape[0] :, : shape[1]].numpy(), norm="ortho").ravel()  # the block at lower left
    torch.testing.assert_close(coefficients[1, :, -1, 0], torch.from_numpy(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(blocks.join(coefficients), images, atol=1e-5, rtol=0)
