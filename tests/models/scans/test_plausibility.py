"""Odd scans: what is cured, what is refused and why, and that nothing happens to an ordinary scan."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.odd_scans import KINDS, NAME, NOT_ALWAYS, fundus, outcome, written
from image_longitudinal.core.errors import IngestError
from image_longitudinal.models.imaging.phantom import LATENT_NAMES, render
from image_longitudinal.models.scans.layers import find_layers, to_grid
from image_longitudinal.models.scans.orientation import polarity, turn
from image_longitudinal.models.scans.panels import infrared_panel, stacked
from image_longitudinal.models.scans.plausibility import clean_scan, plausible
from image_longitudinal.models.scans.writing import blank, find_writing
from tests.paths import SHARED_DATA

SCANS = SHARED_DATA / "kermany_sample"
needs_scans = pytest.mark.skipif(not SCANS.is_dir(), reason="no real scans: ../shared/data/kermany_sample is absent")


def real(label, place):
    return np.asarray(Image.open(sorted((SCANS / label).glob("*.jpeg"))[place]))


@pytest.fixture(scope="module")
def two_scans():
    """A normal scan and one with drusen, of one size and without fill."""
    scans = [real("NORMAL", 3), real("DRUSEN", 7)]
    return [np.asarray(Image.fromarray(scan).resize((768, 496))) for scan in scans]


@pytest.fixture(scope="module")
def phantom():
    return np.asarray(
        Image.fromarray(render(np.zeros((1, len(LATENT_NAMES)), np.float32), [3], 224)[0]).resize((512, 496))
    )


@needs_scans
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != NOT_ALWAYS])
def test_every_kind_of_odd_scan_is_cured_or_refused_as_it_has_to_be(kind, two_scans):
    wanted, make = KINDS[kind]
    assert outcome(make(*two_scans)).startswith(wanted)


@needs_scans
@pytest.mark.parametrize("label", ["CNV", "DME", "DRUSEN", "NORMAL"])
def test_real_scans_go_through_bit_for_bit(label):
    """Ten of each hundred; ``benchmarks.odd_scans`` looks at all."""
    for place in range(0, 80, 10):
        scan = real(label, place)
        found, cures = plausible(scan)
        assert cures == ()
        np.testing.assert_array_equal(found, scan)


@needs_scans
def test_a_cure_gives_the_scan_back(two_scans):
    scan, _ = two_scans
    for odd in (255 - scan, scan[::-1], 255 - scan[::-1], np.hstack([fundus(496, 60), scan])):
        np.testing.assert_array_equal(plausible(odd)[0], scan)
    for turned in (np.rot90(scan), np.rot90(scan, -1)):
        np.testing.assert_array_equal(plausible(turned)[0], scan)


@needs_scans
def test_a_person_decides_what_is_done_with_odd_scans(two_scans):
    scan, other = two_scans
    odd, impossible = 255 - scan, np.vstack([scan, other])
    np.testing.assert_array_equal(plausible(odd, "take")[0], odd)
    np.testing.assert_array_equal(plausible(impossible, "take")[0], impossible)
    assert clean_scan(odd, "none", "take").cures == ()
    with pytest.raises(IngestError, match=r"an odd scan: inverted.*images.odd_scans=cure"):
        plausible(odd, "refuse")
    np.testing.assert_array_equal(plausible(scan, "refuse")[0], scan)
    with pytest.raises(IngestError, match=r"several scans in one file; expected one scan; got 2 above one another"):
        plausible(impossible)


def test_each_measure_is_reversed_by_its_defect(phantom):
    """Signs exact for polarity; turn and upright by construction of their features."""
    assert polarity(phantom) > 0.5
    assert polarity(255 - phantom) == pytest.approx(-polarity(phantom))
    assert turn(phantom) > 0.5
    assert turn(np.rot90(phantom)) == pytest.approx(-turn(phantom), abs=0.15)  # another grid column is left out
    upright = find_layers(to_grid(phantom)).upright
    assert find_layers(to_grid(phantom[::-1])).upright == pytest.approx(-upright, abs=0.6)  # ties of the path


@pytest.mark.parametrize("size", [64, 224])
def test_phantoms_are_plausible(size):
    latents = np.random.default_rng(0).standard_normal((12, len(LATENT_NAMES))).astype(np.float32)
    for image in render(latents, np.arange(12), size):
        assert plausible(image)[1] == ()


def test_a_panel_is_cut_at_its_seam(phantom):
    panel = fundus(496, 60)
    left, right = infrared_panel(np.hstack([panel, phantom])), infrared_panel(np.hstack([phantom, panel]))
    assert left is not None
    assert (left.first, left.end, left.side) == (496, 1008, "left")
    assert right is not None
    assert (right.first, right.end, right.side) == (0, 512, "right")
    assert infrared_panel(np.hstack([phantom, phantom])) is None
    assert infrared_panel(phantom) is None
    assert stacked(phantom) == 1


@pytest.mark.parametrize("size", [10, 14, 20, 32])
@pytest.mark.parametrize("light", [True, False])
def test_writing_is_found_and_nothing_else_is_blanked(phantom, size, light):
    scan = written(phantom, NAME, (30, 20), 255, size=size) if light else written(phantom, NAME, (30, 20), 0, 255, size)
    boxes = find_writing(scan)
    assert boxes
    inside = np.zeros(scan.shape, bool)
    for box in boxes:
        inside[box.area] = True
    blanked = blank(scan, boxes)
    np.testing.assert_array_equal(blanked[~inside], scan[~inside])
    assert find_writing(blanked) == ()
    strokes = written(np.zeros_like(phantom), NAME, (30, 20), 255, size=size) > 128
    if not light:
        assert (blanked[15:50, 25:60] < 255).all(), "the box goes too"
    assert (strokes & ~inside).sum() < 0.03 * strokes.sum()  # hyphens and points at the ends
    assert find_writing(phantom) == ()
