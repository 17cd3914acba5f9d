"""A scorecard tells images that methods can learn from from images that they cannot."""

import numpy as np
import pytest

from image_longitudinal.models.quality.judge.utility import LabelledSet, calibration_error, class_utility
from image_longitudinal.models.registry.judgement import UtilityFigures

CENTRES = np.array([[0.0, 0, 0, 0], [2.0, 0, 0, 0], [0, 2.0, 1.0, 0]])
NAMES = np.array(["CNV", "DRUSEN", "NORMAL"])


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    code = np.arange(n) % 3
    return CENTRES[code] + 0.8 * rng.standard_normal((n, 4)), NAMES[code]


def labelled(n: int, seed: int, name: str) -> LabelledSet:
    features, labels = images(n, seed)
    return LabelledSet(features, labels.tolist(), np.array([f"{name} {i // 2}" for i in range(n)]))


def utility(generated: np.ndarray) -> UtilityFigures:
    found = class_utility(labelled(180, 1, "a"), labelled(150, 2, "b"), generated, seed=0)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def good() -> UtilityFigures:
    return utility(images(180, 3)[0])


def test_images_like_scans_serve_as_well_as_scans(good: UtilityFigures) -> None:
    assert len(good.methods) == 5
    for row in good.methods:
        assert row.real.low < row.real.value < row.real.high
        assert row.real.value > 0.75, "chance is a third"
        assert row.trained_on_generated.value > row.real.value - 0.1
        assert row.tested_on_generated.value > 0.75
    assert good.calibration_error_generated < 0.2
    assert [row.label for row in good.recalls] == NAMES.tolist()
    assert utility(images(180, 3)[0]) == good


def test_images_that_do_not_show_what_tells_classes_apart_teach_less(good: UtilityFigures) -> None:
    """Without the first feature, which alone tells CNV from DRUSEN."""
    blind = images(180, 3)[0]
    blind[:, 0] = 1.0
    bad = utility(blind)
    assert [row.real for row in bad.methods] == [row.real for row in good.methods], "real scans alone decide it"
    both = zip(bad.methods, good.methods, strict=True)
    lost = [b.trained_on_generated.value - a.trained_on_generated.value for a, b in both]
    assert np.mean(lost) > 0.1


def test_a_class_that_is_missing_cannot_be_learnt() -> None:
    generated, labels = images(180, 3)
    found = utility(generated[labels != "NORMAL"][:60])
    assert [row.label for row in found.recalls] == ["CNV", "DRUSEN"]
    assert class_utility(labelled(180, 1, "a"), labelled(150, 2, "b"), generated[labels == "CNV"][:12], seed=0) is None
    assert class_utility(labelled(9, 1, "a"), labelled(150, 2, "b"), generated, seed=0) is None


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    labels = np.array(["CNV"] * 80 + ["DRUSEN"] * 20)
    names = np.array(["CNV", "DRUSEN"])
    assert calibration_error(np.tile([0.8, 0.2], (100, 1)), labels, names) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.tile([1.0, 0.0], (100, 1)), labels, names) == pytest.approx(0.2)
