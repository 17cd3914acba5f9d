"""Simulated counts, levels and events: exact inversion, the same draws whatever the rest, tables that read back."""

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from scipy.stats import poisson

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import stream_key, uniforms
from image_longitudinal.models.nlme.data.nmtran_reader import open_observations, read_events, whole
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.simulation.outcomes import simulate_event_times, simulate_outcome
from image_longitudinal.models.nlme.simulation.simulate import predict_table, simulate
from image_longitudinal.models.nlme.simulation.trial import write_simulated_events, write_trial
from tests.models.nlme.outcome_kinds import CLOSED, COUNTS, INTEGRATED, JOINT, weibull

IDS = np.arange(1, 40)


@pytest.mark.parametrize(("model", "close"), [(CLOSED, 1e-9), (INTEGRATED, 1e-5)])  # (the integrator's own tolerance)
def test_times_of_events_invert_the_cumulative_hazard(model, close):
    eta, key = np.linspace(-1, 1, len(IDS))[:, None], 5
    found = simulate_event_times(
        model, eta, np.full(len(IDS), 8.0), [], key=key, ids=IDS, endpoint="event", covariates={"treated": 1.0}
    )
    wanted = -np.log(uniforms(key, IDS, 1)[:, 0]) * np.exp(0.7)  # exp(-H(T)) is uniform
    exact = 5.0 * np.exp(eta[:, 0]) * wanted ** (1 / 1.5)
    assert 5 < found.happened.sum() < len(IDS) - 5
    np.testing.assert_array_equal(found.happened, exact <= 8.0)
    np.testing.assert_allclose(found.time, np.minimum(exact, 8.0), atol=close)


def test_counts_invert_their_distribution_at_each_subjects_times():
    eta, times = np.linspace(-1, 1, len(IDS))[:, None], np.add.outer(0.1 * IDS, [0.0, 1.0])
    found = simulate_outcome(COUNTS, eta, times, [], key=7, ids=IDS, endpoint="count")
    rate = 2.0 * np.exp(eta) * np.exp(-0.2 * times)
    np.testing.assert_array_equal(found, poisson.ppf(uniforms(7, IDS, 2), rate))


def test_a_trial_has_one_row_of_an_event_and_reads_back(tmp_path):
    truth = tmp_path / "truth.parquet"
    path = write_trial(JOINT, tmp_path / "trial.csv", 50, seed=3, doses=[Dose(1.0, 0.5)], truth=truth)
    opened = open_observations(path, JOINT.structural)
    data = opened.population(whole(opened))
    events = data.endpoint == 1
    np.testing.assert_array_equal(data.subject_of_row[events], np.arange(50))
    assert 0 < data.observed[events].sum() < 50
    assert (data.times[events][data.observed[events] == 0] == 4.0).all()
    # the cumulative hazard at an event, of the linear marker: ∫ base exp(link (start + dose + growth t))
    own = pq.read_table(truth).to_pandas()
    rows, key = events & (data.observed == 1), stream_key(3, "trial event", 1)
    who, t = data.subject_of_row[rows], data.times[rows]
    drawn = -np.log(uniforms(key, np.arange(1, 51), 1)[who, 0])
    start, slope = own["start"].to_numpy()[who], 0.8 * own["growth"].to_numpy()[who]

    def hazard(begin, end, level):
        return 0.02 * np.exp(0.8 * level) * (np.exp(slope * end) - np.exp(slope * begin)) / slope

    total = hazard(0.0, np.minimum(t, 1.0), start) + hazard(1.0, np.maximum(t, 1.0), start + 0.5)
    np.testing.assert_allclose(total, drawn, rtol=1e-4)  # (the integrator's own tolerance)


def test_pieces_change_nothing_and_a_dropout_ends_the_follow_up(tmp_path):
    from image_longitudinal.models.nlme.simulation.visits import Visits

    visits = Visits((0.0, 2.0, 4.0, 8.0), (), dropout=0.6)
    ranges = {"treated": (0.0, 1.0)}
    few, more = (
        pq.read_table(
            write_trial(CLOSED, tmp_path / f"{n}.parquet", n, seed=1, visits=visits, covariates=ranges)
        ).to_pandas()
        for n in (5, 20)
    )
    assert few.equals(more[: len(few)])
    last = more[more["DV"] == 0]["TIME"]
    assert set(last) > {8.0}
    assert set(last) <= {0.0, 2.0, 4.0, 8.0}


def test_a_tables_events_move_to_their_times_with_covariates_as_they_were(tmp_path):
    (tmp_path / "plan.csv").write_text(
        "ID,TIME,EVID,DV,TREATED\n" + "".join(f"{i},0,2,.,0\n{i},2,2,.,1\n{i},8,0,.,1\n" for i in range(1, 41))
    )
    table = read_events(tmp_path / "plan.csv", INTEGRATED.structural)
    path = write_simulated_events(INTEGRATED, table, tmp_path / "out.csv", seed=2)
    rows = pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(null_values=["."])).to_pandas()
    assert (rows.groupby("ID")["TIME"].diff().fillna(0) >= 0).all()
    early = rows[(rows["EVID"] == 0) & (rows["TIME"] < 2)]
    assert len(early) > 2
    assert (early["treated"] == 0).all()
    assert (early["DV"] == 1).all()
    opened = open_observations(path, INTEGRATED.structural)
    assert len(opened.population(whole(opened))) == 40


def test_a_survival_curve_is_that_of_the_model():
    n = 4000
    found = simulate_event_times(
        CLOSED, np.zeros((n, 1)), np.full(n, 8.0), [], key=1, ids=np.arange(n), endpoint="event",
        covariates={"treated": 0.0},
    )  # fmt: skip
    for t in (1.0, 4.0, 7.9):
        share, sd = (found.time > t).mean(), np.sqrt(0.25 / n)
        assert share == pytest.approx(np.exp(-weibull(t)), abs=4 * sd)


def test_there_is_no_prediction_of_a_likelihood(tmp_path):
    with pytest.raises(ConfigError, match="'count' has a likelihood"):
        simulate(COUNTS, np.zeros((2, 1)))
    (tmp_path / "plan.csv").write_text("ID,TIME,EVID,DV,DVID\n1,0,0,.,1\n")
    table = read_events(tmp_path / "plan.csv", COUNTS.structural)
    with pytest.raises(ConfigError, match="simulate_table"):
        predict_table(COUNTS, np.zeros((1, 1)), table)
