"""simulate and fit: a table from a model, a fit from a table or a published level, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.flows.fit_table import fit_table
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.simulate_table import simulate_table
from image_longitudinal.models.nlme.estimation.results import load_fit
from image_longitudinal.tasks.population.options import FitOptions, SimulateOptions
from image_longitudinal.tasks.population.summary import read_summary
from tests.e2e.conftest import digests

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]
HELD = ("ka", "imax", "ic50", "omega")  # the search is short, everything around it is as always


def test_a_simulated_table_is_fitted_reported_and_not_fitted_again(tmp_path: Path) -> None:
    trial = SimulateOptions(subjects=12, times=(0.5, 1.0, 2.0, 4.0), seed=2)
    table = simulate_table(trial, str(tmp_path / "trial.csv"))
    output = tmp_path / "fit"
    options = FitOptions(table=table, method="foce", fixed=HELD, start={"additive": 0.05})
    summary = fit_table(options, str(output))
    assert summary.converged
    variance = summary.estimates["sigma2_additive"].estimate
    assert variance == pytest.approx(1e-4, rel=0.8)  # 48 observations
    assert json.loads((output / "fit.json").read_text())["estimates"]["sigma2_additive"]["estimate"] == variance
    assert read_summary(output) == summary
    found = load_fit(output / "fit.nc")
    assert found.table["sigma2_additive"][0] == variance
    ebes = pq.read_table(output / "ebes.parquet")
    assert ebes["id"].to_pylist() == list(range(1, 13))
    np.testing.assert_allclose(ebes["eta_ka"].to_numpy(), found.eta[:, 0], atol=0.05)
    page = (output / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == page.count("data:text/csv;base64,") == 7
    assert "sigma2_additive" in page
    assert any("sigma2_additive" in line for line in summary.lines())

    row, figures = summary.estimates["sigma2_additive"], summary.figures
    assert 0 < row.lower < variance < row.upper
    assert figures.parameters == 1
    assert figures.objective_with_constant == pytest.approx(summary.objective + 48 * np.log(2 * np.pi))
    assert set(figures.eta_bar) == {"eta_ka", "eta_imax", "eta_ic50"}
    printed = "\n".join(summary.lines())
    for word in ("AIC", "BIC", "RSE %", "95 % interval", "eta_ka: shrinkage", "residual error of outcome: shrinkage"):
        assert word in printed
        assert word.split()[0] in page or word.startswith(("eta", "residual", "RSE"))

    with_table = options.model_copy(update={"sdtab": "csv"})
    assert fit_table(with_table, str(output)) == summary  # the fit exists: only the table is made
    rows = pd.read_csv(output / "sdtab.csv", na_values=".")
    assert len(rows) == 48
    np.testing.assert_allclose(rows["IWRES"], (rows["DV"] - rows["IPRED"]) / np.sqrt(variance), rtol=1e-6)
    np.testing.assert_allclose(rows["eta_ka"].to_numpy()[::4], found.eta[:, 0])

    before = digests(output)
    assert fit_table(options, str(output)) == summary
    with pytest.raises(StorageError, match=r"earlier result.*--overwrite"):
        fit_table(options.model_copy(update={"seed": 9}), str(output))
    assert digests(output) == before
    with pytest.raises(StorageError, match=r"exists already.*--overwrite"):
        simulate_table(trial, table)
    assert simulate_table(trial, table, overwrite=True) == table

    drawn = [
        pd.read_csv(
            simulate_table(
                SimulateOptions(fit=str(output), subjects=3, seed=seed, uncertainty=uncertainty),
                str(tmp_path / f"from-{seed}-{uncertainty}.csv"), str(tmp_path / f"truth-{seed}-{uncertainty}.csv"),
            ),
            na_values=".",
        )["DV"].to_numpy()
        for seed, uncertainty in ((1, False), (1, True))
    ]  # fmt: skip
    truth = [(tmp_path / f"truth-1-{uncertainty}.csv").read_text() for uncertainty in (False, True)]
    assert truth[0] == truth[1]  # ka, imax, ic50 and omega were held: their draws are the same
    assert not np.array_equal(*drawn, equal_nan=True)  # the residual error was drawn

    moved = simulate_table(trial.model_copy(update={"events": table}), str(tmp_path / "again.csv"))
    rows, again = (pd.read_csv(path)[["ID", "TIME", "EVID"]] for path in (table, moved))
    assert again.equals(rows)  # the same subjects at the same times


def test_one_level_of_a_published_data_set_is_fitted(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    phantom = ("generator.backend=phantom", "generator.image_size=32", "dataset.n_subjects=20", "dataset.shard_size=8")
    url = generate_dataset(str(tmp_path / "data"), config=tiny(*phantom), workspace=str(tmp_path / "ws"))
    with pytest.raises(ConfigError, match=r"expected one of 1\.0, 0\.5.*got none"):
        fit_table(FitOptions(table=url), str(tmp_path / "fit"))
    options = FitOptions(table=url, method="foce", level=0.5, subjects=10, fixed=HELD)
    summary = fit_table(options, str(tmp_path / "fit"))
    assert (summary.subjects_fitted, summary.subjects) == (10, 20)
    assert pq.read_table(tmp_path / "fit" / "ebes.parquet")["id"].to_pylist() == list(range(20))


def test_what_cannot_be_fitted_is_refused_by_name(tmp_path: Path) -> None:
    table = tmp_path / "bad.csv"
    table.write_text("ID,TIME,EVID,AMT,CMT,DV,MDV\n1,0,1,1,1,.,1\n1,2,0,0,2,0.5,0\n1,1,0,0,2,0.4,0\n")
    for values, message in (
        ({}, "unsorted times"),
        ({"model": "depot-central"}, "unknown longitudinal model"),
        ({"table": str(tmp_path / "none.csv")}, r"none\.csv"),
        ({"start": {"imaxx": 1.0}}, r"unknown start value.*imaxx"),
        ({"start": {"proportional": 0.1}}, r"additive residual error.*no proportional part"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit_table(FitOptions(**{"table": str(table)} | values), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
