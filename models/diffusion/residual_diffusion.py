"""The small diffusion model: generates the detail that the VAE's decoder lacks, given the latent vector.

It models the *residual* x - decode(z), scaled by its standard deviation, so all capacity goes into texture. Blocks of
4x4 pixels become channels: a 64x64 image is a 16x16 grid.
"""

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from image_longitudinal.models.diffusion.adagn import AdaGNDiffusion
from image_longitudinal.models.vae.network import VAE

PATCH = 4
GAIN = 4  # scales grey values around 0.5 to a standard deviation near 1


class ResidualDiffusion(AdaGNDiffusion):
    """Diffusion over the scaled residual of a frozen VAE.

    Args:
        vae, image_size, channels: see :class:`AdaGNDiffusion`.
        residual_scale: standard deviation of x - decode(z) over training images, in units of grey 0 to 1.
    """

    def __init__(self, vae: VAE, image_size: int, channels: tuple[int, ...], residual_scale: float = 1.0) -> None:
        side = image_size // PATCH
        super().__init__(vae, image_size, (PATCH**2, side, side), channels, "velocity")
        self.residual_scale = residual_scale

    def context(self, latents: Tensor) -> Tensor:
        """The VAE's image, centred on 0 and folded, (B, 16, h, w): an input of the denoiser at every step."""
        return pixel_unshuffle(self.vae_image(latents) - 0.5, PATCH) * GAIN

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Training target (B, 16, h, w): the scaled residual of images (B, 1, S, S), values 0 to 1."""
        return pixel_unshuffle((images - self.vae_image(latents)) / self.residual_scale, PATCH)

    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Inverse of :meth:`to_working`, clamped to 0 to 1; the context holds the VAE's image."""
        return pixel_shuffle(context / GAIN + 0.5 + working * self.residual_scale, PATCH).clamp(0, 1)
