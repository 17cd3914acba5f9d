"""g as a small network: it finds a spot, is silent about noise, and is the same for the same seed."""

import numpy as np

from image_longitudinal.models.image_effects.evidence import Evidence
from image_longitudinal.models.image_effects.learners import Targets
from image_longitudinal.models.image_effects.network_head import NetworkLearner
from image_longitudinal.models.image_effects.subject_images import SubjectImages
from tests.models.image_effects.conftest import r2, trial


def targets(b: np.ndarray) -> Targets:
    """Effects b (n, k) that are known, and vary by 1 around g."""
    k = b.shape[1]
    known = Evidence(np.tile(1e6 * np.eye(k), (len(b), 1, 1)), 1e6 * b, np.zeros(len(b)))
    return Targets.of_likelihood(known, np.eye(k), np.eye(k))


def test_a_network_of_pixels_finds_where_the_spot_is() -> None:
    """120 images."""
    people = trial()
    b = people.features[:, :2]
    learner = NetworkLearner(SubjectImages.of(people.images[:120]), epochs=25)
    found = learner.cross_fit(targets(b[:120]))
    assert r2(b[120:], found.head(SubjectImages.of(people.images[120:]))).min() > 0.5
    assert r2(b[:120], found.held_out).min() > 0.4


def test_the_same_seed_gives_the_same_network_and_another_does_not() -> None:
    people = trial()
    first, again, other = (
        NetworkLearner(people.features, seed=seed, epochs=3).cross_fit(targets(people.features[:, :2])).held_out
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_noise_ends_the_training_before_it_begins() -> None:
    noise = np.random.default_rng(3).normal(size=(100, 2))
    found = NetworkLearner(trial().features[:100], epochs=20, patience=4).cross_fit(targets(noise))
    assert np.square(found.held_out).mean() < 0.05


def test_images_of_a_subject_count_equally() -> None:
    """g of two images together is the mean of g of each."""
    people = trial()
    head = NetworkLearner(SubjectImages.of(people.images), epochs=2).cross_fit(targets(people.features[:, :2])).head
    both = head(SubjectImages.of(people.images[:2], [0, 0]))
    each = head(SubjectImages.of(people.images[:2]))
    np.testing.assert_allclose(both[0], each.mean(0), atol=1e-6)
