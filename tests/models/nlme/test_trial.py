"""Simulated tables: NM-TRAN's columns, and the same subjects whatever the rest."""

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError
from models.nlme import trial
from models.nlme.observations import open_observations, population_data, subject_tables
from models.nlme.simulation import Dose, simulate
from models.nlme.trial import simulate_table


def test_a_table_holds_the_design_and_reads_back(original, tmp_path):
    doses = (Dose(0.0, 1.0), Dose(2.0, 0.5, "central"))
    path = simulate_table(
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
    one = simulate_table(original, tmp_path / "one.parquet", 7, seed=1)
    monkeypatch.setattr(trial, "CHUNK", 3)
    seen = []
    two = simulate_table(original, tmp_path / "two.parquet", 7, seed=1, workers=2, progress=seen.append)
    assert seen == [3, 6, 7]
    assert pq.read_table(one).equals(pq.read_table(two))
    text = pacsv.read_csv(
        simulate_table(original, tmp_path / "three.csv", 7, seed=1),
        convert_options=pacsv.ConvertOptions(null_values=["."]),
    )
    assert text["DV"].to_pylist() == pq.read_table(one)["DV"].to_pylist()
    more = pq.read_table(simulate_table(original, tmp_path / "more.parquet", 9, seed=1))
    assert more.slice(0, 7 * 22).equals(pq.read_table(one))


def test_an_infusion_has_a_rate_and_the_reader_says_that_it_does_not_know_it(original, tmp_path):
    path = simulate_table(original, tmp_path / "t.parquet", 1, seed=1, doses=[Dose(0.0, 1.0, "central", 2.0)])
    table = pq.read_table(path)
    assert table["RATE"].to_pylist()[:2] == [0.5, 0.0]


def test_unusable_requests_are_refused_and_leave_nothing(original, tmp_path):
    with pytest.raises(ConfigError, match="at least 1"):
        simulate_table(original, tmp_path / "t.csv", 0, seed=1)
    for name in ("t.txt", "nowhere/t.csv"):
        with pytest.raises(ConfigError, match="cannot write a table"):
            simulate_table(original, tmp_path / name, 1, seed=1)
    with pytest.raises(ConfigError, match="compartment"):
        simulate_table(original, tmp_path / "t.csv", 1, seed=1, doses=[Dose(0.0, 1.0, "gut")])
    assert list(tmp_path.iterdir()) == []
