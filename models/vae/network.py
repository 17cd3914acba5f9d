"""The variational autoencoder: ResNet18 encoder, convolutional decoder, and an affine map that standardises z."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.vae.augmentation import centre_view
from image_longitudinal.models.vae.latent_model import LatentModel

SCALE = 32  # the encoder halves the image five times, the decoder doubles it five times
GROUP_CHANNELS = 8  # in a group of group norm; every channel count is a multiple of it


class Encoder(nn.Module):
    """ResNet18 (one channel in) and two linear heads: mean and log-variance of the posterior.

    At ``width`` 1 these are the original's layers; every channel count is multiplied by ``width``.
    """

    def __init__(self, latent_dim: int, width: float) -> None:
        from transformers import ResNetConfig, ResNetModel  # here: it takes seconds to import

        super().__init__()
        channels = [_scaled(c, width) for c in (64, 128, 256, 512)]
        self.features = ResNetModel(
            ResNetConfig(
                num_channels=1, embedding_size=channels[0], hidden_sizes=channels, depths=[2, 2, 2, 2],
                layer_type="basic", hidden_act="relu",
            )
        )  # fmt: skip
        self.mean = nn.Linear(channels[-1], latent_dim)
        self.log_variance = nn.Linear(channels[-1], latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, (B, D) each, of images (B, 1, H, W), values 0 to 1."""
        features = self.features(images).pooler_output.flatten(1).relu()
        # No posterior comes near ±10; beyond it the exponential only risks infinities.
        return self.mean(features), self.log_variance(features).clamp(-10, 10)


class Decoder(nn.Sequential):
    """Dense layer, then pairs of 3x3 convolutions with batch norm, ReLU and nearest doubling; sigmoid at the end."""

    def __init__(self, latent_dim: int, image_size: int, width: float) -> None:
        base = image_size // SCALE
        first, *stages = [_scaled(c, width) for c in (1024, 512, 256, 128, 64, 32)]
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, base * base * first),
            nn.ReLU(),
            nn.Unflatten(1, (first, base, base)),
            *_convolution(first, stages[0]),
        ]
        for index, channels in enumerate(stages):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), *_convolution(channels, channels)]
            if index + 1 < len(stages):
                layers += _convolution(channels, stages[index + 1])
        layers += [nn.Conv2d(stages[-1], 1, 3, padding=1), nn.Sigmoid()]
        super().__init__(*layers)


class VAE(LatentModel):
    """Images ↔ latent vectors.

    Training works on the *raw* latent; :meth:`encode` and :meth:`decode` work on the *standardised* one. The affine map
    ``raw = shift + z @ transform.T`` is fitted after training so that the latents of real images have mean zero and
    identity covariance, like samples of N(0, I).

    ``image_size`` is the side of the square images in pixels, a multiple of 32; ``latent_dim`` the length of z
    (original: 128); ``width`` multiplies every channel count (original: 1). With ``group_norm``, which takes the place
    of batch norm, no image of a batch has an influence on another: private training needs that.
    """

    views_are_crops = True
    rotatable = True
    shift: Tensor
    transform: Tensor

    def __init__(self, image_size: int, latent_dim: int, width: float, group_norm: bool = False) -> None:
        super().__init__()
        if image_size % SCALE or image_size < SCALE:
            raise ModelError("the VAE cannot take this image size", expected=f"a multiple of {SCALE}", got=image_size)
        self.image_size, self.latent_dim = image_size, latent_dim
        self.encoder = Encoder(latent_dim, width)
        self.decoder = Decoder(latent_dim, image_size, width)
        if group_norm:
            _replace_batch_norm(self)
        self.register_buffer("shift", torch.zeros(latent_dim))
        self.register_buffer("transform", torch.eye(latent_dim))

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass in raw coordinates, of images (B, 1, H, W), values 0 to 1, and normal noise (B, D).

        Returns the reconstruction (B, 1, H, W) and the posterior's mean and log-variance, (B, D) each.
        """
        mean, log_variance = self.encoder(images)
        return self.decoder(mean + noise * (0.5 * log_variance).exp()), mean, log_variance

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Standardised latents (B, D) of images (B, 1, H, W): the posterior mean, or a sample when given noise."""
        mean, log_variance = self.posterior(images)
        return self.standardised(mean if noise is None else mean + noise * (0.5 * log_variance).exp())

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw posterior mean and log-variance, (B, D) each, of images (B, 1, H, W) of any size, values 0 to 1."""
        if images.shape[-1] != self.image_size:
            images = interpolate(images, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return self.encoder(images)

    def standardised(self, raw: Tensor) -> Tensor:
        """Standardised latents (B, D) of raw ones."""
        return torch.linalg.solve(self.transform, (raw - self.shift).T).T

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 1, H, W), values 0 to 1, of standardised latents (B, D)."""
        # Row by row: the rounding of a small matrix product depends on a row's place in the batch; an image must not.
        return self.decoder(self.shift + (latents[:, None] * self.transform).sum(-1))

    def view(self, images: Tensor) -> Tensor:
        """The centre window of images (B, 1, S, S); see :func:`models.vae.augmentation.centre_view`."""
        return centre_view(images)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, F) of the encoder before its two heads."""
        return self.encoder.features(images).pooler_output.flatten(1)

    @torch.no_grad()
    def rotate(self, axes: Tensor) -> None:
        """Make the columns of ``axes`` (D, D), orthogonal, the new dimensions of standardised latents."""
        self.transform.copy_(self.transform @ axes.to(self.transform))


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def _replace_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(child.num_features // GROUP_CHANNELS, child.num_features))
        else:
            _replace_batch_norm(child)


def _scaled(channels: int, width: float) -> int:
    return max(8, round(channels * width / 8) * 8)
