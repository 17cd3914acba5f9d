"""Association by design: random effects with exactly the fraction ρ² of their variance explained by the image.

The original writes η_v = (η + √v·r)/√(1 + v) with r ~ N(0, I), so the image, which holds η, can explain
ρ² = 1/(1 + v) of Var(η_v). In terms of ρ²: η_v = ρ·η + √(1 - ρ²)·r.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key

FloatArray = NDArray[np.float64]


def draw_latents(seed: int, ids: ArrayLike, latent_dim: int) -> NDArray[np.float32]:
    """z ~ N(0, I) of subjects ``ids``: float32, shape (n, latent_dim)."""
    return normals(stream_key(seed, "latent"), ids, latent_dim).astype(np.float32)


def linked_effects(latents: NDArray[np.float32], entries: Sequence[int]) -> FloatArray:
    """η linked to the image: the chosen latent dimensions (from 0), float64, shape (n, k).

    Raises:
        ConfigError: a dimension that the latent vector does not have.
    """
    if not all(0 <= entry < latents.shape[1] for entry in entries):
        raise ConfigError(
            "dataset.eta_dims are out of range",
            expected=f"dimensions from 0 to {latents.shape[1] - 1}",
            got=list(entries),
        )
    return np.ascontiguousarray(latents[:, list(entries)], dtype=np.float64)


def associate(linked: FloatArray, level: float, *, omega: ArrayLike, seed: int, ids: ArrayLike) -> FloatArray:
    """Random effects with the fraction ``level`` of their (co)variance from ``linked``.

    Args:
        linked: η ~ N(0, Ω), (n, k).
        level: ρ², 0 < ρ² ≤ 1. Each level has its own noise, so adding a level changes no other.
        omega: Ω, (k, k).
        seed: the data set's seed.
        ids: subject ids, (n,).

    Returns:
        float64, (n, k), N(0, Ω) over subjects.

    Raises:
        ConfigError: a level outside (0, 1].
    """
    if not 0 < level <= 1:
        raise ConfigError("impossible association level", expected="0 < level ≤ 1", got=level)
    if level == 1:
        return linked.copy()
    noise = normals(stream_key(seed, "association", float(level)), ids, linked.shape[1])
    return np.asarray(np.sqrt(level) * linked + np.sqrt(1 - level) * scale_effects(noise, omega))


def associate_each(
    linked: FloatArray, levels: Sequence[float], *, level: float, omega: ArrayLike, seed: int, ids: ArrayLike
) -> FloatArray:
    """Random effects of which each has its own fraction of the variance from ``linked``; arguments as
    :func:`associate`.

    Args:
        linked, omega, seed, ids: as there.
        levels: ρ² of each effect, (k,), 0 ≤ ρ² ≤ 1.
        level: the level of the data set, which names the stream of the noise: with a diagonal Ω an effect at this
            level is the same bit for bit as from :func:`associate`.

    Raises:
        ConfigError: correlated effects cannot have these levels.
    """
    each = np.asarray(levels, np.float64)
    factor = noise_factor(each, omega)
    noise = normals(stream_key(seed, "association", float(level)), ids, linked.shape[1])
    matrix = np.asarray(omega, np.float64)
    if np.array_equal(matrix, np.diag(np.diag(matrix))):
        return np.asarray(np.sqrt(each) * linked + np.sqrt(1 - each) * scale_effects(noise, matrix))
    return np.asarray(np.sqrt(each) * linked + lower_product(noise, factor))


def noise_factor(levels: ArrayLike, omega: ArrayLike, names: Sequence[str] = ()) -> FloatArray:
    """The lower triangle F (k, k) with F·Fᵀ = Ω - D·Ω·D, D = diag(ρ): the part that the image does not explain.

    ``names`` of the effects are for the error.

    Raises:
        ConfigError: that is no covariance matrix; says which levels each effect could have beside the others.
    """
    each, matrix = np.asarray(levels, np.float64), np.asarray(omega, np.float64)
    rest = matrix * (1 - np.sqrt(np.outer(each, each)))
    if not _is_covariance(rest, matrix):
        called = names or [f"effect {k}" for k in range(1, len(each) + 1)]
        ranges = [(_attainable(each, matrix, index), name) for index, name in enumerate(called)]
        raise ConfigError(
            "correlated random effects cannot have these associations with the image",
            expected="; or ".join(f"{text} for {name}" for text, name in ranges if text) or "levels that differ less",
            got=", ".join(f"{level:g} for {name}" for level, name in zip(each, called, strict=True)),
        )
    return triangle(rest)


def triangle(matrix: FloatArray) -> FloatArray:
    """The lower triangle of a covariance matrix (k, k), which may be singular."""
    out = np.zeros_like(matrix)
    for j in range(len(matrix)):
        pivot = matrix[j, j] - out[j, :j] @ out[j, :j]
        if pivot > 1e-12 * max(matrix[j, j], 1e-300):
            out[j, j] = np.sqrt(pivot)
            out[j + 1 :, j] = (matrix[j + 1 :, j] - out[j + 1 :, :j] @ out[j, :j]) / out[j, j]
    return out


def lower_product(standard: FloatArray, factor: FloatArray) -> FloatArray:
    """standard (n, k) · factorᵀ, term by term (:func:`scale_effects`)."""
    columns = [sum(standard[:, j] * factor[i, j] for j in range(factor.shape[1])) for i in range(len(factor))]
    return np.stack(columns, axis=1)


def _is_covariance(rest: FloatArray, omega: FloatArray) -> bool:
    scale = np.sqrt(np.diag(omega))
    return bool(np.linalg.eigvalsh(rest / np.outer(scale, scale))[0] > -1e-9)


def _attainable(levels: FloatArray, omega: FloatArray, index: int) -> str:
    """The levels that one effect could have beside the others', in steps of 0.001; empty if none."""
    found = []
    for value in np.linspace(0, 1, 1001):
        tried = levels.copy()
        tried[index] = value
        if _is_covariance(omega * (1 - np.sqrt(np.outer(tried, tried))), omega):
            found.append(float(value))
    return f"{found[0]:g} to {found[-1]:g}" if found else ""


