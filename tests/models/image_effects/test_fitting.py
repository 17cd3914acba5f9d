"""g and Ω_r fitted to an irregular table."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.image_effects.fitting import fit_image_effects
from image_longitudinal.models.image_effects.linear_head import LinearLearner
from image_longitudinal.models.nlme.model.effects import with_occasions
from tests.models.image_effects.conftest import MODEL, SHARE, r2, trial

N = 120


def test_it_predicts_subjects_that_it_has_not_seen_and_knows_how_well() -> None:
    """Subjects with 1 to 4 visits; a variance of 120 subjects errs by 13 %, so Ω_r by .01: three times that."""
    people = trial()
    learner = LinearLearner(people.features[:N])
    found = fit_image_effects(MODEL, people.data.subset(0, N), learner)
    predicted = r2(people.eta[N:], found.head(people.features[N:]))
    assert predicted[1:].min() > 0.7 * SHARE
    assert found.gain > 50
    np.testing.assert_allclose(np.diag(found.omega)[1:], (1 - SHARE) * 0.09, atol=0.03)
    np.testing.assert_allclose(found.head(people.features[:N]).mean(0), 0.0, atol=1e-9)
    assert list(found.objectives[1:]).index(min(found.objectives[1:])) >= 0


def test_the_two_step_form_has_the_same_interface() -> None:
    people = trial()
    learner = LinearLearner(people.features[:N])
    found = fit_image_effects(MODEL, people.data.subset(0, N), learner, learning="two-step")
    assert len(found.objectives) == 2
    assert found.gain > 40


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    people = trial()
    one, two = (
        fit_image_effects(MODEL, people.data.subset(0, 40), LinearLearner(people.features[:40]), rounds=1, workers=own)
        for own in (1, 2)
    )
    np.testing.assert_array_equal(one.held_out, two.held_out)


def test_subjects_that_cannot_be_learned_from_are_refused() -> None:
    people = trial()
    with pytest.raises(ConfigError, match="images of 12 subjects"):
        fit_image_effects(MODEL, people.data.subset(0, 12), LinearLearner(people.features[:40]))
    with pytest.raises(ConfigError, match="at least 20 subjects"):
        fit_image_effects(MODEL, people.data.subset(0, 12), LinearLearner(people.features[:12]))
    varying = with_occasions(MODEL, ["cl"], occasions=2, omega=[[0.04]])
    with pytest.raises(ConfigError, match="not of occasions"):
        fit_image_effects(varying, people.data.subset(0, 40), LinearLearner(people.features[:40]))
