"""Whether a file shows one upright B-scan of a retina: what is odd is cured, or refused with its reason.

In order: several pictures in one file, colour, polarity and position, layers, writing. An ordinary scan goes through
bit for bit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.clean_scan import CleanScan
from image_longitudinal.core.config import OddScans
from image_longitudinal.core.errors import IngestError
from image_longitudinal.models.scans.cleaning import BACKGROUND_PERCENTILE, clean_frame, to_grey
from image_longitudinal.models.scans.layers import LEAST_LAYERED, Layers, find_layers, to_grid
from image_longitudinal.models.scans.orientation import darkened, righted
from image_longitudinal.models.scans.panels import infrared_panel, side_by_side, stacked
from image_longitudinal.models.scans.writing import Box, blank, find_writing

Grey = NDArray[np.uint8]

COLOURED = 40  # grey levels between the channels of a coloured pixel; grey scans saved as colour JPEG stay below 10
MOST_COLOURED = 0.001  # share of pixels: a drawn line takes more
AROUND = 8  # pixels around writing that tell what it lies on
TISSUE = 0.35  # from background to the brightest percentile: vitreous and deep choroid are darker
TAKE = "look at it; images.odd_scans=take takes it as it is"


def plausible(image: NDArray[Any], odd_scans: OddScans = "cure") -> tuple[Grey, tuple[str, ...]]:
    """A decoded image as :func:`models.scans.cleaning.to_grey` takes it → one upright scan (H, W), and its cures.

    Args:
        image: (H, W), or (H, W, C).
        odd_scans: ``cure`` what can be cured and refuse the rest; ``refuse`` whatever is odd; ``take`` all as it is.

    Raises:
        IngestError: the file shows something else than one scan; says what was found and what to do.
    """
    grey = to_grey(image)
    if odd_scans == "take":
        return grey, ()
    cures: list[str] = []
    colour = np.asarray(image)
    if int(np.ptp(grey)) >= 8:  # one without contrast is refused by what cleans it
        if panel := infrared_panel(grey):
            grey, colour = grey[:, panel.first : panel.end], colour[:, panel.first : panel.end]
            cures.append(f"infrared panel: the {panel.side} of the file shows the fundus; it was cut off")
        _refuse_colour(colour)
        writing = find_writing(grey)
        dark, inverted = darkened(blank(grey, writing))
        _refuse_several(dark)
        grey, turned = righted(dark)
        if turned:
            _refuse_several(grey)
        cures += [*inverted, *turned]
        _refuse_no_retina(find_layers(to_grid(grey)))
        if writing:
            _refuse_over_tissue(dark, writing)
            lines = "one line" if len(writing) == 1 else f"{len(writing)} lines"
            cures.append(f"writing: {lines} burnt into the scan, blanked unread")
    if cures and odd_scans == "refuse":
        raise IngestError(
            f"an odd scan: {'; '.join(cures)}", expected="a scan that needs no cure, with images.odd_scans=refuse",
            do="correct the file, or let images.odd_scans=cure do so",
        )  # fmt: skip
    return grey, tuple(cures)


def clean_scan(image: NDArray[Any], denoiser: str = "nlm", odd_scans: OddScans = "cure") -> CleanScan:
    """A decoded image, made :func:`plausible` and cleaned by :func:`models.scans.cleaning.clean_frame`.

    Raises:
        IngestError: see both.
        ConfigError: the denoiser is unknown or not installed.
    """
    grey, cures = plausible(image, odd_scans)
    return CleanScan(clean_frame(grey, denoiser), cures)


def _refuse_colour(image: NDArray[Any]) -> None:
    if image.ndim < 3 or image.shape[2] < 3:
        return
    channels = image[..., :3].astype(np.int64)
    share = float((np.ptp(channels, axis=2) > COLOURED).mean())
    if share > MOST_COLOURED:
        raise IngestError(
            "a colour picture, or a scan with coloured marks", expected="a grey scan: colours are no reflectivity",
            got=f"{share:.1%} coloured pixels", do=f"export the scan itself in grey. Otherwise {TAKE}",
        )  # fmt: skip


def _refuse_several(grey: Grey) -> None:
    count, how = stacked(grey), "above one another"
    if count == 1 and side_by_side(grey):
        count, how = 2, "side by side"
    if count > 1:
        raise IngestError(
            "several scans in one file", expected="one scan", got=f"{count} {how}",
            do=f"save each as a file of its own. Otherwise {TAKE}",
        )  # fmt: skip


def _refuse_no_retina(layers: Layers) -> None:
    if not layers.found:
        raise IngestError(
            "no layers of a retina", expected=f"a bright band across the image, score {LEAST_LAYERED} or more",
            got=f"score {layers.layered:.2f}, as photographs of the fundus have",
            do=f"leave out what is no B-scan. Otherwise {TAKE}",
        )  # fmt: skip


def _refuse_over_tissue(grey: Grey, writing: tuple[Box, ...]) -> None:
    """Refuse writing whose surroundings are as bright as tissue; ``grey`` is dark on the whole, writing included."""
    dark, bright = np.percentile(grey, (BACKGROUND_PERCENTILE, 99))
    for box in writing:
        around = box.widened(AROUND, grey.shape)
        ring = np.ones(grey[around.area].shape, bool)
        ring[box.top - around.top : box.bottom - around.top, box.left - around.left : box.right - around.left] = False
        if np.median(grey[around.area][ring]) > dark + TISSUE * (bright - dark):
            raise IngestError(
                "writing over the retina", expected="writing beside it, which can be blanked",
                got=f"rows {box.top} to {box.bottom}, columns {box.left} to {box.right}",
                do=f"export the scan without overlays. Otherwise {TAKE}",
            )  # fmt: skip
