"""Counts, levels and events in tables: what a cell may hold, and what of it reaches the kernels."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.nmtran_reader import open_observations, whole
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.kernels.records import COVARIATES
from image_longitudinal.models.nlme.model.dosing import Dose
from tests.models.nlme.outcome_kinds import CLOSED, COUNTS, INTEGRATED, JOINT

TABLE = "ID,TIME,DV,CENS,LIMIT,TREATED\n1,3,1,0,.,0\n2,4,0,0,.,1\n3,6,1,1,4,1\n4,2,1,1,.,0\n"


@pytest.fixture
def read(tmp_path):
    def read_text(text, model=CLOSED):
        path = tmp_path / "data.csv"
        path.write_text(text)
        opened = open_observations(path, model.structural)
        return opened.population(whole(opened))

    return read_text


def test_an_interval_reaches_a_hazard_in_closed_form_as_its_begin(read):
    data = read(TABLE)
    assert not data.censored.any()
    np.testing.assert_array_equal(data.observed, [1, 0, 1, 1])
    first = data.covariates[data.event_start[:-1]]  # the event that sets the covariates, from time 0 on
    np.testing.assert_array_equal(data.when[data.event_start[:-1]], 0.0)
    np.testing.assert_array_equal(first[:, 0], [0, 1, 1, 0])
    np.testing.assert_array_equal(first[:, 1], [-1, -1, 4, 0])


def test_an_interval_reaches_an_integrated_hazard_as_a_step(read):
    data = read(TABLE, INTEGRATED)
    third = slice(data.event_start[2], data.event_start[3])
    np.testing.assert_array_equal(data.when[third], [0.0, 4.0, 6.0])
    np.testing.assert_array_equal(data.covariates[third, 1], [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(data.covariates[third, 0], 1.0)
    np.testing.assert_array_equal(data.kind, COVARIATES)
    assert data.before[2] == 3
    fourth = slice(data.event_start[3], data.event_start[4])
    np.testing.assert_array_equal(data.covariates[fourth, 1], 0.0)


def test_risk_begins_at_0_before_doses_and_rows(read):
    table = "ID,TIME,EVID,AMT,CMT,DV,DVID\n1,1,1,5,1,.,.\n1,2,0,0,.,1.5,1\n1,3,0,0,.,1,2\n"
    data = read(table, JOINT)
    np.testing.assert_array_equal(data.when, [0.0, 1.0])
    np.testing.assert_array_equal(data.before, [2, 2])
    np.testing.assert_array_equal(data.amount, [0.0, 5.0])


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        (COUNTS, "ID,TIME,DV,DVID\n1,0,3,1\n1,1,2.5,1\n", r"impossible DV of endpoint 'count' \(row 2, ID 1\).*whole"),
        (COUNTS, "ID,TIME,DV,DVID\n1,0,-1,1\n", r"impossible DV of endpoint 'count' \(row 1"),
        (COUNTS, "ID,TIME,DV,DVID\n1,0,3,1\n1,0,4,2\n", r"impossible DV of endpoint 'level' \(row 2.*from 1 to 3"),
        (COUNTS, "ID,TIME,DV,DVID,CENS\n1,0,3,1,1\n", r"impossible CENS of endpoint 'count' \(row 1"),
        (COUNTS, "ID,TIME,DV,DVID,LIMIT\n1,0,3,1,2\n", r"impossible LIMIT of endpoint 'count' \(row 1"),
        (CLOSED, "ID,TIME,DV,TREATED\n1,3,2,0\n", r"impossible DV of endpoint 'event' \(row 1.*1 \(the event\)"),
        (CLOSED, "ID,TIME,DV,TREATED,CENS\n1,3,0,0,1\n", r"impossible CENS .*\(row 1.*between LIMIT and TIME"),
        (CLOSED, "ID,TIME,DV,TREATED,LIMIT\n1,3,1,0,2\n", r"impossible LIMIT .*\(row 1.*where CENS is 1"),
        (CLOSED, "ID,TIME,DV,TREATED,CENS,LIMIT\n1,3,1,0,1,3\n", "subject 1, time 3.*LIMIT before TIME"),
        (CLOSED, "ID,TIME,DV,TREATED\n1,3,0,0\n1,4,1,0\n", "several observations of event 'event'.*subject 1"),
        (CLOSED, "ID,TIME,DV,TREATED\n1,-3,0,0\n", "time before 0.*at risk.*subject 1"),
        (CLOSED, "ID,TIME,EVID,DV,TREATED\n1,1,2,.,0\n1,4,0,1,1\n", "'treated' changes in time.*subject 1"),
        (
            JOINT,
            "ID,TIME,EVID,AMT,SS,II,DV,DVID\n1,1,1,5,1,12,.,.\n1,3,0,0,0,0,1,2\n",
            "steady state.*subject 1, time 1",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_row_or_subject(read, model, text, message):
    with pytest.raises(ConfigError, match=message):
        read(text, model)


def test_an_integrated_hazard_takes_covariates_that_change(read):
    data = read("ID,TIME,EVID,DV,TREATED\n1,1,2,.,0\n1,4,0,1,1\n", INTEGRATED)
    np.testing.assert_array_equal(data.when, [0.0, 1.0, 4.0])
    np.testing.assert_array_equal(data.covariates[:, 0], [0.0, 0.0, 1.0])


def test_designs_begin_at_0_too():
    data = PopulationData.of_design(JOINT.structural, np.ones((2, 2)), [1.0, 2.0], [Dose(1.5, 1.0)])
    np.testing.assert_array_equal(data.when, [0.0, 1.5, 0.0, 1.5])
    np.testing.assert_array_equal(data.before, [1, 2, 1, 2])
    moved = data.at_times(np.array([[1.0, 1.4], [1.6, 2.0]]))
    np.testing.assert_array_equal(moved.before, [1, 1, 2, 2])


def test_models_without_events_keep_their_data():
    data = PopulationData.of_design(COUNTS.structural, np.ones((2, 2)), [1.0, 2.0], [])
    assert len(data.when) == 0
