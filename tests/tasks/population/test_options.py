"""Options of fits and simulations: doses, errors, and what a fit's cache key depends on."""

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.tasks.population.inputs import FitTable, spec_of
from image_longitudinal.tasks.population.options import FitOptions, FitSettings, dose_of, options_of


def test_doses_are_read_and_unusable_options_are_named() -> None:
    assert dose_of("0:100") == Dose(0.0, 100.0)
    assert dose_of("1.5:20:central") == Dose(1.5, 20.0, "central")
    assert dose_of("0:5:2:0.5") == Dose(0.0, 5.0, 2, 0.5)
    for text in ("100", "0:x", "0:1:2:3:4", ""):
        with pytest.raises(ConfigError, match="unreadable dose"):
            dose_of(text)
    with pytest.raises(ConfigError, match=r"method: .*'focei'.*got 'foci'.*draws: .*got 3"):
        options_of(FitOptions, {"table": "trial.csv", "method": "foci", "draws": 3})


def test_the_cache_key_depends_on_every_setting_and_the_content_but_not_on_the_path() -> None:
    options, changed = FitOptions(table="a.csv"), {
        "method": "foce", "level": 0.5, "split": "test", "covariates": "nocb", "subjects": 3, "omega": "diagonal",
        "fixed": ("ka",), "covariance": "none", "start": {"ka": 2.0}, "draws": 60, "seed": 2,
    }  # fmt: skip
    assert set(changed) == set(FitSettings.model_fields)
    key = spec_of(options, FitTable(None, "content")).digest
    keys = {spec_of(options.model_copy(update={name: value}), FitTable(None, "content")).digest
            for name, value in changed.items()}  # fmt: skip
    keys |= {spec_of(options, FitTable(None, "other")).digest}
    keys |= {spec_of(options.model_copy(update={"model": "emax"}), FitTable(None, "content")).digest}
    assert len(keys | {key}) == len(changed) + 3
    assert spec_of(options.model_copy(update={"table": "b.csv"}), FitTable(None, "content")).digest == key
