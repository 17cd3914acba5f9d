"""The flattened retina: z ↔ image by explicit geometry and principal components, before any network.

``decode``: z → curve of the outer boundary and scores of the appearance (:mod:`models.flattened.prior`) → mean
flattened image + scores · components → columns moved along the curve. ``encode`` is the way back
(:mod:`models.flattened.reading`). All is fitted in closed form, so that every dimension of z is alive and readable
before the first step of training.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.config import VAEConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.flattened.prior import GaussianMixture, KnotheRosenblatt
from image_longitudinal.models.flattened.reading import Components, read_images
from image_longitudinal.models.imaging.geometry import CURVE_TERMS, bend
from image_longitudinal.models.vae.latent_model import LatentModel

ROWS_PER_PIXEL = 2  # the flattened image has twice the rows of the finished one: columns move by half pixels


def retina_rows(image_size: int) -> int:
    """Rows of the flattened image of a finished one with side ``image_size``."""
    return ROWS_PER_PIXEL * image_size


class FlattenedRetina(LatentModel):
    """Images ↔ latent vectors z (D), the first four of which are the curve of the retina.

    Args:
        image_size: side S of the finished images in pixels; flattened ones are (2 S, S).
        latent_dim: length D of z: 4 for the curve, the others for the appearance.
        components: number of Gaussians in the prior.
    """

    views_are_crops = False
    rotatable = False
    mean: Tensor
    basis: Tensor
    row_weight: Tensor
    centre: Tensor
    spread: Tensor
    prior_weights: Tensor
    prior_means: Tensor
    prior_lowers: Tensor

    def __init__(self, image_size: int, latent_dim: int, components: int) -> None:
        super().__init__()
        self.image_size, self.latent_dim = image_size, latent_dim
        self.flat_rows = retina_rows(image_size)
        appearance, pixels = latent_dim - CURVE_TERMS, self.flat_rows * image_size
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(appearance, pixels))  # orthonormal rows under the weights
        self.register_buffer("row_weight", torch.ones(self.flat_rows))  # of each flattened row in products
        for name, shape in (
            ("centre", (latent_dim,)), ("spread", (latent_dim,)), ("prior_weights", (components,)),
            ("prior_means", (components, latent_dim)), ("prior_lowers", (components, latent_dim, latent_dim)),
        ):  # fmt: skip
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def set_prior(self, mixture: GaussianMixture, centre: NDArray[np.float64], spread: NDArray[np.float64]) -> None:
        """Take the prior of the coordinates (x - centre) / spread."""
        lowers = np.linalg.cholesky(mixture.covariances)
        for buffer, values in (
            (self.centre, centre), (self.spread, spread), (self.prior_weights, mixture.weights),
            (self.prior_means, mixture.means), (self.prior_lowers, lowers),
        ):  # fmt: skip
            buffer.copy_(torch.from_numpy(np.asarray(values)))

    def coordinates(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Curve (B, 4) float64 and scores (B, D - 4) float32 of latents (B, D)."""
        x = self._transport().to_coordinates(latents) * self.spread + self.centre
        return x[:, :CURVE_TERMS], x[:, CURVE_TERMS:].float()

    def latents(self, curves: Tensor, scores: Tensor) -> Tensor:
        """Latents (B, D) float32: the inverse of :meth:`coordinates`."""
        x = torch.cat([curves.double(), scores.double()], dim=1)
        return self._transport().to_normal((x - self.centre) / self.spread).float()

    def mean_flat(self, scores: Tensor) -> Tensor:
        """Mean flattened images (B, 1, 2 S, S), values about 0 to 1, of scores (B, D - 4)."""
        # Component by component: the rounding of a matrix product depends on a row's place in the batch.
        flat = self.mean.expand(len(scores), -1)
        for k in range(scores.shape[1]):
            flat = torch.addcmul(flat, scores[:, k : k + 1], self.basis[k])
        return flat.reshape(-1, 1, self.flat_rows, self.image_size)

    def scores(self, flat: Tensor) -> Tensor:
        """Scores (B, D - 4) of flattened images (B, 1, 2 S, S)."""
        centred = flat.flatten(1) - self.mean
        return torch.stack([(centred * component).sum(1) for component in self._weighted_basis()], dim=1)

    def without_components(self, residual: Tensor) -> Tensor:
        """Residuals (B, 1, 2 S, S) less their part in the components: detail that leaves the scores as they are."""
        left = residual.flatten(1)
        for component, weighted in zip(self.basis, self._weighted_basis(), strict=True):
            left = torch.addcmul(left, (left * weighted).sum(1, keepdim=True), component, value=-1)
        return left.reshape(residual.shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Mean images (B, 1, S, S), values 0 to 1, of latents (B, D)."""
        curves, scores = self.coordinates(latents)
        return bend(self.mean_flat(scores), curves, self.image_size).clamp(0, 1)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents (B, D) of images (B, 1, H, W) of any size, values 0 to 1; ``noise`` is not used."""
        return self.latents(*self.read(images))

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Curve (B, 4) float64 and scores (B, D - 4) of images (B, 1, H, W) of any size, values 0 to 1."""
        size = (self.flat_rows, self.image_size)
        components = Components(self.mean.reshape(size), self.basis.reshape(-1, *size))
        return read_images(images, components, self.centre[:CURVE_TERMS])

    def features(self, images: Tensor) -> Tensor:
        """Coordinates (B, D) of images (B, 1, S, S), standardised: curve and scores before the prior's map."""
        curves, scores = self.read(images)
        return ((torch.cat([curves, scores.double()], dim=1) - self.centre) / self.spread).float()

    def _weighted_basis(self) -> Tensor:
        return self.basis * self.row_weight.repeat_interleave(self.image_size)

    def _transport(self) -> KnotheRosenblatt:
        return KnotheRosenblatt(self.prior_weights, self.prior_means, self.prior_lowers)


def assemble_flattened_retina(config: VAEConfig, weights: dict[str, Tensor]) -> FlattenedRetina:
    """A fitted retina of this configuration with these weights, in evaluation mode.

    Raises:
        ModelError: the weights are not those of such a model.
    """
    expected = FlattenedRetina(config.image_size, config.latent_dim, len(weights.get("prior_weights", ())))
    shapes = {name: tuple(values.shape) for name, values in expected.state_dict().items()}
    found = {name: tuple(values.shape) for name, values in weights.items()}
    if shapes != found:
        raise ModelError("these are not the weights of the flattened retina", expected=shapes, got=found)
    expected.load_state_dict(weights)
    return expected.eval()
