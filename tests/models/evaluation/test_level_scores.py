"""Scores of predicted random effects against what they are by hand."""

import numpy as np
import pytest

from image_longitudinal.models.evaluation.bootstrap import Resampling
from image_longitudinal.models.evaluation.level_scores import score_effects
from tests.models.evaluation.conftest import r2


def test_scores_are_those_of_the_formulas() -> None:
    rng = np.random.default_rng(0)
    linked, noise = rng.normal(size=(2, 300, 2))
    truth = np.sqrt(0.5) * (linked + noise)
    modes, predicted = truth * 0.8, 0.5 * linked
    realised, found = score_effects(
        {"mine": predicted, "oracle": np.sqrt(0.5) * linked}, truth=truth, modes=modes, ceiling=np.sqrt(0.5) * linked,
        nominal=0.5, resampling=Resampling(300, 1, 200),
    )  # fmt: skip

    mine, ceiling = found["mine"], r2(truth, np.sqrt(0.5) * linked)
    assert realised.value == pytest.approx(ceiling)
    assert mine.mse.value == pytest.approx(np.square(truth - predicted).mean())
    assert mine.r2.value == pytest.approx(r2(truth, predicted))
    assert mine.r2_each[1].value == pytest.approx(r2(truth[:, 1:], predicted[:, 1:]))
    assert mine.mse_to_modes.value == pytest.approx(np.square(modes - predicted).mean())
    assert mine.r2_to_modes.value == pytest.approx(r2(modes, predicted))
    assert mine.of_nominal.value == pytest.approx(mine.r2.value / 0.5)
    assert mine.of_realised.value == pytest.approx(mine.r2.value / ceiling)
    assert mine.of_oracle is not None
    assert mine.of_oracle.value == pytest.approx(mine.r2.value / ceiling)
    assert mine.r2.low < mine.r2.value < mine.r2.high
    exact = found["oracle"]
    assert exact.of_realised.low == pytest.approx(1), "both figures are of the same resample"
    assert exact.of_realised.high == pytest.approx(1)
