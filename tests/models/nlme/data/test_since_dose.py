"""Time since the last dose, as a covariate that no table has."""

import numpy as np

from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.structural import StructuralModel, given_covariates
from image_longitudinal.models.nlme.simulation.simulate import predict

ECHO = StructuralModel(  # predicts the time since the last dose itself, and a covariate
    "echo", ("a",), ("k",), lambda t, x, p: {"a": -p.k * x.a}, lambda t, x, p: {"tad": p.tad, "weight": p.weight},
    covariates=("weight", "tad"), endpoints=("tad", "weight"),
)  # fmt: skip
ALONE = StructuralModel(
    "alone", ("a",), ("k",), lambda t, x, p: {"a": -p.k * x.a}, lambda t, x, p: p.tad, covariates=("tad",)
)


def test_it_counts_from_every_dose_and_starts_again_at_a_reset():
    rows = [  # TIME EVID AMT ADDL II weight DVID
        (0, 0, 0, 0, 0, 60, 1), (1, 1, 5, 2, 10, 60, 1), (4, 0, 0, 0, 0, 70, 1), (4, 0, 0, 0, 0, 70, 2),
        (11, 0, 0, 0, 0, 70, 1), (13.5, 0, 0, 0, 0, 80, 1), (24, 0, 0, 0, 0, 80, 1), (24, 0, 0, 0, 0, 80, 2),
        (30, 3, 0, 0, 0, 80, 1), (31, 0, 0, 0, 0, 80, 1), (32, 4, 5, 0, 0, 80, 1), (35, 0, 0, 0, 0, 80, 1),
    ]  # fmt: skip
    names = ("TIME", "EVID", "AMT", "ADDL", "II", "weight", "DVID")
    columns = dict(zip(names, np.transpose(rows).astype(float), strict=True)) | {"ID": np.ones(len(rows))}
    assert given_covariates(ECHO) == ("weight",)
    for interpolation in ("locf", "linear"):
        data = expand_events(event_table(columns, ECHO, interpolation=interpolation), ECHO, every_row=True)
        got = predict(ECHO, [[0.1]], data)
        observed = np.array([row[1] == 0 for row in rows])
        # an additional dose at time 11 comes before the observation there
        np.testing.assert_allclose(got[observed], [0, 3, 70, 0, 2.5, 3, 80, 0, 3], atol=1e-12, err_msg=interpolation)


def test_a_design_needs_no_covariate_of_that_name():
    doses, times = [Dose(2.0, 1.0), Dose(5.0, 1.0)], [0.0, 1.0, 2.0, 3.0, 5.5, 9.0]
    data = PopulationData.of_design(ALONE, np.zeros((2, 6)), times, doses)
    assert not data.is_stepwise
    expected = [0, 0, 0, 1, 0.5, 4]
    np.testing.assert_allclose(predict(ALONE, [[0.1], [0.2]], data).reshape(2, 6), [expected, expected], atol=1e-12)
    moved = data.at_times(np.array([[0.5, 1.0, 2.5, 3.0, 5.5, 9.0]] * 2))
    np.testing.assert_allclose(predict(ALONE, [[0.1], [0.2]], moved)[:6], [0, 0, 0.5, 1, 0.5, 4], atol=1e-12)
    none = PopulationData.of_design(ALONE, np.zeros((1, 2)), [1.0, 2.0], [])
    np.testing.assert_array_equal(predict(ALONE, [[0.1]], none), [0.0, 0.0])
