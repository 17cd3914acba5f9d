"""Copies of training scans are found whatever was done to them, and scans of other patients are none."""

import numpy as np
import pytest

from benchmarks.copies import KINDS, scans_of
from image_longitudinal.core.gates import GatesConfig
from image_longitudinal.models.quality.copies import (
    COPY_BELOW,
    copy_figures,
    correlation_distances,
    nearest_of,
    nearest_scans,
)
from image_longitudinal.models.registry.gates import model_gates
from tests.models.conftest import model_metadata
from tests.paths import SHARED_DATA

SCANS = SHARED_DATA / "kermany_sample"
needs_scans = pytest.mark.skipif(not SCANS.is_dir(), reason="no real scans: ../shared/data/kermany_sample is absent")


@pytest.fixture(scope="module")
def divided():
    """Training scans, and scans of other patients: 60 normal and 40 of drusen, one after another by patient."""
    images, patients = scans_of(SCANS / "NORMAL")
    names = np.unique(patients)
    train = np.isin(patients, names[: len(names) // 2])
    return images[train], images[~train]


@needs_scans
def test_new_patients_are_no_copies_and_one_planted_copy_closes_the_gate(divided):
    training, new = divided
    held_out, generated = new[::2], new[1::2].copy()
    clean = copy_figures(generated, held_out, training)
    assert (clean.share, clean.held_out_share) == (0, 0)
    assert clean.least_ratio > COPY_BELOW + 0.05  # 20 divisions of all 380 scans: benchmarks.copies
    generated[3] = KINDS["mirrored, shifted, blurred, less contrast"](training[5])
    planted = copy_figures(generated, held_out, training)
    assert planted.share == pytest.approx(1 / len(generated))
    for found, verdict in ((clean, "passed"), (planted, "FAILED")):
        measured = model_metadata(recoverability=0.9).measured.model_copy(update={"copies": found})
        (gate,) = [one for one in model_gates(measured, GatesConfig()) if one.name.startswith("copies of single")]
        assert (gate.kind, gate.verdict) == ("copies", verdict)


@needs_scans
@pytest.mark.parametrize("kind", KINDS)
def test_altered_copies_are_found_and_named(kind, divided):
    training, _ = divided
    chosen = np.arange(0, len(training), 5)
    found = nearest_scans(np.stack([KINDS[kind](training[i]) for i in chosen]), training)
    assert found.copies.all()
    np.testing.assert_array_equal(found.scan, chosen)


def test_the_distance_is_that_of_a_direct_search():
    """Noise that is smooth enough for the filter to change little: shifts are circular, so a roll is found exactly."""
    rng = np.random.default_rng(0)
    training = rng.integers(0, 255, (3, 64, 64)).astype(np.uint8)
    moved = np.roll(training, (5, -7), (1, 2))
    distances = correlation_distances(moved, training)
    np.testing.assert_allclose(np.diag(distances), 0, atol=1e-5)
    assert distances[~np.eye(3, dtype=bool)].min() > 0.5
    far = np.roll(training, 20, 1)  # farther than is looked for
    assert np.diag(correlation_distances(far, training)).min() > 0.5
    found = nearest_of(distances)
    np.testing.assert_array_equal(found.scan, [0, 1, 2])
