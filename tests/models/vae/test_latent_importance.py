"""The two rankings, on a decoder and an encoder whose behaviour is known."""

import pytest
import torch

from image_longitudinal.models.vae.latent_importance import latent_importance
from image_longitudinal.models.vae.network import VAE


class Known(VAE):
    """Decodes entry 0 to the upper half and half of entry 1 to the lower; reads entry 0 exactly, entry 1 as zero."""

    def __init__(self) -> None:
        super().__init__(32, 3, 1 / 64)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        upper, lower = (latents[:, i, None, None, None].expand(-1, 1, 16, 32) for i in (0, 1))
        return torch.cat([upper, 0.5 * lower], 2)

    def encode(self, images: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        return torch.stack([images[:, 0, 0, 0], torch.zeros(len(images)), torch.full((len(images),), 2.0)], 1)


def test_change_and_reading_error_of_a_known_model() -> None:
    figures = latent_importance(Known().eval(), 0)
    # A redraw changes an entry by N(0, 2): half of the pixels by 2, half by 2/4; the third entry is dead.
    assert figures.change == pytest.approx([1, 0.25, 0], rel=0.25)  # 341 draws
    assert figures.change[2] == 0
    assert figures.reading_error == pytest.approx([0, 1, 5], rel=0.2, abs=1e-9)
    assert latent_importance(Known().eval(), 0) == figures
