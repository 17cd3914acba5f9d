"""What ingest does with odd scans: ``python -m benchmarks.odd_scans SCANS [--every N]``.

Every kind is made from each scan of the folder (ordinary B-scans), or drawn. The first table says what became of them,
the second how far the folder's own scans are from every threshold.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from image_longitudinal.core.errors import IngestError
from image_longitudinal.models.scans.cleaning import replace_fill, to_grey
from image_longitudinal.models.scans.layers import LEAST_LAYERED, find_layers, reduced, to_grid
from image_longitudinal.models.scans.orientation import INVERTED_BELOW, TURNED_BELOW, UPSIDE_DOWN_BELOW, polarity, turn
from image_longitudinal.models.scans.plausibility import plausible
from image_longitudinal.storage.scans.scan_files import SetAside, find_scans, read_scan

Grey = NDArray[np.uint8]
Pixels = NDArray[np.generic]
Make = Callable[[Grey, Grey], Pixels]  # a scan, another scan of the same size → the odd one


def fundus(side: int, background: int = 4) -> Grey:
    """A drawn photograph of the fundus (side, side): a disc with a gradient, the optic disc, vessels that branch."""
    y, x = np.mgrid[:side, :side] / side
    radius = np.hypot(x - 0.5, y - 0.5)
    grey = 140 - 110 * radius + 90 * np.exp(-((x - 0.75) ** 2 + (y - 0.47) ** 2) / 0.004)
    grey -= 50 * np.exp(-((x - 0.45) ** 2 + (y - 0.5) ** 2) / 0.008)
    for bend in (-2.6, -1.7, -0.8, 0.7, 1.6, 2.5):
        centre = 0.47 + 0.22 * bend * np.sqrt(np.abs(0.75 - x)) * (0.6 + 0.4 * np.sin(4 * x + bend))
        grey = np.where(np.abs(y - centre) < 0.007, grey * 0.55, grey)
    grain = ndimage.gaussian_filter(np.random.default_rng(5).normal(0, 12, grey.shape), 1)
    return np.clip(np.where(radius < 0.49, grey + grain, background), 0, 255).astype(np.uint8)


def written(
    scan: Grey, text: str, at: tuple[int, int], fill: int = 255, box: int | None = None, size: int = 18
) -> Grey:
    """The scan with ``text`` at (column, row), on a box of grey ``box`` if given."""
    image = Image.fromarray(scan)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    if box is not None:
        left, top, right, bottom = draw.textbbox(at, text, font=font)
        draw.rectangle((left - 6, top - 6, right + 6, bottom + 6), fill=box)
    draw.text(at, text, fill=fill, font=font)
    return np.asarray(image)


def coloured(grey: Grey) -> Pixels:
    """Grey levels in the colours from blue over green to red."""
    level = grey.astype(float) / 255
    shades = [np.clip(1.5 - np.abs(4 * level - peak), 0, 1) for peak in (3, 2, 1)]
    return np.asarray(np.stack(shades, -1) * 255).astype(np.uint8)


def with_line(scan: Grey) -> Pixels:
    """A red line across the scan, as segmentations are drawn."""
    rgb = np.repeat(scan[..., None], 3, axis=2)
    rgb[scan.shape[0] // 2 : scan.shape[0] // 2 + 2] = (220, 30, 30)
    return rgb


def grown(scan: Grey, degrees: float) -> Grey:
    """The scan turned by some degrees, the corners filled with white."""
    return np.asarray(Image.fromarray(scan).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=255))


def vessels(side: int) -> Grey:
    """A drawn angiography seen from the front: a fine net of bright vessels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(0, 1, (side, side)), side / 60)
    net = np.exp(-((noise / noise.std() / 0.15) ** 2))
    return np.asarray(20 + 200 * net).astype(np.uint8)


def page(height: int, width: int) -> Grey:
    """A page of a letter."""
    image = np.full((height, width), 250, np.uint8)
    for row in range(20, height - 30, 28):
        image = written(image, "Dear colleague, thank you for referring this patient to us", (20, row), fill=10)
    return image


