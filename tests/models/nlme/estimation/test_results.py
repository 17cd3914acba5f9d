"""Fits as InferenceData: read back exactly, and honest about what is wrong."""

from dataclasses import fields, replace

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.estimation import results
from image_longitudinal.models.nlme.estimation.fit import Fit, Sampling, fit
from image_longitudinal.models.nlme.library import get_model
from tests.models.nlme.estimation.test_fit import simulated


@pytest.fixture(scope="module")
def fitted(original):
    _, data = simulated(original, 12, seed=5)
    return fit(original, data, omega="diagonal", covariance="gradient", max_iterations=3), data


def test_every_field_comes_back_exactly(fitted, tmp_path):
    result, data = fitted
    for name in ("fit.nc", "fit.zarr"):
        back = results.load_fit(results.save_fit(result, tmp_path / name, data))
        for field in fields(Fit):
            one, other = getattr(result, field.name), getattr(back, field.name)
            np.testing.assert_equal(other, one, err_msg=field.name)  # NaN equals NaN
            assert np.asarray(one).dtype == np.asarray(other).dtype, field.name
    assert back.model.structural is get_model("depot-central-mm").structural


def test_how_well_a_sampled_likelihood_is_known_comes_back_and_a_doubtful_one_is_named(fitted, tmp_path):
    result, data = fitted
    shapes = np.full(12, 0.2)
    shapes[3] = 0.9
    known = Sampling(np.full(12, 600), np.full(12, 400.0), shapes, 0.015)
    wide = 2.0 * result.covariance
    sampled = replace(result, sampling=known, searches_converged=shapes <= 0.7, interval_covariance=wide)
    found = results.load_fit(results.save_fit(sampled, tmp_path / "fit.nc", data))
    back = found.sampling
    assert back is not None
    np.testing.assert_array_equal(found.interval_covariance, wide)
    for field in fields(Sampling):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(known, field.name))
    warned = [text for text in results.fit_warnings(sampled) if "sampled likelihood" in text]
    assert len(warned) == 1
    assert "1 of 12 subjects" in warned[0]
    assert "largest 0.90" in warned[0]


def test_the_file_holds_data_and_predictions_beside_the_estimates(fitted, tmp_path):
    result, data = fitted
    content = results.load_results(results.save_fit(result, tmp_path / "fit.nc", data, {"pred": np.arange(252.0)}))
    np.testing.assert_array_equal(content["observed_data"]["outcome"], data.observed)
    np.testing.assert_array_equal(content["constant_data"]["subject_of"], np.repeat(data.ids, 21))
    np.testing.assert_array_equal(content["predictions"]["pred"], np.arange(252.0))
    assert content["estimates"]["estimate"].sel(quantity="imax") == result.table["imax"][0]
    assert content["random_effects"]["eta"].sel(subject=3, random_effect="eta_ka") == result.eta[3, 0]


def test_the_same_fit_gives_the_same_bytes_and_replaces_what_was_there(fitted, tmp_path):
    result, data = fitted
    one, two = (results.save_fit(result, tmp_path / name, data).read_bytes() for name in ("one.nc", "two.nc"))
    assert one == two
    results.save_fit(result, tmp_path / "fit.zarr", data)
    results.save_fit(replace(result, objective=1.5), tmp_path / "fit.zarr", data)
    assert results.load_fit(tmp_path / "fit.zarr").objective == 1.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.zarr", "one.nc", "two.nc"]


def test_unusable_places_and_models_are_refused_by_name(fitted, tmp_path):
    result, _ = fitted
    with pytest.raises(ConfigError, match=r"expected \.nc or \.zarr.*fit\.json"):
        results.save_fit(result, tmp_path / "fit.json")
    with pytest.raises(ConfigError, match="no such results"):
        results.load_fit(tmp_path / "nothing.nc")
    results.save_fit(result, tmp_path / "fit.nc")
    with pytest.raises(ConfigError, match="other parameters"):
        results.load_fit(tmp_path / "fit.nc", get_model("one-compartment"))
    content = results.inference_data(result)
    del content.estimates
    with pytest.raises(ConfigError, match="no \\['estimates'\\]"):
        results.load_fit(results.save_results(content, tmp_path / "fit.nc"))


def test_what_is_wrong_with_a_fit_is_warned(fitted):
    result, _ = fitted
    assert not result.converged
    poor = replace(result, searches_converged=np.arange(12) > 1, condition_number=2e4)
    warned = results.fit_warnings(replace(poor, shrinkage=np.array([0.1, 0.45, 0.2])))
    assert warned[0] == "The fit did not converge: not converged after 3 iterations."
    assert any(sentence.startswith("2 of 12 subjects") for sentence in warned)
    assert any("condition number 2e+04" in sentence for sentence in warned)
    assert any("Shrinkage of eta_imax is 45%" in sentence for sentence in warned)
    fine = replace(result, converged=True, shrinkage=np.zeros(3), searches_converged=np.ones(12, dtype=bool))
    fine = replace(fine, standard_errors=np.ones(7), condition_number=5.0)
    assert results.fit_warnings(fine) == []
    assert "no standard error" in " ".join(results.fit_warnings(replace(fine, standard_errors=np.full(7, np.nan))))
