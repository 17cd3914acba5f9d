"""g linear in features: sparse where it should be, silent about noise, never told of a fold what it predicts there."""

import numpy as np

from image_longitudinal.models.image_effects.evidence import Evidence
from image_longitudinal.models.image_effects.learners import Targets
from image_longitudinal.models.image_effects.linear_head import LinearLearner


def targets(b: np.ndarray, information: float = 1.0) -> Targets:
    """Effects b (n, k), seen with variance 1 / ``information``; Ω is I to begin with."""
    n, k = b.shape
    seen = b + np.random.default_rng(5).normal(size=b.shape) / np.sqrt(information)
    precision = np.tile(information * np.eye(k), (n, 1, 1))
    return Targets.of_likelihood(Evidence(precision, information * seen, np.zeros(n)), np.eye(k), np.eye(k))


def drawn(n: int, features: int, used: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(4).normal(size=(n, features))
    b = np.zeros((n, 2))
    b[:, 0] = used * x[:, 3]
    return x, b


def test_features_that_say_nothing_are_switched_off() -> None:
    """One of 40 features matters, in 300 subjects: one prior each comes nearer to the truth than one for all."""
    x, b = drawn(600, 40, 0.6)
    errors = {}
    for shared in (False, True):
        head = LinearLearner(x[:300], shared=shared).cross_fit(targets(b[:300])).head
        errors[shared] = np.square(head(x[300:]) - b[300:]).mean()
    assert errors[False] < 0.5 * errors[True]


def test_noise_teaches_nothing() -> None:
    x, b = drawn(300, 40, 0.0)
    found = LinearLearner(x).cross_fit(targets(b))
    assert np.square(found.held_out).mean() < 0.05, "what is seen has variance 1"


def test_a_fold_is_predicted_by_fits_that_have_not_seen_it() -> None:
    x, b = drawn(100, 5, 1.0)
    learner, known = LinearLearner(x), targets(b)
    own = learner.fold == 2
    shift = known.known.shift.copy()
    shift[own] += 10.0
    changed = Evidence(known.known.precision, shift, known.known.constant)
    other = learner.cross_fit(Targets.of_likelihood(changed, np.eye(2), np.eye(2)))
    plain = learner.cross_fit(known)
    np.testing.assert_array_equal(other.held_out[own], plain.held_out[own])
    assert np.abs(other.held_out[~own] - plain.held_out[~own]).max() > 0.1


def test_g_has_mean_zero_and_a_constant_feature_no_weight() -> None:
    x, b = drawn(200, 5, 1.0)
    x[:, 1] = 7.0
    head = LinearLearner(x).cross_fit(targets(b + 3.0)).head
    np.testing.assert_allclose(head(x).mean(0), 0.0, atol=1e-12)
    moved = x.copy()
    moved[:, 1] = 8.0
    np.testing.assert_array_equal(head(moved), head(x))


def test_a_subject_whose_outcomes_say_nothing_of_an_effect_does_not_count_for_it() -> None:
    x, b = drawn(200, 5, 1.0)
    known = targets(b, information=1e4).known
    known.shift[::2, 0], known.precision[::2, 0, 0] = 0.0, 0.0
    head = LinearLearner(x).cross_fit(Targets.of_likelihood(known, np.eye(2), np.eye(2))).head
    np.testing.assert_allclose(head(x)[:, 0], (b - b.mean(0))[:, 0], atol=0.05)


def test_outcomes_that_say_nothing_of_an_effect_do_not_end_in_a_singular_matrix() -> None:
    """Their means moved, their covariances did not narrow: the likelihood rises with Ω for ever."""
    x, b = drawn(100, 5, 1.0)
    seen = targets(b).known
    precision, shift = seen.precision.copy(), seen.shift.copy()
    precision[::2, 1], shift[::2, 1] = 0.0, np.random.default_rng(6).normal(0, 1e8, 50)
    endless = Evidence(precision, shift, seen.constant)
    found = LinearLearner(x).cross_fit(Targets.of_likelihood(endless, np.eye(2), np.eye(2)))
    assert np.isfinite(found.held_out).all()
