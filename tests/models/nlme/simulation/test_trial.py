"""Simulated tables: NM-TRAN's columns, and the same subjects whatever the rest."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data import nmtran_reader
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.nmtran_writer import DIALECTS
from image_longitudinal.models.nlme.kernels.records import COVARIATES
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation import trial
from image_longitudinal.models.nlme.simulation.simulate import predict_table, simulate
from image_longitudinal.models.nlme.simulation.trial import write_simulated_events, write_trial
from image_longitudinal.models.nlme.simulation.visits import Visits


def read_back(model, path):
    """The population of a written table."""
    opened = nmtran_reader.open_observations(path, model.structural)
    return opened.population(nmtran_reader.whole(opened))


def true_effects(model, path):
    """Random effects (n, k) of a table of true values."""
    table = pq.read_table(path)
    return np.stack([table[name].to_numpy() for name in model.random_effect_names], axis=1)


def test_a_table_holds_the_design_and_reads_back(original, tmp_path):
    doses, truth = (Dose(0.0, 1.0), Dose(2.0, 0.5, "central")), tmp_path / "truth.parquet"
    path = write_trial(original, tmp_path / "t.csv", 3, seed=4, times=[0.0, 1.0, 2.0], doses=doses, truth=truth)
    lines = path.read_text().splitlines()
    assert lines[0] == "ID,TIME,EVID,AMT,CMT,DV,MDV"
    assert lines[1] == "1,0,1,1,1,.,1"
    assert lines[4] == "1,2,1,0.5,2,.,1"
    assert len(lines) == 1 + 3 * 5
    eta = true_effects(original, truth)
    expected = simulate(original, eta, [0.0, 1.0, 2.0], doses)
    assert np.abs(read_back(original, path).observed.reshape(3, 3) - expected).max() < 0.05  # residual sd 0.01
    np.testing.assert_allclose(pq.read_table(truth)["imax"].to_numpy(), 2.1 * np.exp(eta[:, 1]))


def test_pieces_workers_and_the_format_change_nothing(original, tmp_path, monkeypatch):
    one = write_trial(original, tmp_path / "one.parquet", 7, seed=1)
    monkeypatch.setattr(trial, "CHUNK", 3)
    seen = []
    two = write_trial(original, tmp_path / "two.parquet", 7, seed=1, n_threads=2, progress=seen.append)
    assert seen == [3, 6, 7]
    assert pq.read_table(one).equals(pq.read_table(two))
    for dialect in DIALECTS:
        text = write_trial(original, tmp_path / f"{dialect}.csv", 7, seed=1, dialect=dialect)
        for name, values in read_back(original, one).arrays._asdict().items():
            np.testing.assert_array_equal(getattr(read_back(original, text), name), values, err_msg=name)
    more = pq.read_table(write_trial(original, tmp_path / "more.parquet", 9, seed=1))
    assert more.slice(0, 7 * 22).equals(pq.read_table(one))


def test_an_infusion_has_a_rate(original, tmp_path):
    path = write_trial(original, tmp_path / "t.parquet", 1, seed=1, doses=[Dose(0.0, 1.0, "central", 2.0)])
    assert pq.read_table(path)["RATE"].to_pylist()[:2] == [0.5, 0.0]


@pytest.fixture(scope="module")
def rich():
    """A model with two endpoints and a covariate."""
    return PopulationModel(
        name="rich",
        structural=StructuralModel(
            name="rich", states=("central",), parameters=("cl", "v"), covariates=("weight",),
            endpoints=("concentration", "effect"),
            rhs=lambda t, x, p: {"central": -p.cl / p.v * p.weight / 70.0 * x.central},
            output=lambda t, x, p: {"concentration": x.central / p.v, "effect": 10.0 - x.central},
        ),
        parameters=(Parameter("cl", 1.0), Parameter("v", 5.0)),
        omega=((0.04, 0.0), (0.0, 0.04)),
        residual=ResidualError("additive", additive=0.01),
        other_residuals=(ResidualError("additive", additive=0.2),),
        design=Design(times=(0.0, 1.0, 3.0), doses=(Dose(0.0, 10.0),)),
    )  # fmt: skip


def test_endpoints_covariates_and_missed_visits_are_written_and_read_back(rich, tmp_path):
    visits, truth = Visits((0.0, 1.0, 3.0), (0.0,), jitter=0.3, missed=0.2), tmp_path / "truth.parquet"
    ranges = {"weight": (50.0, 90.0)}
    path = write_trial(rich, tmp_path / "t.csv", 40, seed=5, visits=visits, covariates=ranges, truth=truth)
    lines = path.read_text().splitlines()
    assert lines[0] == "ID,TIME,EVID,AMT,CMT,DV,MDV,DVID,weight"
    assert len(lines) == 1 + 40 * 7
    data = read_back(rich, path)
    times, seen = visits.draw(5, np.arange(1, 41))
    assert (~seen).sum() > 0
    np.testing.assert_allclose(data.times, np.repeat(times[seen], 2))
    assert data.endpoint.tolist() == [0, 1] * seen.sum()
    eta = true_effects(rich, truth)
    weight = data.covariates[data.kind == COVARIATES, 0]
    assert 50 < weight.min() < 60
    assert 80 < weight.max() < 90
    for index, (name, sd) in enumerate((("concentration", 0.01), ("effect", 0.2))):
        expected = simulate(rich, eta, times, covariates={"weight": weight}, endpoint=name)[seen]
        error = (data.observed[data.endpoint == index] - expected) / sd
        assert np.abs(error).max() < 4.5  # of about 100 standard normal ones
        assert 0.7 < error.std() < 1.3
    with pytest.raises(ConfigError, match=r"covariates do not fit.*expected weight"):
        write_trial(rich, tmp_path / "none.csv", 2, seed=1)


def test_unusable_requests_are_refused_and_leave_nothing(original, tmp_path):
    with pytest.raises(ConfigError, match="at least 1"):
        write_trial(original, tmp_path / "t.csv", 0, seed=1)
    for name in ("t.txt", "nowhere/t.csv"):
        with pytest.raises(ConfigError, match=r"cannot write a table|unknown format of a table"):
            write_trial(original, tmp_path / name, 1, seed=1)
    with pytest.raises(ConfigError, match="compartment"):
        write_trial(original, tmp_path / "t.csv", 1, seed=1, doses=[Dose(0.0, 1.0, "gut")])
    assert list(tmp_path.iterdir()) == []


def test_the_events_of_a_table_are_simulated(original, tmp_path):
    columns = {"ID": [7, 7, 7, 3, 3], "TIME": [0, 0.5, 1, 0, 2], "EVID": [1, 0, 0, 1, 0], "AMT": [1, 0, 0, 2, 0]}
    table = event_table(columns, original.structural)
    path, truth = tmp_path / "simulated.parquet", tmp_path / "truth.parquet"
    write_simulated_events(original, table, path, seed=3, truth=truth)
    again = nmtran_reader.read_events(path, original.structural)
    np.testing.assert_array_equal(again["TIME"], table["TIME"])
    assert pq.read_table(truth)["ID"].to_pylist() == [7, 3]
    seen = table["EVID"] == 0
    noise = (again["DV"] - predict_table(original, true_effects(original, truth), table))[seen] / 0.01
    assert np.isnan(again["DV"][~seen]).all()
    assert 0 < np.abs(noise).max() < 4
