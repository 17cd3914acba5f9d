"""Options of fits and simulations: doses, errors, and what a fit's cache key depends on."""

from pathlib import Path

import pytest

from image_longitudinal.core.digest import file_sha256
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.tasks.population.inputs import FitTable, observations_of, spec_of
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
        "order": 3, "burn_in": 100, "smoothing": 50,
    }  # fmt: skip
    assert set(changed) == set(FitSettings.model_fields)
    key = spec_of(options, FitTable(None, "content")).digest
    keys = {spec_of(options.model_copy(update={name: value}), FitTable(None, "content")).digest
            for name, value in changed.items()}  # fmt: skip
    keys |= {spec_of(options, FitTable(None, "other")).digest}
    keys |= {spec_of(options.model_copy(update={"model": "emax"}), FitTable(None, "content")).digest}
    assert len(keys | {key}) == len(changed) + 3
    assert spec_of(options.model_copy(update={"table": "b.csv"}), FitTable(None, "content")).digest == key
    imp = spec_of(options.model_copy(update={"method": "imp"}), FitTable(None, "content"))
    assert imp.digest != imp.model_copy(update={"sampler": 1}).digest  # fits by the sampler before count as others


def test_unusual_rules_of_reading_count_towards_the_key_and_usual_ones_do_not(tmp_path: Path) -> None:
    model, table = get_model("pk-emax"), tmp_path / "table.csv"

    def content(text: str, **options: object) -> str:
        table.write_text(text)
        return observations_of(FitOptions(table=str(table), **options), model).content

    plain = "ID,TIME,AMT,EVID,DV,MDV,DVID,COMMENT\n1,0,9,1,.,1,0,x\n1,1,0,0,2,0,1,y\n"
    assert content(plain) == file_sha256(table)
    assert content(plain, covariates="nocb") == file_sha256(table)  # (a setting of the fit, with a place in the key)
    for text, options in (
        (plain.replace("DVID", "CMT"), {}),  # endpoints by CMT
        (plain.replace("1,y", "response,y"), {}),  # by name
        (plain, {"endpoints": {"response": "1"}}),
        (plain.replace(",", ";"), {"decimal": ","}),
    ):
        assert content(text, **options) != file_sha256(table)
