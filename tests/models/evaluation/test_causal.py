"""Estimators of effects on data whose truth is known."""

import numpy as np
import pytest
from scipy.special import expit

from image_longitudinal.models.evaluation.causal import Treated, learn_effects, mean_effects, policy_gain
from image_longitudinal.models.evaluation.site_probe import acquisition_features, probe_auc

N = 6000


def confounded(n: int = N, seed: int = 0) -> tuple[Treated, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 4))
    propensity = expit(0.8 * x[:, 0])
    treated = rng.random(n) < propensity
    effect = 1 + x[:, 1]
    outcome = 2 * x[:, 0] + treated * effect + rng.standard_normal(n)
    return Treated(np.arange(n), x, treated, outcome, propensity), effect


def test_the_naive_difference_is_biased_and_the_others_are_not() -> None:
    """Within 3 standard errors of the true mean effect, 1."""
    found = {one.estimator: one for one in mean_effects(confounded()[0])}
    naive = found.pop("naive difference")
    assert naive.value - 1 > 10 * naive.error
    for name, one in found.items():
        assert one.value == pytest.approx(1, abs=3 * one.error), name
    assert found["AIPW, true propensity"].error < found["IPW, true propensity"].error


def test_learners_find_who_benefits() -> None:
    train, _ = confounded()
    test, effect = confounded(2000, 1)
    for name, predicted in learn_effects(train, test.features).items():
        r2 = 1 - np.square(effect - predicted).mean() / effect.var()
        assert r2 > 0.97, name
    outcomes = np.column_stack([np.zeros(2000), effect])
    best = policy_gain(effect > 0, outcomes)
    assert policy_gain(predicted > 0, outcomes) > 0.95 * best
    assert policy_gain(np.ones(2000, bool), outcomes) == pytest.approx(0, abs=1e-12)


def test_learners_hold_where_the_image_does_not_show_what_confounds() -> None:
    """The confounder is in no feature; the true propensity makes up for it. Naively the mean effect is 1.7, not 1."""
    rng = np.random.default_rng(7)
    x, hidden = rng.standard_normal((N, 4)), rng.standard_normal(N)
    propensity = expit(0.8 * hidden)
    treated = rng.random(N) < propensity
    effect = 1 + x[:, 1]
    outcome = hidden + treated * effect + 0.5 * rng.standard_normal(N)
    data = Treated(np.arange(N), x, treated, outcome, propensity)
    assert outcome[treated].mean() - outcome[~treated].mean() > 1.6
    for name, predicted in learn_effects(data, x).items():
        assert predicted.mean() == pytest.approx(1, abs=0.12), name  # 3 standard errors of IPW
        assert 1 - np.square(effect - predicted).mean() / effect.var() > 0.95, name


def test_without_heterogeneity_nothing_is_found() -> None:
    train, _ = confounded()
    rng = np.random.default_rng(5)
    outcome = 2 * train.features[:, 0] + train.treated * 1.0 + rng.standard_normal(N)
    flat = Treated(train.ids, train.features, train.treated, outcome, train.propensity)
    for name, predicted in learn_effects(flat, train.features).items():
        assert np.std(predicted) < 0.15, name  # of noise with standard deviation 1


@pytest.mark.parametrize(("gain", "least", "most"), [(0, 0.35, 0.65), (6, 0.8, 1.0)])
def test_a_probe_sees_a_site_that_is_brighter_and_none_that_is_not(gain: int, least: float, most: float) -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(60, 120, (900, 16, 16)).astype(np.uint8)
    images += rng.integers(0, 10, (900, 1, 1)).astype(np.uint8)
    site = rng.random(900) < 0.5
    images[site] += np.uint8(gain)
    features = acquisition_features(images)
    auc, low, high = probe_auc(features[:600], site[:600], features[600:], site[600:])
    assert least <= auc <= most
    assert low <= auc <= high
