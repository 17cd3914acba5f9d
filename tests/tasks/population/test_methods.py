"""Fits by sampling and quadrature from a table to results, summary and report."""

import json
from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.models.nlme.estimation.results import load_fit
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.trial import write_trial
from image_longitudinal.tasks.population.fit import fit_to_table
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.report import report_fit
from image_longitudinal.tasks.population.summary import EBES, NAME, RESULTS

MODEL = "depot-central-mm"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trial(get_model(MODEL), tmp_path_factory.mktemp("trial") / "trial.csv", 12, seed=1)


@pytest.mark.parametrize("method", ["imp", "saem", "agq"])
def test_a_method_gives_results_summary_and_report(table: Path, tmp_path: Path, method: str) -> None:
    options = FitOptions(
        table=str(table), model=MODEL, method=method, omega="diagonal", draws=60, order=3, burn_in=20, smoothing=10
    )
    summary = fit_to_table(options, str(tmp_path), workers=1)
    page = Path(report_fit(options, str(tmp_path))).read_text(encoding="utf-8")
    found = load_fit(tmp_path / RESULTS, get_model(MODEL))
    assert found.method == summary.method == {"imp": "IMP", "saem": "SAEM", "agq": "AGQ"}[method]
    assert json.loads((tmp_path / NAME).read_bytes())["objective"] == summary.objective
    assert (tmp_path / EBES).exists()
    assert not any(line.startswith("NOT CONVERGED") and ": converged" in line for line in summary.lines())
    if method == "agq":
        assert summary.sampling is None
        assert found.sampling is None
        assert "Pareto k" not in page
        return
    assert summary.sampling is not None
    assert found.sampling is not None
    assert summary.sampling.objective_error == found.sampling.error
    assert summary.sampling.most_draws == found.sampling.draws.max()
    unreliable = np.flatnonzero(found.sampling.pareto_k > 0.7)
    assert summary.sampling.unreliable == tuple(str(i + 1) for i in unreliable)  # ids of a simulated trial begin at 1
    assert "Pareto k" in page
