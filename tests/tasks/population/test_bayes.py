"""The report on draws, from artificial draws."""

import arviz as az
import numpy as np
import pytest

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.tasks.population.bayes import posterior_page, posterior_rows, predictive_figure, traces_figure
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.summary import FitSummary

EFFECTS = ["eta_ka", "eta_imax", "eta_ic50"]


@pytest.fixture
def data() -> PopulationData:
    model = get_model("depot-central-mm")
    return PopulationData.of_design(model.structural, [[0.1, 0.3], [0.2, 0.4]], [1.0, 2.0], model.design.doses)


@pytest.fixture
def found() -> az.InferenceData:
    rng = np.random.default_rng(1)

    def drawn(sd: float) -> dict[str, np.ndarray]:
        return {
            "typical": 2.0 + sd * rng.standard_normal((2, 300, 3)),
            "omega_matrix": 1.0 + 0.1 * rng.standard_normal((2, 300, 3, 3)),
            "error_scale": 1.0 + 0.1 * rng.standard_normal((2, 300)),
        }

    outcome = {"outcome": rng.normal(0.25, 0.1, (2, 300, 4))}
    return az.from_dict(
        drawn(0.1), prior=drawn(1.0), sample_stats={"diverging": np.arange(600).reshape(2, 300) == 7},
        prior_predictive=outcome, posterior_predictive=outcome,
        coords={"parameter": ["ka", "imax", "ic50"], "random_effect": EFFECTS, "random_effect_other": EFFECTS},
        dims={"typical": ["parameter"], "omega_matrix": ["random_effect", "random_effect_other"]},
    )  # fmt: skip


def test_the_page_shows_the_draws(found: az.InferenceData, data: PopulationData) -> None:
    model = get_model("depot-central-mm")
    rows = {row.name: row for row in posterior_rows(found, model.random_effect_names)}
    assert len(rows) == 3 + 6 + 1, "of Ω the lower triangle"
    own = found["posterior"]["typical"].sel(parameter="imax")
    assert rows["imax"].mean == pytest.approx(float(own.mean()))
    assert (rows["imax"].low, rows["imax"].high) == pytest.approx(tuple(np.quantile(own, (0.025, 0.975))))
    assert rows["omega(eta_ic50,eta_ka)"].mean == pytest.approx(1.0, abs=0.02)
    assert rows["error_scale"].rhat == pytest.approx(1.0, abs=0.02)
    options = FitOptions(table="trial.csv", method="nuts")
    summary = FitSummary(
        key="", model=options.model, method="NUTS", converged=False, message="", estimates={}, subjects=2,
        observations=4, subjects_fitted=2,
    )  # fmt: skip
    page = posterior_page(found, model, data, options, summary)
    assert page.count("data:image/svg+xml;base64,") == page.count("data:text/csv;base64,") == 3
    assert "1 divergent transitions" in page
    assert ">imax<" in page
    assert "95 % interval" in page


def test_the_figures_have_a_row_per_parameter_and_every_observation(
    found: az.InferenceData, data: PopulationData
) -> None:
    axes = traces_figure(found).axes
    assert [axis.get_ylabel() for axis in axes[::2]] == ["ka", "imax", "ic50"]
    points = predictive_figure(found, data, "posterior_predictive").axes[0].lines[-1]
    np.testing.assert_array_equal(points.get_ydata(), data.observed)
