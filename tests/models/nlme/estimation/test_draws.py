"""Models drawn from a fit's estimated distribution."""

from dataclasses import replace

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.estimation.draws import drawn_model
from image_longitudinal.models.nlme.estimation.fit import fit
from tests.models.nlme.estimation.test_fit import THEOPHYLLINE, theophylline_data  # noqa: F401


@pytest.fixture(scope="module")
def found(theophylline_data):  # noqa: F811
    return fit(THEOPHYLLINE, theophylline_data, "FOCEI")


def test_draws_have_the_estimates_distribution_and_are_models(found):
    drawn = [drawn_model(found, seed) for seed in range(400)]
    ka = np.log([own.typical_values["ka"] for own in drawn])
    estimate, error = found.table["ka"]
    # 400 draws: the mean to 5 % of the standard error, its size to 3.5 %; both bounds are more than 4 of these
    assert ka.mean() == pytest.approx(np.log(estimate), abs=0.25 * error / estimate)
    assert ka.std() == pytest.approx(error / estimate, rel=0.15)
    assert all(np.linalg.eigvalsh(own.omega)[0] > 0 for own in drawn)
    assert drawn_model(found, 7) == drawn[7]


def test_what_has_no_standard_error_stays(found):
    errors, covariance = found.standard_errors.copy(), found.covariance.copy()
    errors[0], covariance[0], covariance[:, 0] = np.nan, np.nan, np.nan
    drawn = drawn_model(replace(found, standard_errors=errors, covariance=covariance), 3)
    assert drawn.typical_values["ka"] == pytest.approx(found.table["ka"][0], rel=1e-12)
    assert drawn.typical_values["v"] != found.table["v"][0]
    with pytest.raises(ConfigError, match="no standard errors"):
        drawn_model(replace(found, standard_errors=np.full(11, np.nan)), 3)


def test_held_values_stay(theophylline_data):  # noqa: F811
    held = fit(THEOPHYLLINE, theophylline_data, "FOCEI", fixed=("k", "omega", "sigma2_additive"))
    drawn = drawn_model(held, 1)
    assert drawn.typical_values["k"] == pytest.approx(0.1, rel=1e-12)
    np.testing.assert_allclose(drawn.omega, THEOPHYLLINE.omega, rtol=1e-9)
    assert drawn.residual.additive == pytest.approx(0.1**0.5, rel=1e-12)
    assert drawn.typical_values["ka"] != held.table["ka"][0]