def screenshot(scan: Grey) -> Grey:
    """The scan in the window of a viewer, with a list of patients beside it."""
    height, width = scan.shape
    image = np.full((height + 120, width + 300), 225, np.uint8)
    image[80 : 80 + height, 280 : 280 + width] = scan
    for row in range(90, height, 30):
        image = written(image, "Doe, Jane  1958-03-12  OD", (12, row), fill=20)
    return image


def _noise(scan: Grey) -> Grey:
    return np.random.default_rng(0).integers(0, 256, scan.shape, dtype=np.uint8)


def _ramp(scan: Grey) -> Grey:
    return np.tile(np.linspace(0, 255, scan.shape[1]).astype(np.uint8), (scan.shape[0], 1))


def _tissue_row(scan: Grey) -> int:
    rows = find_layers(to_grid(scan)).rows
    return int(np.median(rows) / 128 * scan.shape[0]) - 6


NAME = "DOE, JANE 1958-03-12"
NOT_ALWAYS = "a name over the brightest layer"  # letters and tissue become one

# Name of a kind → (what has to happen, how it is made). "taken" is bit for bit; "cured" and "refused" name the reason.
KINDS: dict[str, tuple[str, Make]] = {
    "an ordinary scan": ("taken", lambda scan, _: scan),
    "left and right exchanged": ("taken", lambda scan, _: scan[:, ::-1]),
    "turned by 8 degrees, white corners": ("taken", lambda scan, _: grown(scan, 8)),
    "16 bits": ("taken", lambda scan, _: scan.astype(np.uint16) * 257),
    "grey, saved as colour": ("taken", lambda scan, _: np.repeat(scan[..., None], 3, axis=2)),
    "brightened (gamma 0.6)": ("taken", lambda scan, _: (255 * (scan / 255) ** 0.6).astype(np.uint8)),
    "blurred (3 pixels)": ("taken", lambda scan, _: ndimage.gaussian_filter(scan, 3)),
    "black bars above and below": ("taken", lambda scan, _: np.pad(scan, ((40, 40), (0, 0)))),
    "inverted": ("cured: inverted", lambda scan, _: 255 - scan),
    "upside-down": ("cured: upside-down", lambda scan, _: scan[::-1]),
    "turned by 180 degrees": ("cured: upside-down", lambda scan, _: scan[::-1, ::-1]),
    "turned to the left": ("cured: turned", lambda scan, _: np.rot90(scan)),
    "turned to the right": ("cured: turned", lambda scan, _: np.rot90(scan, -1)),
    "inverted and upside-down": ("cured: inverted; upside-down", lambda scan, _: 255 - scan[::-1]),
    "inverted and turned": ("cured: inverted; turned", lambda scan, _: 255 - np.rot90(scan)),
    "infrared panel on the left": ("cured: infrared", lambda scan, _: np.hstack([fundus(len(scan), 60), scan])),
    "infrared panel on the right": ("cured: infrared", lambda scan, _: np.hstack([scan, fundus(len(scan), 60)])),
    "infrared panel, scan inverted": (
        "cured: infrared; inverted", lambda scan, _: np.hstack([fundus(len(scan), 60), 255 - scan])
    ),
    "a name, white": ("cured: writing", lambda scan, _: written(scan, NAME, (12, 8))),
    "a name, black on a white box": ("cured: writing", lambda scan, _: written(scan, NAME, (60, 24), 0, 255)),
    "a scale with its length": ("cured: writing", lambda scan, _: written(scan, "200 um", (16, len(scan) - 40))),
    "inverted, with a name": ("cured: inverted; writing", lambda scan, _: 255 - written(scan, NAME, (12, 8))),
    NOT_ALWAYS: ("refused: writing", lambda scan, _: written(scan, NAME, (120, _tissue_row(scan)))),
    "two scans above one another": ("refused: several", lambda scan, other: np.vstack([scan, other])),
    "three scans above one another": ("refused: several", lambda scan, other: np.vstack([scan, other, scan])),
    "two scans side by side": ("refused: several", lambda scan, other: np.hstack([scan, other])),
    "fundus, in colour": (
        "refused: colour", lambda scan, _: (fundus(600)[..., None] * np.array([1, 0.55, 0.3])).astype(np.uint8)
    ),
    "scan in false colours": ("refused: colour", lambda scan, _: coloured(scan)),
    "scan with a red line": ("refused: colour", lambda scan, _: with_line(scan)),
    "fundus, grey": ("refused: no layers", lambda scan, _: fundus(600)),
    "infrared picture alone": ("refused: no layers", lambda scan, _: fundus(496, 60)),
    "angiography from the front": ("refused: no layers", lambda scan, _: vessels(400)),
    "black": ("refused: shows nothing", lambda scan, _: np.zeros_like(scan)),
    "noise": ("refused: no layers", lambda scan, _: _noise(scan)),
    "ramp of grey": ("refused: no layers", lambda scan, _: _ramp(scan)),
    "a letter": ("refused", lambda scan, _: page(500, 700)),
    "window of a viewer": ("refused", lambda scan, _: screenshot(scan)),
    "vitreous alone": ("refused: no layers", lambda scan, _: scan[: _tissue_row(scan) * 2 // 5]),
}  # fmt: skip

REFUSALS = {
    "colour picture": "colour", "several scans": "several", "no layers": "no layers", "writing over": "writing",
    "shows nothing": "shows nothing",
}  # fmt: skip


def outcome(pixels: Pixels) -> str:
    """``taken``, ``cured: KIND; KIND`` or ``refused: REASON``, in the words of :data:`KINDS`."""
    try:
        _, cures = plausible(pixels)
        if np.ptp(to_grey(pixels)) < 8:
            return "refused: shows nothing"  # by models.scans.cleaning.clean_frame
    except IngestError as error:
        return f"refused: {next(name for words, name in REFUSALS.items() if words in str(error))}"
    return f"cured: {'; '.join(cure.split(':')[0].split()[0] for cure in cures)}" if cures else "taken"


def read(folder: Path, every: int) -> Iterator[Grey]:
    """Every so manieth scan of a folder, grey."""
    for file in find_scans(folder).scans[::every]:
        scan = read_scan(file)
        if not isinstance(scan, SetAside):
            yield to_grey(scan.content)


def table(scans: list[Grey]) -> list[tuple[str, str, int, int, str]]:
    """Kind, what has to happen, scans to which it did, scans, and what happened to the others.

    The scans' own fill is replaced first: white writing on it would be none.
    """
    scans, rows = [replace_fill(scan) for scan in scans], []
    for name, (wanted, make) in KINDS.items():
        found: Counter[str] = Counter()
        for scan, following in zip(scans, [*scans[1:], scans[0]], strict=True):
            other = np.asarray(Image.fromarray(following).resize(scan.shape[::-1]))
            found[outcome(make(scan, other))] += 1
        met = sum(count for what, count in found.items() if what.startswith(wanted))
        others = ", ".join(f"{count} {what}" for what, count in found.most_common() if not what.startswith(wanted))
        rows.append((name, wanted, met, len(scans), others))
    return rows


def margins(scans: list[Grey]) -> list[tuple[str, float, str]]:
    """Measure, threshold, and its values over ordinary scans: least, 1st percentile, median."""
    layers = [find_layers(to_grid(scan)) for scan in scans]
    measures = {
        "layers, refused below": (LEAST_LAYERED, [one.layered for one in layers]),
        "polarity, inverted below": (INVERTED_BELOW, [polarity(reduced(scan)) for scan in scans]),
        "turn, turned below": (TURNED_BELOW, [turn(scan) for scan in scans]),
        "upright, upside-down below": (UPSIDE_DOWN_BELOW, [one.upright for one in layers]),
    }
    return [
        (name, bar, ", ".join(f"{value:.2f}" for value in np.percentile(values, (0, 1, 50))))
        for name, (bar, values) in measures.items()
    ]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=10, help="use every so manieth scan")
    options = parser.parse_args()
    scans = list(read(options.folder, options.every))
    print(f"| kind, made of {len(scans)} scans | wanted | met | otherwise |\n|---|---|---|---|")
    for name, wanted, met, count, others in table(scans):
        print(f"| {name} | {wanted} | {met} of {count} | {others} |")
    print("\n| measure | threshold | ordinary scans: least, 1st percentile, median |\n|---|---|---|")
    for name, bar, values in margins(scans):
        print(f"| {name} | {bar:g} | {values} |")


if __name__ == "__main__":
    main()
