"""Standard normal variables that share what they depend on: weights on the image, on the noise of association, their
own.

Every designed variable is such a sum, so that its correlation with every other follows from the weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinkedNormal:
    """A variable of variance 1: image·z + noise·e + own·ε.

    Args:
        name: of its own stream.
        image: weights (D,) of the latent dimensions.
        noise: weights (k,) of the standardised noise e of the random effects (:mod:`models.design.association`).
        own: weight of its own standard normal ε.
    """

    name: str
    image: FloatArray
    noise: FloatArray
    own: float

    @property
    def explained(self) -> float:
        """Share of the variance that the image explains."""
        return float(self.image @ self.image)

    def covariance(self, other: "LinkedNormal") -> float:
        """Correlation with another variable."""
        return float(self.image @ other.image + self.noise @ other.noise)

    def of_image(self, latents: NDArray[np.float32]) -> FloatArray:
        """The part that the image explains, (n,), of latents (n, D)."""
        return weighted_sum(latents, self.image)

    def draw(self, latents: NDArray[np.float32], noise: FloatArray, seed: int, ids: ArrayLike) -> FloatArray:
        """Values (n,) of subjects with latents (n, D) and noise (n, k)."""
        value = self.of_image(latents) + weighted_sum(noise, self.noise)
        if not self.own:
            return value
        return np.asarray(value + self.own * normals(stream_key(seed, "study", self.name), ids, 1)[:, 0])


def weighted_sum(values: NDArray[np.floating], weights: FloatArray) -> FloatArray:
    """values (n, m) · weights (m,), term by term: the bits of a row do not depend on the other rows."""
    out = np.zeros(len(values))
    for column, weight in enumerate(weights.tolist()):
        if weight:
            out += weight * values[:, column].astype(np.float64)
    return out


def unit_direction(given: Sequence[float] | None, name: str, entries: Sequence[int], seed: int, dim: int) -> FloatArray:
    """A direction of length 1 over ``entries`` of the latent vector: (dim,), given or drawn once from the seed.

    Raises:
        ConfigError: weights that are not one per entry, or all 0.
    """
    if given is None:
        weights = normals(stream_key(seed, "study direction", name), [0], len(entries))[0].tolist()
    else:
        weights = list(given)
    length = math.sqrt(math.fsum(weight * weight for weight in weights))
    if len(weights) != len(entries) or not length:
        expected = f"{len(entries)} weights, one for each of the latent dimensions {list(entries)}, not all 0"
        raise ConfigError(f"unusable direction of {name}", expected=expected, got=weights)
    out = np.zeros(dim)
    out[list(entries)] = [weight / length for weight in weights]
    return out


def linked_to_image(name: str, share: float, direction: FloatArray, effects: int) -> LinkedNormal:
    """The variable of which the image explains ``share``, along a direction (D,); ``effects``: of the model."""
    return LinkedNormal(name, math.sqrt(share) * direction, np.zeros(effects), math.sqrt(1 - share))


def linked_to(name: str, share: float, other: LinkedNormal) -> LinkedNormal:
    """The variable of which another one without noise of its own explains ``share``."""
    return LinkedNormal(name, math.sqrt(share) * other.image, math.sqrt(share) * other.noise, math.sqrt(1 - share))
