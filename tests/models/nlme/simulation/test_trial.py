"""Simulated tables: NM-TRAN's columns, and the same subjects whatever the rest."""

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.nmtran_reader import (
    open_observations,
    population_data,
    read_events,
    subject_tables,
)
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


def test_a_table_holds_the_design_and_reads_back(original, tmp_path):
    doses = (Dose(0.0, 1.0), Dose(2.0, 0.5, "central"))
    path = write_trial(
        original, tmp_path / "t.csv", 3, seed=4, times=[0.0, 1.0, 2.0], doses=doses, truth=tmp_path / "truth.parquet"
    )
    lines = path.read_text().splitlines()
    assert lines[0] == "ID,TIME,EVID,AMT,CMT,DV,MDV"
    assert lines[1] == "1,0,1,1,1,.,1"
    assert lines[4] == "1,2,1,0.5,2,.,1"
    assert len(lines) == 1 + 3 * 5
    data = population_data(original.structural, next(subject_tables(open_observations(path), 10)))
    truth = pq.read_table(tmp_path / "truth.parquet")
    eta = np.stack([truth[name].to_numpy() for name in original.random_effect_names], axis=1)
    expected = simulate(original, eta, [0.0, 1.0, 2.0], doses)
    assert np.abs(data.observed.reshape(3, 3) - expected).max() < 0.05  # residual sd 0.01
    np.testing.assert_allclose(truth["imax"].to_numpy(), 2.1 * np.exp(eta[:, 1]))


def test_pieces_workers_and_the_format_change_nothing(original, tmp_path, monkeypatch):
    one = write_trial(original, tmp_path / "one.parquet", 7, seed=1)
    monkeypatch.setattr(trial, "CHUNK", 3)
    seen = []
    two = write_trial(original, tmp_path / "two.parquet", 7, seed=1, n_threads=2, progress=seen.append)
    assert seen == [3, 6, 7]
    assert pq.read_table(one).equals(pq.read_table(two))
    text = pacsv.read_csv(
        write_trial(original, tmp_path / "three.csv", 7, seed=1),
        convert_options=pacsv.ConvertOptions(null_values=["."]),
    )
    assert text["DV"].to_pylist() == pq.read_table(one)["DV"].to_pylist()
    more = pq.read_table(write_trial(original, tmp_path / "more.parquet", 9, seed=1))
    assert more.slice(0, 7 * 22).equals(pq.read_table(one))


def test_an_infusion_has_a_rate(original, tmp_path):
    path = write_trial(original, tmp_path / "t.parquet", 1, seed=1, doses=[Dose(0.0, 1.0, "central", 2.0)])
    table = pq.read_table(path)
    assert table["RATE"].to_pylist()[:2] == [0.5, 0.0]


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
    visits = Visits((0.0, 1.0, 3.0), (0.0,), jitter=0.3, missed=0.2)
    path = write_trial(
        rich, tmp_path / "t.csv", 40, seed=5, visits=visits, covariates={"weight": (50.0, 90.0)},
        truth=tmp_path / "truth.parquet",
    )  # fmt: skip
    lines = path.read_text().splitlines()
    assert lines[0] == "ID,TIME,EVID,AMT,CMT,DV,MDV,DVID,weight"
    assert len(lines) == 1 + 40 * 7
    data = population_data(rich.structural, next(subject_tables(open_observations(path), 100)))
    times, seen = visits.draw(5, np.arange(1, 41))
    assert (~seen).sum() > 0
    np.testing.assert_allclose(data.times, np.repeat(times[seen], 2))
    assert data.endpoint.tolist() == [0, 1] * seen.sum()
    truth = pq.read_table(tmp_path / "truth.parquet")
    eta = np.stack([truth[name].to_numpy() for name in rich.random_effect_names], axis=1)
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
        with pytest.raises(ConfigError, match="cannot write a table"):
            write_trial(original, tmp_path / name, 1, seed=1)
    with pytest.raises(ConfigError, match="compartment"):
        write_trial(original, tmp_path / "t.csv", 1, seed=1, doses=[Dose(0.0, 1.0, "gut")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tables_for_other_programs_read_back_as_the_same_population(original, tmp_path, dialect):
    usual = write_trial(original, tmp_path / "usual.csv", 3, seed=1)
    other = write_trial(original, tmp_path / "other.csv", 3, seed=1, dialect=dialect)
    one, two = (
        population_data(original.structural, next(subject_tables(open_observations(path), 10)))
        for path in (usual, other)
    )
    for name, values in one.arrays._asdict().items():
        np.testing.assert_array_equal(getattr(two, name), values, err_msg=name)


def test_the_events_of_a_table_are_simulated(original, tmp_path):
    table = event_table(
        {"ID": [7, 7, 7, 3, 3], "TIME": [0, 0.5, 1, 0, 2], "EVID": [1, 0, 0, 1, 0], "AMT": [1, 0, 0, 2, 0]},
        original.structural,
    )
    path, truth = tmp_path / "simulated.parquet", tmp_path / "truth.parquet"
    write_simulated_events(original, table, path, seed=3, truth=truth)
    again = read_events(path, original.structural)
    np.testing.assert_array_equal(again["TIME"], table["TIME"])
    effects = pq.read_table(truth)
    assert effects["ID"].to_pylist() == [7, 3]
    eta = np.stack([effects[name].to_numpy() for name in original.random_effect_names], axis=1)
    seen = table["EVID"] == 0
    noise = (again["DV"] - predict_table(original, eta, table))[seen] / 0.01
    assert np.isnan(again["DV"][~seen]).all()
    assert 0 < np.abs(noise).max() < 4
