"""simulate and fit: a table from a model, a fit from a table or a published level, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from image_longitudinal.cli.population import format_estimates
from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.flows.fit_table import fit_table
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.simulate_table import dose_of, simulate_table
from image_longitudinal.models.nlme.data.dosing import Dose
from image_longitudinal.models.nlme.estimation.results import load_fit
from tests.e2e.conftest import digests

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]
HELD = ("ka", "imax", "ic50", "omega")  # the search is short, everything around it is as always


def test_a_simulated_table_is_fitted_reported_and_not_fitted_again(tmp_path: Path) -> None:
    table = simulate_table("depot-central-mm", str(tmp_path / "trial.csv"), 12, times=(0.5, 1.0, 2.0, 4.0), seed=2)
    output = tmp_path / "fit"
    summary = fit_table(table, "depot-central-mm", str(output), "foce", fixed=HELD, start={"additive": 0.05})
    assert summary["converged"]
    assert summary["estimates"]["sigma2_additive"]["estimate"] == pytest.approx(1e-4, rel=0.8)  # 48 observations
    assert summary["estimates"] == json.loads((output / "fit.json").read_text())["estimates"]
    found = load_fit(output / "fit.nc")
    assert found.table["sigma2_additive"][0] == summary["estimates"]["sigma2_additive"]["estimate"]
    ebes = pq.read_table(output / "ebes.parquet")
    assert ebes["id"].to_pylist() == list(range(1, 13))
    np.testing.assert_allclose(ebes["eta_ka"].to_numpy(), found.eta[:, 0], atol=0.05)
    page = (output / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 7
    assert "sigma2_additive" in page
    assert "sigma2_additive" in format_estimates(summary)

    before = digests(output)
    again = fit_table(table, "depot-central-mm", str(output), "foce", fixed=HELD, start={"additive": 0.05})
    assert again == summary
    assert digests(output) == before


def test_one_level_of_a_published_data_set_is_fitted(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    phantom = ("generator.backend=phantom", "generator.image_size=32", "dataset.n_subjects=20", "dataset.shard_size=8")
    url = generate_dataset(str(tmp_path / "data"), config=tiny(*phantom), workspace=str(tmp_path / "ws"))
    with pytest.raises(ConfigError, match=r"expected one of 1\.0, 0\.5.*got none"):
        fit_table(url, "depot-central-mm", str(tmp_path / "fit"))
    summary = fit_table(url, "depot-central-mm", str(tmp_path / "fit"), "foce", 0.5, subjects=10, fixed=HELD)
    assert (summary["subjects_fitted"], summary["subjects"]) == (10, 20)
    assert pq.read_table(tmp_path / "fit" / "ebes.parquet")["id"].to_pylist() == list(range(20))


def test_what_cannot_be_fitted_is_refused_by_name(tmp_path: Path) -> None:
    table = tmp_path / "bad.csv"
    table.write_text("ID,TIME,EVID,AMT,CMT,DV,MDV\n1,0,1,1,1,.,1\n1,2,0,0,2,0.5,0\n1,1,0,0,2,0.4,0\n")
    for arguments, said in (
        ((str(table), "depot-central-mm"), "unsorted times"),
        ((str(table), "depot-central"), "unknown longitudinal model"),
        ((str(tmp_path / "none.csv"), "depot-central-mm"), r"none\.csv"),
    ):
        with pytest.raises(ConfigError, match=said):
            fit_table(*arguments, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"unknown start value.*imaxx"):
        fit_table(str(table), "depot-central-mm", str(tmp_path / "out"), start={"imaxx": 1.0})
    with pytest.raises(ConfigError, match=r"additive residual error.*no proportional part"):
        fit_table(str(table), "depot-central-mm", str(tmp_path / "out"), start={"proportional": 0.1})
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("text", "dose"),
    [
        ("0:100", Dose(0.0, 100.0)),
        ("1.5:20:central", Dose(1.5, 20.0, "central")),
        ("0:5:2:0.5", Dose(0.0, 5.0, 2, 0.5)),
    ],
)
def test_doses_are_read(text: str, dose: Dose) -> None:
    assert dose_of(text) == dose


@pytest.mark.parametrize("text", ["100", "0:x", "0:1:2:3:4", ""])
def test_unreadable_doses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="unreadable dose"):
        dose_of(text)
