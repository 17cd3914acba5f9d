"""What images explain: the designed share where they do; nothing where they are noise or another subject's."""

from dataclasses import replace

import numpy as np

from image_longitudinal.models.image_effects.explained import explained_shares, permutation_null
from image_longitudinal.models.image_effects.fitting import fit_image_effects
from image_longitudinal.models.image_effects.linear_head import LinearLearner
from tests.models.image_effects.conftest import MODEL, SHARE, trial

N, PERMUTATIONS = 160, 9


def test_images_that_tell_two_effects_explain_their_designed_shares_and_chance_does_not() -> None:
    people = trial()
    learner = LinearLearner(people.features)
    found = fit_image_effects(MODEL, people.data, learner)
    ka, cl, v = explained_shares(found, replicates=300)
    for one in (cl, v):
        assert one.low < SHARE < one.high
        assert one.low > 0.4
    assert ka.low < 0 < ka.high, "no feature tells ka"
    null = permutation_null(found, learner, permutations=PERMUTATIONS)
    assert null.p == 1 / (1 + PERMUTATIONS)
    assert null.shares.shape == (PERMUTATIONS, 3)
    assert null.shares.max() < 0.2


def test_images_that_say_nothing_explain_nothing() -> None:
    people, noise = trial(), np.random.default_rng(9).normal(size=(N, 8))
    learner = LinearLearner(noise)
    found = fit_image_effects(MODEL, people.data, learner)
    for one in explained_shares(found, replicates=300):
        assert one.low <= 0 <= one.high
    null = permutation_null(found, learner, permutations=PERMUTATIONS)
    assert null.p > 0.05
    assert null.gain < 10


def test_a_g_that_is_zero_explains_exactly_nothing() -> None:
    people = trial()
    found = fit_image_effects(MODEL, people.data.subset(0, 40), LinearLearner(people.features[:40]), rounds=1)
    none = replace(found, held_out=np.zeros_like(found.held_out), omega=found.total * 0.999, after=found.before)
    assert explained_shares(none) == [(0.0, 0.0, 0.0)] * 3


def test_images_given_to_the_wrong_subjects_explain_nothing() -> None:
    """Swapped ids: every image is the next subject's."""
    people = trial()
    learner = LinearLearner(np.roll(people.features, 1, axis=0))
    found = fit_image_effects(MODEL, people.data, learner)
    for one in explained_shares(found, replicates=300):
        assert one.low <= 0.05
    assert permutation_null(found, learner, permutations=PERMUTATIONS).gain < 10
