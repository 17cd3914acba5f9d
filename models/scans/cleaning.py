"""From one decoded scan to clean squares: grey, without the white fill of registration, framed, denoised, resized."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from image_longitudinal.core.errors import ConfigError, IngestError

Grey = NDArray[np.uint8]

PREPARATION_VERSION = 3  # goes into cache keys and manifests: raise it whenever a pixel changes

NEAR_WHITE = 0.75  # of full scale: fill has JPEG ripples, and the brightest retina seldom reaches this in large areas
FILL_MEDIAN = 0.95  # of full scale: least median of a component of fill, which is white all over; bright retina is not
FILL_RIM = 2  # pixels around fill that compression has greyed
BACKGROUND_PERCENTILE = 33  # of all other pixels: mostly vitreous and deep choroid

# Non-local means (Buades, Coll & Morel 2005): pixels, pixels, and filter strength in multiples of the noise level. That
# level is estimated between neighbouring pixels, while speckle is several pixels wide: with a strength below 3 speckle
# stays, above 6 layers merge.
NLM_PATCH, NLM_REACH, NLM_STRENGTH = 5, 6, 4.0
BM3D_SIGMA = 0.13  # the original's, of the scan's own range of grey


def clean_frame(image: NDArray[Any], denoiser: str = "nlm") -> Grey:
    """One upright scan as :func:`to_grey` takes it → a clean :func:`frame` of its own resolution: uint8 (H, H or 2 H).

    It is grey, without fill and denoised by a key of :data:`DENOISERS`.

    Raises:
        IngestError: see :func:`to_grey`; also for a scan without contrast (one grey level all over, fill aside).
        ConfigError: the denoiser is unknown or not installed.
    """
    grey = replace_fill(to_grey(image))
    if int(np.ptp(grey)) < 8:
        got = f"all grey near {grey[0, 0]}"
        raise IngestError("the scan shows nothing", expected="an image with contrast", got=got)
    if denoiser not in DENOISERS:
        raise ConfigError("images.denoise is unknown", expected=f"one of {', '.join(DENOISERS)}", got=denoiser)
    return DENOISERS[denoiser](frame(grey))


def to_grey(image: NDArray[Any]) -> Grey:
    """Grey levels 0 to 255 of a decoded image.

    Colour becomes luma (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B); transparency becomes black. Values of more than
    8 bits are divided by the smallest full scale 2ᵏ - 1, k = 8 … 16, that holds the image's maximum. So 10-, 12- and
    16-bit scans give the same image, black stays black, and relative brightness is kept. Floats within [0, 1] are
    fractions of full scale, larger ones are counts under the same rule.

    The image is (H, W), or (H, W, C) with C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; bool, integer or float. The result
    is uint8 (H, W).

    Raises:
        IngestError: for other shapes, negative or non-finite values, or values beyond 16 bits.
    """
    values = np.asarray(image)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 2, 3, 4)) or 0 in values.shape:
        raise IngestError("not an image", expected="shape (H, W) or (H, W, 1 to 4)", got=values.shape)
    full_scale = _full_scale(values)
    scaled = values.astype(np.float64) * (255.0 / full_scale)
    if scaled.ndim == 3:
        colour, alpha = scaled, None
        if scaled.shape[2] in (2, 4):
            colour, alpha = scaled[..., :-1], scaled[..., -1] / 255.0
        scaled = colour[..., 0] if colour.shape[2] == 1 else colour @ np.array([0.299, 0.587, 0.114])
        if alpha is not None:
            scaled = scaled * alpha
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _full_scale(values: NDArray[Any]) -> float:
    if values.dtype == np.bool_:
        return 1.0
    if values.dtype == np.uint8:
        return 255.0
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise IngestError("not an image", expected="integer or float pixels", got=values.dtype)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):  # also catches NaN
        raise IngestError("pixel values are out of range", expected="0 to 65535", got=f"{low:g} to {high:g}")
    if np.issubdtype(values.dtype, np.floating) and high <= 1:
        return 1.0
    bits = max(8, int(np.ceil(high)).bit_length())
    return float(2**bits - 1)


def replace_fill(grey: Grey) -> Grey:
    """Replace the white fill of rotation and registration by background, the 33rd percentile of the other pixels.

    uint8 (H, W) → uint8 (H, W); all other pixels are unchanged.
    """
    fill = fill_mask(grey)
    if not fill.any() or fill.all():
        return grey
    return np.where(fill, np.uint8(np.percentile(grey[~fill], BACKGROUND_PERCENTILE)), grey)


def fill_mask(grey: Grey) -> NDArray[np.bool_]:
    """The pixels of a scan (H, W) that are fill, bool (H, W).

    Fill is near-white, connected to a corner of the image, white all over, and open towards the top or the bottom edge.
    The last condition keeps bright retina that touches a wedge: it has tissue above and below. Two pixels around the
    fill are included.
    """
    near_white = grey > NEAR_WHITE * 255
    components, _ = ndimage.label(near_white, structure=np.ones((3, 3)))
    fill = np.zeros(grey.shape, bool)
    for corner in {int(components[y, x]) for y in (0, -1) for x in (0, -1)} - {0}:
        component = components == corner
        if np.median(grey[component]) >= FILL_MEDIAN * 255:
            fill |= component
    if not fill.any():
        return fill
    open_above = np.logical_and.accumulate(fill, axis=0)
    open_below = np.logical_and.accumulate(fill[::-1], axis=0)[::-1]
    return np.asarray(ndimage.binary_dilation(open_above | open_below, np.ones((3, 3)), iterations=FILL_RIM))


def frame(grey: Grey) -> Grey:
    """The middle of a scan at full depth, as wide as deep on the tissue.

    One rule for all scans, so that the frame does not reveal the source of a scan:

    - A scan at least twice as wide as deep (1024x496, 1536x496) comes from a mode that samples its width twice as
      densely (Heidelberg Spectralis, high resolution): two of its columns count as one.
    - The width is then cropped around the middle to the depth; a narrower scan is padded with black.

    So 384x496, 512x496, 768x496, 1024x496, 1536x496 and 512x512 scans all show the same depth at the same scale, and
    (512x512 to 3 %) the same width per pixel. A 768-column scan may show a narrow or a wide field: its file does not
    record which. uint8 (H, W) → uint8 (H, H), or (H, 2 H) for wide scans.
    """
    height, width = grey.shape
    target = height * (2 if width >= 2 * height else 1)
    if width >= target:
        left = (width - target) // 2
        return grey[:, left : left + target]
    left = (target - width) // 2
    return np.pad(grey, ((0, 0), (left, target - width - left)))


def resize(framed: Grey, size: int) -> Grey:
    """A frame, uint8 (H, H) or (H, 2 H) → a square, uint8 (size, size), by an antialiased Lanczos filter."""
    if framed.shape == (size, size):
        return framed.copy()
    return np.asarray(Image.fromarray(np.ascontiguousarray(framed)).resize((size, size), Image.Resampling.LANCZOS))


def to_sizes(framed: Grey, sizes: Iterable[int]) -> dict[int, Grey]:
    """A frame as squares of several sizes, each resized from the frame itself, not from another size."""
    return {size: resize(framed, size) for size in sizes}


def to_square(grey: Grey, size: int) -> Grey:
    """The middle of a scan (H, W) as a square (size, size), anatomy undistorted: :func:`frame`, then :func:`resize`."""
    return resize(frame(grey), size)


def noise_level(grey: Grey) -> float:
    """Standard deviation of the noise of a grey image (H, W), in units of full scale.

    Immerkær (1996): the mean absolute response to a mask that ignores constant, linear and quadratic structure.
    """
    mask = np.array([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 255
    response = np.abs(ndimage.convolve(grey.astype(np.float32), mask))[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2) / 6 * response.mean())


def denoise_nlm(grey: Grey) -> Grey:
    """Fast non-local means (Darbon et al. 2008, by scikit-image), uint8 (H, W) → uint8 (H, W)."""
    from skimage.restoration import denoise_nl_means  # here: importing it takes a second

    strength = NLM_STRENGTH * noise_level(grey)
    if strength == 0:
        return grey
    smooth = denoise_nl_means(
        grey.astype(np.float32) / 255, patch_size=NLM_PATCH, patch_distance=NLM_REACH, h=strength, fast_mode=True
    )
    return np.clip(np.rint(smooth * 255), 0, 255).astype(np.uint8)


def denoise_bm3d(grey: Grey) -> Grey:
    """Block matching and 3-D filtering (Dabov et al. 2007), as in the original; about 16 seconds per scan.

    Raises:
        ConfigError: the optional package is not installed. Its licence allows non-commercial use only.
    """
    try:
        import bm3d
    except ImportError as error:
        raise ConfigError(
            "images.denoise=bm3d needs an optional package",
            do="pip install 'image-longitudinal[bm3d]' if its licence (non-commercial use only) suits you, or use nlm",
        ) from error
    low, high = int(grey.min()), int(grey.max())
    smooth = bm3d.bm3d((grey.astype(np.float32) - low) / (high - low), sigma_psd=BM3D_SIGMA)
    return np.clip(np.rint(low + smooth * (high - low)), 0, 255).astype(np.uint8)


DENOISERS: dict[str, Callable[[Grey], Grey]] = {"nlm": denoise_nlm, "bm3d": denoise_bm3d, "none": lambda grey: grey}
