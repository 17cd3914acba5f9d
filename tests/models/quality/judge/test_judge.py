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

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.quality.features import Matrix
from image_longitudinal.models.quality.judge.judge import RealScans, judge_images, nearest
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


class Court:
    """Judgements of bad images by kind and change, each made once."""

    def __init__(self, network: Remembering) -> None:
        self.network, self._found = network, dict[tuple[str, str], Judgement]()

    def judge(self, kind: str, sets: Thirds, change: str, generated: np.ndarray | None = None) -> Judgement:
        """``generated``, or the third of other patients with this ``change``."""
        if (kind, change) not in self._found:
            images = sets.as_generated(change) if generated is None else generated
            self._found[kind, change] = judge_images(images, sets.train, sets.held_out, self.network)
        return self._found[kind, change]


@pytest.fixture(scope="module")
def court() -> Court:
    return Court(Remembering())


def named(found: Judgement, measure: str) -> Figure:
    """A measure of sets, or the distance of a property's distributions."""
    sets = found.measures
    return getattr(sets, measure) if hasattr(sets, measure) else found.property_named(measure).distance


LESS_IS_WORSE = ("precision", "recall", "density", "coverage")
KINDS = ["drawn", pytest.param("scans", marks=pytest.mark.operations)]  # VGG16 of 380 scans takes minutes
TABLE = [  # bad images, a measure that tells, and by what factor beyond the null's limit it has to: phantoms, scans
    ("blurred", "frechet", 10, 10),
    ("blurred", "kernel", 100, 100),
    ("blurred", "speckle", 5, 6),
    ("blurred", "recall", 4, 2),
    ("torn", "frechet", 4, 2.5),
    ("torn", "RPE roughness", 4, 5),
    ("torn", "RPE jumps", 2, 3),
    ("shuffled", "frechet", 15, 8),
    ("shuffled", "RPE jumps", 8, 10),
    ("shuffled", "precision", 4, 3),
    ("stretched", "grey_levels", 5, 3),
    ("stretched", "frechet", 3, 1.5),
    ("mirrored", "mirror correlation", 2, 2.5),
    ("memorised", "near_copies", 2, 5),
    ("memorised", "recall", 4, 4),
    ("memorised", "coverage", 1.5, 2),
]


@pytest.mark.parametrize(("change", "measure", "phantom_factor", "scan_factor"), TABLE)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_images_are_worse_than_untouched_ones(
    kind: str, change: str, measure: str, phantom_factor: float, scan_factor: float, court: Court,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    sets: Thirds = request.getfixturevalue(kind)
    bad = named(court.judge(kind, sets, change), measure)
    good = named(court.judge(kind, sets, "nothing", sets.others.images), measure)
    factor = phantom_factor if kind == "drawn" else scan_factor
    if measure in LESS_IS_WORSE:
        assert bad.value < bad.null_low / factor
        assert bad.high < good.low
        assert good.value > good.null_low / 1.2
    else:
        assert bad.value > bad.null_high * factor
        assert bad.low > good.high
        assert good.value < good.null_high * 1.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["blurred", "torn", "shuffled", "stretched", "memorised"])
def test_a_classifier_tells_bad_images_apart_and_not_untouched_ones(
    kind: str, change: str, court: Court, request: pytest.FixtureRequest
) -> None:
    """Not mirrored halves, of which 0.6 is found on scans: no measure of a gate by itself."""
    sets: Thirds = request.getfixturevalue(kind)
    assert court.judge(kind, sets, change).measures.classifier_auc.value > 0.95
    untouched = court.judge(kind, sets, "nothing", sets.others.images).measures.classifier_auc
    assert untouched.value < untouched.null_high + 0.05


@pytest.mark.parametrize(
    ("kind", "factor"), [("drawn", 1.08), pytest.param("scans", 1.25, marks=pytest.mark.operations)]
)
def test_copies_come_nearer_to_their_patients_than_scans_of_others_do(
    kind: str, factor: float, court: Court, request: pytest.FixtureRequest
) -> None:
    """Copies have slight noise, which the features see: ratios .47 and .32 instead of the .54 and .50 of real sets."""
    sets: Thirds = request.getfixturevalue(kind)
    copied = court.judge(kind, sets, "memorised").training_patients
    untouched = court.judge(kind, sets, "nothing", sets.others.images).training_patients
    assert copied is not None
    assert untouched is not None
    assert untouched.patients == len(np.unique(sets.train.patients))
    assert copied.least_ratio.value < copied.least_ratio.null_low / factor
    assert copied.least_ratio.value < untouched.least_ratio.value / factor
    assert untouched.least_ratio.value > untouched.least_ratio.null_low / 1.2
    assert untouched.nearer.null_low < untouched.nearer.value < untouched.nearer.null_high


@pytest.mark.operations
@pytest.mark.parametrize("missing", ["CNV", "DME", "DRUSEN", "NORMAL"])
def test_a_missing_class_is_missed(missing: str, scans: Thirds, court: Court) -> None:
    kept = np.array(scans.others.labels) != missing
    found = court.judge("scans", scans, f"no {missing}", scans.others.images[kept]).pathology
    whole = court.judge("scans", scans, "nothing", scans.others.images).pathology
    assert found is not None
    assert whole is not None
    assert found.accuracy > 0.5  # of 126 scans with four classes; chance is 0.26
    share, before = ({one.label: one for one in figures.shares}[missing] for figures in (found, whole))
    assert share.difference.value < -0.04
    assert share.difference.value < before.difference.value - 0.04
    for one in whole.shares:
        assert one.difference.low < 0 < one.difference.high


def test_the_judgement_is_of_equal_sets_names_the_judge_and_repeats(drawn: Thirds, court: Court) -> None:
    some = RealScans(drawn.held_out.images[:20], drawn.held_out.patients[:20])
    first, again = (judge_images(drawn.others.images, drawn.train, some, court.network, seed=3) for _ in range(2))
    assert first == again
    assert (first.n, first.judge.name, first.judge.digest) == (20, "vgg16", load_judge().digest)
    assert first.pathology is None, "without classes, or with one"
    assert Judgement.model_validate_json(first.model_dump_json()) == first
    assert first.measures.frechet.null == pytest.approx(1)


def test_too_few_images_and_other_sizes_are_refused(drawn: Thirds, court: Court) -> None:
    few = RealScans(drawn.held_out.images[:5], drawn.held_out.patients[:5])
    with pytest.raises(ModelError, match="at least 8 of each set, of one size; got 50 generated, 50 training, 5 held"):
        judge_images(drawn.others.images, drawn.train, few, court.network)
    with pytest.raises(ModelError, match=r"\(32, 32\), \(64, 64\) pixels"):
        judge_images(phantoms(10, 32), drawn.train, drawn.held_out, court.network)


def test_a_copy_is_found_wherever_it_was_moved_to_and_either_way_round() -> None:
    patches = np.random.default_rng(0).normal(size=(5, 8, 8))
    np.testing.assert_allclose(nearest(patches[:2, :, ::-1], patches), 0, atol=1e-6)
    expected = [
        min(np.sqrt(np.square(a - b).mean()) for b in (*patches[2:], *patches[2:, :, ::-1])) for a in patches[:2]
    ]
    np.testing.assert_allclose(nearest(patches[:2], patches[2:]), expected)
