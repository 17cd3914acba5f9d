"""The review sheet shows what was refused, cured and taken, and says that it holds real scans."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from image_longitudinal.models.imaging.phantom import LATENT_NAMES, render
from image_longitudinal.models.scans.cleaning import to_sizes
from image_longitudinal.models.scans.plausibility import clean_scan
from image_longitudinal.storage.scans.contact_sheet import REAL_SCANS
from image_longitudinal.storage.scans.prepared import ImageSource
from image_longitudinal.storage.scans.prepared_writer import write_prepared
from image_longitudinal.storage.scans.review_sheet import COLUMNS, GAP, LINE, LINES, TILE, ReviewEntry, review_sheet
from image_longitudinal.storage.scans.scan_files import find_scans, prepare_scan
from image_longitudinal.storage.scans.splits import SplitRule
from image_longitudinal.tasks.ingest.review import draw_review
from image_longitudinal.tasks.workspace import Workspace


def test_everything_odd_and_some_ordinary_scans_are_drawn(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    drawn = render(np.zeros((3, len(LATENT_NAMES)), np.float32), np.arange(3), 96)
    inverted, noise = 255 - drawn[1], np.random.default_rng(0).integers(0, 255, (96, 96)).astype(np.uint8)
    for name, picture in (("a", drawn[0]), ("b", inverted), ("c", drawn[2]), ("noise", noise)):
        Image.fromarray(picture).save(scans / f"{name}.png")
    np.save(scans / "stack.npy", drawn)
    (scans / "notes.txt").write_text("x")
    found = find_scans(scans)
    job = partial(prepare_scan, clean=partial(clean_scan, denoiser="none"), finish=partial(to_sizes, sizes=(96,)))
    prepared = write_prepared(
        tmp_path / "set", map(job, found.scans), sizes=(96,), split=SplitRule({"train": 1.0}, 1),
        source=ImageSource("scans", 3, "scans", "none"), set_aside=found.set_aside,
    )  # fmt: skip
    counts = prepared.manifest.counts
    assert (counts.images, counts.cured, counts.set_aside) == (6, 1, 2)
    (reason,) = [item.reason for item in prepared.manifest.set_aside if item.file == "noise.png"]
    assert reason.startswith("no layers of a retina; expected a bright band across the image")
    path = draw_review(str(scans), prepared, Workspace.at(str(tmp_path / "workspace")))
    with Image.open(path) as image:
        rows = -(-(2 + 6) // COLUMNS)
        assert image.height == LINE + GAP + rows * (TILE + LINES * LINE + GAP)


def test_an_entry_is_drawn_before_beside_after_and_a_wide_file_is_not_squeezed() -> None:
    wide, after = np.full((100, 300), 90, np.uint8), np.full((200, 200), 30, np.uint8)
    sheet = np.asarray(review_sheet([ReviewEntry("a.png", "CURED: infrared panel", wide, after)], "1 cured"))
    top, left = LINE + GAP, GAP
    assert (sheet[top : top + TILE // 3 - 2, left : left + TILE] == 90).all()
    assert (sheet[top + TILE // 3 + 2 : top + TILE, left : left + TILE] == 220).all()
    assert (sheet[top : top + TILE, left + TILE + 2 : left + 2 * TILE + 2] == 30).all()
    assert REAL_SCANS.startswith("Real scans")
    assert (sheet[:LINE] < 128).any(), "the line on top"
