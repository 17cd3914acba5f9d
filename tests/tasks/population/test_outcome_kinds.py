"""A marker, counts and an event from a model file: simulated, fitted and reported as by the command line."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.population.fit import fit_to_table, write_sdtab
from image_longitudinal.tasks.population.options import FitOptions, SimulateOptions
from image_longitudinal.tasks.population.report import report_fit
from image_longitudinal.tasks.population.simulation import simulate_trial

MODEL = """
from image_longitudinal.models.nlme.library import register
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.likelihoods import NegativeBinomial
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import LIKELIHOOD, ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.time_to_event import Gompertz, TimeToEvent

register(PopulationModel(
    name="three-kinds",
    structural=StructuralModel(
        name="three-kinds", states=(), parameters=("level", "dispersion", "rate"),
        output=lambda t, x, p: p.level + 0.1 * t,
        likelihood=lambda t, x, p: {
            "count": NegativeBinomial(mean=p.level, dispersion=p.dispersion),
            "event": TimeToEvent(baseline=Gompertz(p.rate, 0.1), log_ratio=s.log(p.level)),
        },
        endpoints=("marker", "count", "event"),
    ),
    parameters=(Parameter("level", 2.0), Parameter("dispersion", 0.5, random=False),
                Parameter("rate", 0.1, random=False)),
    omega=((0.3,),),
    residual=ResidualError("additive", additive=0.3),
    other_residuals=(LIKELIHOOD, LIKELIHOOD),
    design=Design(times=(0.0, 1.0, 2.0), doses=()),
))
"""


def test_three_kinds_of_outcome_from_a_model_file_to_a_report(tmp_path: Path) -> None:
    file, table = tmp_path / "kinds.py", tmp_path / "trial.csv"
    file.write_text(MODEL)
    named = {"model": "three-kinds", "model_file": str(file)}
    simulate_trial(SimulateOptions(**named, subjects=15, seed=1), str(table), None, 1)
    assert len(table.read_text().splitlines()) == 1 + 15 * (3 + 3 + 1)
    with pytest.raises(ConfigError, match=r"linearises.*laplace, agq, imp or saem"):
        fit_to_table(FitOptions(**named, table=str(table), method="focei"), str(tmp_path), workers=1)
    options = FitOptions(**named, table=str(table), method="agq", order=3, sdtab="parquet", fixed=("residual",))
    summary = fit_to_table(options, str(tmp_path), workers=1)
    assert summary.converged, summary.message
    assert summary.figures is not None
    assert set(summary.figures.epsilon_shrinkage) == {"marker"}
    write_sdtab(options, str(tmp_path))
    rows = pq.read_table(tmp_path / "sdtab.parquet").to_pandas()
    assert rows["IWRES"].notna().all()
    assert (rows["CWRES"].notna() == (rows["DVID"] == 1)).all()
    assert (rows["NPDE"].notna() == (rows["DVID"] == 1)).all()
    page = Path(report_fit(options, str(tmp_path))).read_text(encoding="utf-8")
    assert "<h3>marker</h3>" in page
    assert "<h3>count</h3>" in page
    assert "<h3>event</h3>" not in page