def scale_effects(standard: FloatArray, omega: ArrayLike) -> FloatArray:
    """Random effects with covariance Ω (k, k) from standardised ones (n, k), by its Cholesky factor.

    Sums term by term: the order of summation of a matrix product may change with the number of rows.
    """
    if is_identity(omega):
        return standard
    factor = np.linalg.cholesky(np.asarray(omega, np.float64))
    columns = [sum(standard[:, j] * factor[i, j] for j in range(i + 1)) for i in range(len(factor))]
    return np.stack(columns, axis=1)


def is_identity(omega: ArrayLike) -> bool:
    """Whether a covariance matrix (k, k) is I."""
    matrix = np.asarray(omega, np.float64)
    return np.array_equal(matrix, np.eye(len(matrix)))


@dataclass(frozen=True)
class AssociationSums:
    """Running sums behind the R² of one random effect on its linked latent dimension; add them over shards."""

    n: int
    sums: tuple[float, ...]  # Σx, Σy, Σx², Σy², Σxy

    @classmethod
    def of(cls, linked: FloatArray, used: FloatArray) -> Self:
        """Sums over subjects: linked and used effects, (n,) each."""
        x, y = np.asarray(linked, np.float64), np.asarray(used, np.float64)
        return cls(len(x), (x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.n + other.n, tuple(map(add, self.sums, other.sums)))

    def r_squared(self) -> tuple[float, float, float]:
        """R² with its 95 % interval by Fisher's z-transform (all NaN for fewer than 4 subjects)."""
        x, y, xx, yy, xy = (value / max(self.n, 1) for value in self.sums)
        variances = (xx - x * x) * (yy - y * y)
        if self.n < 4 or variances <= 0:
            return float("nan"), float("nan"), float("nan")
        r = min(max((xy - x * y) / np.sqrt(variances), -1.0), 1.0)
        if abs(r) > 1 - 1e-12:
            return 1.0, 1.0, 1.0
        low, high = np.tanh(np.arctanh(r) + np.array([-1.0, 1.0]) * 1.959964 / np.sqrt(self.n - 3))
        bounds = sorted((low**2, high**2))
        return float(r**2), 0.0 if low < 0 < high else float(bounds[0]), float(bounds[1])
