"""The bootstrap: the same resamples for any block size, and intervals with their nominal coverage."""

import numpy as np
import pytest

from image_longitudinal.models.evaluation import bootstrap
from image_longitudinal.models.evaluation.bootstrap import Resampling, estimate
from image_longitudinal.models.evaluation.effect_scores import mse, pooled_r2, squares


def test_resamples_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).normal(size=(37, 3))
    whole = Resampling(37, 5, 200).means(columns)
    monkeypatch.setattr(bootstrap, "BLOCK", 100)
    np.testing.assert_allclose(Resampling(37, 5, 200).means(columns), whole, atol=1e-12)
    assert not np.allclose(Resampling(37, 6, 200).means(columns), whole)


def test_resampled_means_vary_by_their_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=(500, 1))
    deviation = Resampling(500, 1, 4000).means(values).std()
    assert deviation == pytest.approx(values.std() / np.sqrt(500), rel=0.05)  # 4,000 replicates: its error is 1.1 %


def test_intervals_have_their_nominal_coverage() -> None:
    """200 populations of 400 subjects with one effect, truth t and prediction p = t/2 + noise.

    The truth in an infinite population: MSE ¼ + ¼ = ½ and R² = ½. One coverage of 200 has a standard error of 1.5 %,
    that of the two figures together (they go together for the most part) hardly less.
    """
    rng, resampling = np.random.default_rng(3), Resampling(400, 1, 1000)
    truths = rng.normal(size=(200, 400, 1))
    predictions = truths / 2 + rng.normal(size=truths.shape) / 2
    columns = [squares(t, p) for t, p in zip(truths, predictions, strict=True)]
    means = resampling.means(np.concatenate(columns, axis=1))  # shared: the populations are independent
    covered = {"mse": 0, "r2": 0}
    for i, column in enumerate(columns):
        resampled = means[:, 3 * i : 3 * i + 3]
        for name, figure, expected in (("mse", mse, 0.5), ("r2", pooled_r2, 0.5)):
            found = estimate(figure, column, resampled)
            covered[name] += found.low <= expected <= found.high
    assert 0.93 <= covered["mse"] / 200 <= 0.97
    assert 0.93 <= covered["r2"] / 200 <= 0.97
