"""Procedural retinal OCT B-scan: images whose geometry is known exactly, because latent dimensions control it.

Layer thicknesses are those of healthy eyes, and the foveal pit follows Scheibe et al. (2014, *Parametric model for the
3D reconstruction of individual fovea shape*). The speckle is fully developed: a complex Gaussian field times the square
root of the reflectivity, blurred by the point spread, squared, averaged over looks and log-compressed (Schmitt, Xiang,
Yung 1999, *Speckle in optical coherence tomography*).

The frame is always 6 mm wide and 1.6 mm deep, whatever the number of pixels.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.random import seeded_normals

PHANTOM_VERSION = 1  # goes into cache keys and digests: raise it whenever a pixel changes

Field = NDArray[Any]  # float32 throughout: numpy's stubs widen sums of float32 scalars and arrays to float64

WIDTH_MM, DEPTH_MM = 6.0, 1.6
SQUASH = 2.5  # z / SQUASH is the argument of tanh: nearly linear over ±1.5, at ±5 within 4 % of the bound


class LatentEffect(NamedTuple):
    """The quantity that a latent dimension controls: ``centre`` at z = 0, ``centre ± reach`` as z → ±∞."""

    name: str
    centre: float
    reach: float


LATENT_EFFECTS = (
    LatentEffect("vertical position", 0.63, 0.13),  # of the middle pigment epithelium, frame heights from the top
    LatentEffect("tilt", 0.0, 0.11),  # drop of the retina from the middle to the right edge, in frame heights
    LatentEffect("curvature", 0.04, 0.10),  # drop of the middle below the edges, in frame heights: > 0 is a cup
    LatentEffect("luminance", 0.95, 0.25),  # factor on all tissue brightness
    LatentEffect("foveal pit depth", 0.90, 0.35),  # factor on Scheibe's profile; 1.3 empties the ganglion cells
    LatentEffect("foveal pit width", 1.0, 0.35),  # factor on Scheibe's radius
    LatentEffect("foveal position", 0.0, 1.2),  # mm right of the middle
    LatentEffect("retinal thickness", 1.0, 0.20),  # factor on all layers above the photoreceptors
    LatentEffect("nerve fibre layer", 1.3, 0.9),  # factor on its thickness
    LatentEffect("outer nuclear layer", 1.0, 0.40),  # factor on its thickness
    LatentEffect("choroid", 0.17, 0.10),  # mm over which its brightness falls by 1/e
    LatentEffect("contrast", 1.0, 0.40),  # factor on the differences between layers
)
LATENT_NAMES: tuple[str, ...] = tuple(effect.name for effect in LATENT_EFFECTS)


class Layer(NamedTuple):
    """A retinal layer: thickness (µm) at the foveal centre and 1 mm away, brightness in [0, 1] on the log scale."""

    name: str
    fovea: float
    around: float
    brightness: float


LAYERS = (
    Layer("nerve fibres", 11, 23, 0.60),
    Layer("ganglion cells", 12, 52, 0.40),
    Layer("inner plexiform", 18, 41, 0.46),
    Layer("inner nuclear", 15, 40, 0.29),
    Layer("outer plexiform", 24, 33, 0.43),
    Layer("outer nuclear", 88, 68, 0.22),
    Layer("external membrane", 7, 7, 0.40),
    Layer("inner segments", 21, 20, 0.28),
    Layer("ellipsoid zone", 15, 15, 0.74),
    Layer("outer segments", 25, 19, 0.44),
    Layer("pigment epithelium", 22, 22, 0.86),
)
_NERVE, _GANGLION, _NUCLEAR, _SCALED = 0, 1, 5, 6  # indices above; the first _SCALED layers follow retinal thickness
VITREOUS, CHOROID, TISSUE_MEAN = 0.05, 0.50, 0.42  # brightness; contrast scales differences from the last
BOUNDARY_UM = 8.0  # width of the transition between two layers
LOG_RANGE = 11.5  # natural log of the intensity ratio that spans black to white: 50 dB

_KNOTS, _VESSELS = 16, 4
_WAVES = ((27.0, 6.0), (20.0, -6.0), (34.0, 9.0), (44.0, -9.0))  # choroidal vessels: radians per mm, depth and lateral
_TEXTURES = 1 + 2 * _VESSELS + (1 + len(_WAVES)) * _KNOTS  # normals per subject: nasal side, vessels, smooth functions
_R2 = (0.7548776662466927, 0.5698402909980532)  # Roberts' sequence: points far from each other, modulo 1
_CHUNK_PIXELS = 1 << 16  # pixels worked on at once: float32 fields of this size stay in a core's cache


def render(latents: ArrayLike, seeds: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Render one B-scan per row; it depends on its own latents and seed alone, bit for bit, whatever its batch.

    Args:
        latents: (B, D) floats, meant as samples of N(0, 1); dimension i controls ``LATENT_NAMES[i]``, further ones have
            no effect, missing ones count as 0.
        seeds: (B,) non-negative integers: speckle and tissue texture.
        size: pixels per side, at least 16.

    Returns:
        (B, size, size) uint8, row 0 at the top (the vitreous).

    Raises:
        ModelError: for other shapes, for latents that are not finite, or for a size below 16.
    """
    latents = np.asarray(latents, np.float32)
    seeds = np.asarray(seeds)
    if latents.ndim != 2 or seeds.shape != latents.shape[:1]:
        raise ModelError(
            "the phantom cannot pair latents with seeds", expected="latents of shape (B, D) and seeds of shape (B,)",
            got=f"{latents.shape} and {seeds.shape}",
        )  # fmt: skip
    if not np.isfinite(latents).all():
        raise ModelError("the phantom's latents are not finite", expected="samples of N(0, 1)")
    if size < 16:
        raise ModelError("the phantom is too small to hold a retina", expected="size at least 16", got=size)
    images = np.empty((len(latents), size, size), np.uint8)
    step = max(1, _CHUNK_PIXELS // size**2)
    for start in range(0, len(latents), step):
        rows = slice(start, start + step)
        brightness = _brightness(anatomy(latents[rows]), seeds[rows], size)
        images[rows] = _scan(brightness, seeds[rows], size)
    return images


def anatomy(latents: ArrayLike) -> dict[str, Field]:
    """The quantities of latents (B, D), by name, float32 (B, 1) each, in the units given at ``LATENT_EFFECTS``.

    Strictly increasing in their latent dimension and bounded: centre + reach · tanh(z / 2.5).
    """
    latents = np.asarray(latents, np.float32)
    squashed = np.zeros((len(latents), len(LATENT_EFFECTS)), np.float32)
    used = min(latents.shape[1], len(LATENT_EFFECTS))
    squashed[:, :used] = np.tanh(latents[:, :used] / np.float32(SQUASH))
    return {
        effect.name: np.float32(effect.centre) + np.float32(effect.reach) * squashed[:, i, None]
        for i, effect in enumerate(LATENT_EFFECTS)
    }


def layer_depths(latents: ArrayLike, seeds: ArrayLike, size: int) -> Field:
    """The layer boundaries in the images that :func:`render` makes of the same arguments: their exact geometry.

    float32 (len(LAYERS) + 1, B, size), in pixels from the top edge of the image at the middle of each column: the inner
    limiting membrane first, the lower edge of the pigment epithelium last.
    """
    x = _columns(np.arange(size, dtype=np.float32), size)
    return _surfaces(anatomy(latents), x, _nasal(_texture(np.asarray(seeds)))) * np.float32(size)


def _columns(index: Field, size: int) -> Field:
    """Lateral position (mm, 0 at the middle of the frame) of pixel columns."""
    return (index + np.float32(0.5)) * np.float32(WIDTH_MM / size) - np.float32(WIDTH_MM / 2)


def _texture(seeds: NDArray) -> Field:
    return seeded_normals(seeds, "phantom-tissue", _TEXTURES).astype(np.float32)


def _nasal(texture: Field) -> Field:
    """The side (B, 1), 1 right or -1 left, on which nerve fibres gather towards the optic disc."""
    return np.where(texture[:, :1] > 0, np.float32(1), np.float32(-1))


def _surfaces(values: dict[str, Field], x: Field, nasal: Field) -> Field:
    """Depth of the layer boundaries (len(LAYERS) + 1, B, columns) at ``x`` mm, in frame heights from the top."""
    away = np.abs(x - values["foveal position"]) / values["foveal pit width"]
    rim = values["foveal pit depth"] * (np.float32(1) - _pit(away))  # 1 at an average foveal centre, 0 on the rim
    edge = x / np.float32(WIDTH_MM / 2)
    bottom = (
        values["vertical position"] + values["tilt"] * edge - values["curvature"] * (edge * edge - np.float32(1 / 3))
    )
    factors = [values["retinal thickness"] if i < _SCALED else np.float32(1) for i in range(len(LAYERS))]
    factors[_NERVE] = factors[_NERVE] * values["nerve fibre layer"] * (np.float32(1) + np.float32(0.45) * nasal * edge)
    factors[_NUCLEAR] = factors[_NUCLEAR] * values["outer nuclear layer"]
    depths = np.empty((len(LAYERS) + 1, *bottom.shape), np.float32)
    depths[-1] = bottom
    for i in reversed(range(len(LAYERS))):
        layer = LAYERS[i]
        microns = factors[i] * (np.float32(layer.around) + np.float32(layer.fovea - layer.around) * rim)
        depths[i] = depths[i + 1] - microns * np.float32(1e-3 / DEPTH_MM)
    return depths


def _pit(radius: Field) -> Field:
    """Scheibe's profile with μ = 1, σ = 0.5, γ = 1.5, α = 0.1, scaled to 0 at the centre and 1 on the rim."""
    u = radius * np.sqrt(radius)
    fall = np.exp(-u)
    return (np.float32(0.25) * u * fall + np.float32(0.1) * (np.float32(1) - fall)) / np.float32(0.16165)


def _brightness(values: dict[str, Field], seeds: NDArray, size: int) -> Field:
    """Speckle-free brightness (B, size + 2, size + 2): the frame and one pixel around it for the point spread."""
    index = np.arange(-1, size + 1, dtype=np.float32)
    x = _columns(index, size)
    texture = _texture(seeds)
    shadow = _vessel_shadows(texture[:, 1 : 1 + 2 * _VESSELS], x)
    smooth = [_smooth(knots, x) for knots in np.split(texture[:, 1 + 2 * _VESSELS :], 1 + len(_WAVES), axis=1)]

    edges = _surfaces(values, x, _nasal(texture)) * np.float32(size)
    middle = index[:, None] + np.float32(0.5)
    blend = np.float32(1 / max(1.5, BOUNDARY_UM * 1e-3 / DEPTH_MM * size))  # over at least 1.5 pixels: no staircase
    light, contrast = values["luminance"][..., None], values["contrast"][..., None]

    level: Field | np.float32 = np.float32(0)  # brightness above the vitreous'
    previous: Field | np.float32 = np.float32(0)
    for i, layer in enumerate(LAYERS):
        below = np.clip((middle - edges[i][:, None, :]) * blend + np.float32(0.5), 0, 1)  # fraction of a pixel
        if i == _GANGLION:
            shaded = below
        lit = np.float32(TISSUE_MEAN - VITREOUS) + contrast * np.float32(layer.brightness - TISSUE_MEAN)
        level = level + below * (lit - previous)
        previous = lit
    level = level * (np.float32(1) + np.float32(0.05) * smooth[0][:, None, :])
    below = np.clip((middle - edges[-1][:, None, :]) * blend + np.float32(0.5), 0, 1)
    depth = (middle - edges[-1][:, None, :]) * np.float32(DEPTH_MM / size)
    level = level + below * (_choroid(np.maximum(depth, 0), x, values["choroid"][..., None], smooth[1:]) - level)
    level = level * (np.float32(1) - shaded * shadow[:, None, :])
    return np.float32(VITREOUS) + light * level


def _choroid(depth: Field, x: Field, fade: Field, phases: list[Field]) -> Field:
    """Brightness of the choroid above the vitreous': fading with depth (mm), dark vessels between waves."""
    vessels = np.zeros_like(depth)
    for (down, right), phase in zip(_WAVES, phases, strict=True):
        vessels += np.cos(np.float32(down) * depth + (np.float32(right) * x + np.float32(2.0) * phase)[:, None, :])
    fading = np.exp(-depth / fade)
    return np.float32(CHOROID - VITREOUS) * fading * (np.float32(1) - np.float32(0.14) * vessels)


def _vessel_shadows(texture: Field, x: Field) -> Field:
    """Fraction of light (B, columns) that retinal vessels absorb for everything beneath them."""
    place, strength = np.split(texture, 2, axis=1)
    shadow = np.zeros((len(texture), len(x)), np.float32)
    pixel = float(x[1] - x[0])
    for vessel in range(_VESSELS):
        true_width = 0.035 + 0.012 * vessel
        width = max(true_width, 0.7 * pixel)  # a shadow narrower than a pixel darkens all of it
        offset = (x - np.float32(1.8) * place[:, vessel, None]) / np.float32(width)
        depth = np.float32(0.14 * true_width / width) * np.minimum(np.abs(strength[:, vessel, None]), np.float32(2.5))
        shadow += depth * np.exp(-offset * offset)
    return np.minimum(shadow, np.float32(0.6))


def _smooth(knots: Field, x: Field) -> Field:
    """Random function of x (B, columns) through evenly spaced ``knots`` (B, K), by cosine interpolation."""
    place = (x / np.float32(WIDTH_MM) + np.float32(0.5)) * np.float32(knots.shape[1] - 3) + np.float32(1)
    left = np.floor(place).astype(np.intp)
    weight = np.float32(0.5) - np.float32(0.5) * np.cos(np.float32(np.pi) * (place - left.astype(np.float32)))
    return knots[:, left] * (np.float32(1) - weight) + knots[:, left + 1] * weight


def _scan(brightness: Field, seeds: NDArray, size: int) -> NDArray[np.uint8]:
    """Apply speckle to ``brightness`` (B, size + 2, size + 2) and compress it to grey levels (B, size, size).

    All looks and both components are shifts of one Gaussian field per subject, far enough to be independent at every
    pixel. A pixel of a small image holds many speckle grains, so it averages more looks and needs no blur.
    """
    looks = 24 if size < 128 else 8
    blur = 0.25 * min(1.0, (size / 512) ** 2) if size >= 128 else 0.0
    noise = seeded_normals(seeds, "phantom-speckle", size * size).astype(np.float32).reshape(-1, size, size)
    tiled = np.pad(noise, ((0, 0), (0, size + 2), (0, size + 2)), mode="wrap")
    amplitude = np.exp(np.float32(LOG_RANGE / 2) * brightness)
    inside = slice(1, size + 1)
    power = np.zeros_like(noise)
    for index in range(2 * looks):
        down, right = (int(size * index * step) % size for step in _R2)
        if blur:
            field = amplitude * tiled[:, down : down + size + 2, right : right + size + 2]
            field = _blur(_blur(field, blur, 1), blur, 2)
            power += field * field
        else:
            speckle = tiled[:, down + 1 : down + size + 1, right + 1 : right + size + 1]
            power += speckle * speckle
    if not blur:
        power *= amplitude[:, inside, inside] ** 2
    gain = ((1 - 2 * blur) ** 2 + 2 * blur**2) ** 2  # fraction of white noise power after the point spread
    grey = np.log(power * np.float32(1 / (2 * looks * gain)) + np.float32(1e-6)) * np.float32(255 / LOG_RANGE)
    return np.clip(grey + np.float32(0.5), 0, 255).astype(np.uint8)


def _blur(field: Field, weight: float, axis: int) -> Field:
    """Three-tap point spread along ``axis``; the result is two pixels shorter."""
    field = np.moveaxis(field, axis, 0)
    blurred = np.float32(1 - 2 * weight) * field[1:-1] + np.float32(weight) * (field[:-2] + field[2:])
    return np.moveaxis(blurred, 0, axis)
