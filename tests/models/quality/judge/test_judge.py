"""The judge is judged: scans made worse on purpose come out worse than untouched ones, in measures named here.

Patients are divided in three: training scans, held-out scans, and those that take the place of generated images. Each
bad set must leave the range of real against real (``null_high`` or ``null_low``) of its measure by the margin given;
the untouched third must not. Margins are about half of what was measured (seed 0), so that other seeds pass too.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.models.quality.features import Matrix
from image_longitudinal.models.quality.judge.judge import RealScans, judge_images
from image_longitudinal.models.quality.judge.networks import load_judge
from image_longitudinal.models.registry.judgement import Figure, Judgement
from image_longitudinal.models.scans.cleaning import clean_frame, to_sizes
from tests.models.conftest import phantoms
from tests.models.quality.judge import corruptions

SIZE = 64
CORRUPTIONS = ("blurred", "torn", "shuffled", "stretched", "mirrored", "memorised")


class Remembering:
    """The usual judge, which computes the features of an image once."""

    def __init__(self) -> None:
        network = load_judge()
        self.name, self.digest, self._of, self._known = network.name, network.digest, network.features, {}

    def features(self, images: np.ndarray) -> Matrix:
        keys = [image.tobytes() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        if new:
            self._known.update(zip(new, self._of(np.stack(list(new.values()))), strict=True))
        return np.stack([self._known[key] for key in keys])


class Thirds(NamedTuple):
    """Three sets of different patients; ``others`` take the place of generated images."""

    train: RealScans
    held_out: RealScans
    others: RealScans

    def as_generated(self, change: str) -> np.ndarray:
        rng = np.random.default_rng(0)
        source = self.train.images if change == "memorised" else self.others.images
        return getattr(corruptions, change)(source, rng)


def thirds_of(images: np.ndarray, patients: np.ndarray, labels: np.ndarray) -> Thirds:
    people = np.random.default_rng(0).permutation(np.unique(patients))
    rows = [np.isin(patients, part) for part in np.array_split(people, 3)]
    return Thirds(*(RealScans(images[row], patients[row], list(labels[row])) for row in rows))


@pytest.fixture(scope="module")
def network() -> Remembering:
    return Remembering()


@pytest.fixture(scope="module")
def scans(kermany_sample: Path) -> Thirds:
    files = sorted(kermany_sample.glob("*/*.jpeg"))
    frames = [clean_frame(np.asarray(Image.open(file)), "none") for file in files]
    images = np.stack([to_sizes(frame, sizes=(SIZE,))[SIZE] for frame in frames])
    patients = np.array([file.stem.split("-")[1] for file in files])
    return thirds_of(images, patients, np.array([file.parent.name for file in files]))


@pytest.fixture(scope="module")
def drawn() -> Thirds:
    """Phantoms, one of each patient."""
    return thirds_of(phantoms(150, SIZE), np.arange(150).astype(str), np.full(150, "phantom"))


def judged(sets: Thirds, generated: np.ndarray, network: Remembering) -> Judgement:
    return judge_images(generated, sets.train, sets.held_out, network)


def named(found: Judgement, measure: str) -> Figure:
    """A measure of sets, or the distance of a property's distributions."""
    sets = found.measures
    return getattr(sets, measure) if hasattr(sets, measure) else found.property_named(measure).distance


TABLE = [  # bad images, a measure that tells, and by what factor of the null's limit it does; phantoms, scans
    ("blurred", "frechet", 1.0, 1.0),
]


@pytest.mark.parametrize(("change", "measure", "phantom_factor", "scan_factor"), TABLE)
@pytest.mark.parametrize("kind", ["drawn", "scans"])
def test_bad_images_are_worse_than_untouched_ones(
    kind: str, change: str, measure: str, phantom_factor: float, scan_factor: float, network: Remembering,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    sets: Thirds = request.getfixturevalue(kind)
    found = named(judged(sets, sets.as_generated(change), network), measure)
    factor = phantom_factor if kind == "drawn" else scan_factor
    if measure in ("precision", "recall", "density", "coverage"):
        assert found.value < found.null_low / factor
    else:
        assert found.value > found.null_high * factor
