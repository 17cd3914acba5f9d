"""The bootstrap: the same resamples for any block size, and intervals with their nominal coverage."""

import numpy as np
import pytest

from image_longitudinal.models.evaluation import bootstrap
from image_longitudinal.models.evaluation.bootstrap import Resampling
from image_longitudinal.models.evaluation.level_scores import mse, pooled_r2, squares


def test_resamples_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).normal(size=(37, 3))
    whole = Resampling(37, 5, 200).of(columns).means
    monkeypatch.setattr(bootstrap, "BLOCK", 100)
    np.testing.assert_allclose(Resampling(37, 5, 200).of(columns).means, whole, atol=1e-12)
    assert not np.allclose(Resampling(37, 6, 200).of(columns).means, whole)


def test_resampled_means_vary_by_their_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=(500, 1))
    deviation = Resampling(500, 1, 4000).of(values).means.std()
    assert deviation == pytest.approx(values.std() / np.sqrt(500), rel=0.05)  # 4,000 replicates: its error is 1.1 %


def test_intervals_have_their_nominal_coverage() -> None:
    """200 populations of 400 subjects with one effect, truth t and prediction p = t/2 + noise.

    The truth in an infinite population: MSE ¼ + ¼ = ½ and R² = ½. One coverage of 200 has a standard error of 1.5 %.
    """
    rng = np.random.default_rng(3)
    truths = rng.normal(size=(200, 400, 1))
    predictions = truths / 2 + rng.normal(size=truths.shape) / 2
    columns = np.concatenate([squares(t, p) for t, p in zip(truths, predictions, strict=True)], axis=1)
    resampled = Resampling(400, 1, 1000).of(columns)  # shared: the populations are independent
    for figure in (mse, pooled_r2):
        found = [resampled.estimate(figure, range(3 * i, 3 * i + 3)) for i in range(200)]
        assert 0.93 <= np.mean([one.low <= 0.5 <= one.high for one in found]) <= 0.97
