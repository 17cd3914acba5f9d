"""Fits side by side."""

from pathlib import Path

import pytest
from scipy.stats import chi2

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.population.comparison import compare_fits
from image_longitudinal.tasks.population.summary import Figures, FitSummary, ParameterEstimate


def written(folder: Path, objective: float, names: str, **changes: object) -> str:
    folder.mkdir()
    count = len(names.split())
    figures = Figures(
        objective_with_constant=objective, aic=objective + 2 * count, bic=objective + 3 * count, parameters=count,
        eigenvalues=(), epsilon_shrinkage={}, eta_bar={}, correlations=(),
    )  # fmt: skip
    one = ParameterEstimate(estimate=1.0, standard_error=None)
    values = {
        "key": "k", "model": "decay", "method": "FOCEI", "converged": True, "message": "converged",
        "objective": objective, "estimates": dict.fromkeys(names.split(), one), "subjects": 12, "observations": 48,
        "subjects_fitted": 12, "figures": figures, "content": "digest",
    }  # fmt: skip
    FitSummary.model_validate(values | changes).write(folder)
    return str(folder)


def test_nested_fits_are_tested_and_all_are_in_the_order_of_their_aic(tmp_path: Path) -> None:
    base = written(tmp_path / "base", 100.0, "k a s")
    weight = written(tmp_path / "weight", 90.0, "k a s k_weight")
    worse = written(tmp_path / "worse", 100.5, "k a s k_age a_age")
    other = written(tmp_path / "other", 95.0, "k b s")
    smaller = written(tmp_path / "smaller", 130.0, "k s")
    found = compare_fits([base, weight, worse, other, smaller])
    assert [Path(one.fit).name for one in found.fits] == ["weight", "other", "base", "worse", "smaller"]
    by_name = {Path(one.fit).name: one for one in found.fits}
    own = by_name["weight"]
    assert (own.change, own.aic_change, own.bic_change, own.freedom) == (-10.0, -8.0, -7.0, 1)
    assert own.p == pytest.approx(chi2.sf(10.0, 1))
    assert (by_name["worse"].freedom, by_name["worse"].p) == (2, None)  # larger and worse: no minimum
    assert (by_name["other"].freedom, by_name["other"].p) == (None, None)
    assert by_name["smaller"].p == pytest.approx(chi2.sf(30.0, 1))
    assert found.rows()[0][0] == "fit"
    assert "boundary" in found.notes[0]


def test_what_makes_a_comparison_doubtful_is_said(tmp_path: Path) -> None:
    base = written(tmp_path / "base", 100.0, "k a")
    other = written(tmp_path / "other", 90.0, "k a c", method="Laplace", converged=False)
    found = compare_fits([base, other])
    assert found.fits[0].p is None  # other methods: no test
    assert any("FOCEI, Laplace" in note for note in found.notes)
    assert any(note.endswith(other) for note in found.notes)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    base = written(tmp_path / "base", 100.0, "k a")
    fewer = written(tmp_path / "fewer", 90.0, "k a c", observations=47)
    changed = written(tmp_path / "changed", 90.0, "k a c", content="another")
    drawn = written(tmp_path / "drawn", 90.0, "k a", figures=None)
    for folders, message in (
        ([base, fewer], "different data.*47 observations"),
        ([base, changed], "different data"),
        ([base, drawn], "no fit to compare"),
        ([base, str(tmp_path / "none")], "no fit to compare"),
        ([base], "two or more"),
        ([base, base], "two or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare_fits(folders)
