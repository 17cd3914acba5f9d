import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.nmtran_reader import read_events
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.simulation.simulate import simulate
from tests.models.nlme.matrix_exponentials import DosingParameters, linear_predictions

ONE = get_model("one-compartment").structural
PARAMETERS = np.array([1.5, 1.1, 20.0])  # ka, cl, v


def printed_precision(values):
    """Half a unit of the last of five significant digits, and a little for the arithmetic."""
    magnitude = np.floor(np.log10(np.maximum(np.abs(values), 1e-300)))
    return 0.51 * 10.0 ** (magnitude - 4)


def test_the_27_dosing_scenarios_of_nonmem(reference_data):
    table = np.genfromtxt(reference_data / "nmtest_half.csv", delimiter=",", names=True)
    assert len(np.unique(table["id"])) == 27
    names = ("id", "time", "cmt", "amt", "evid", "ii", "ss", "addl", "rate")
    events = event_table({name: table[name] for name in names}, ONE)
    dosing = {}
    for subject, rows in events.subjects():
        # ALAG2, F2, R2 and D2 of the control stream: they belong to the central compartment
        lag, bioavailability, rate, duration = (
            {2: float(table[name][rows.start])} for name in ("lagt", "bioav", "rat2", "dur2")
        )
        dosing[subject] = DosingParameters(lag, bioavailability, rate, duration)
    got = 1000 * linear_predictions(ONE, PARAMETERS, events, dosing)
    observed = table["evid"] == 0
    assert observed.sum() == 27 * 131
    wrong = observed & (np.abs(got - table["cp"]) > printed_precision(table["cp"]))
    assert not wrong.any(), np.unique(table["id"][wrong])


def test_an_event_table_and_a_design_give_the_same_course():
    model = get_model("one-compartment")
    times = np.arange(0.0, 48.1, 3.0)
    doses = [Dose(12.0 * m, 100.0, "depot") for m in range(3)] + [Dose(6.0, 50.0, "central", duration=4.0)]
    rows = [
        (0.0, 1, 100.0, 1, 0.0, 2, 12.0),
        (6.0, 1, 50.0, 2, 12.5, 0, 0.0),
        *((t, 0, 0.0, 2, 0.0, 0, 0.0) for t in times),
    ]
    rows.sort(key=lambda row: (row[0], row[1] == 0))
    names = ("time", "evid", "amt", "cmt", "rate", "addl", "ii")
    table = event_table({"id": np.ones(len(rows)), **dict(zip(names, np.transpose(rows), strict=True))}, ONE)
    typical = [model.typical_values[name] for name in model.parameter_names]
    exact = linear_predictions(ONE, typical, table)[table["EVID"] == 0]
    # the integrator promises 1e-6 relative to the largest concentration (about 8)
    np.testing.assert_allclose(simulate(model, np.zeros((1, 3)), times, doses)[0], exact, atol=1e-5)


def test_steady_state_is_what_many_doses_lead_to():
    many = event_table(
        {"id": [1, 1], "time": [0, 4800], "evid": [1, 0], "amt": [100, 0], "addl": [399, 0], "ii": [12, 0]}, ONE
    )
    steady = event_table(
        {"id": [1, 1], "time": [0, 12], "evid": [1, 0], "amt": [100, 0], "ss": [1, 0], "ii": [12, 0]}, ONE
    )
    want = linear_predictions(ONE, PARAMETERS, many)[1]
    assert linear_predictions(ONE, PARAMETERS, steady)[1] == pytest.approx(want, rel=1e-9)


GOOD = {"ID": [1, 1, 2], "TIME": [0.0, 1.0, 0.0], "EVID": [1, 0, 0], "AMT": [100.0, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TIME": [1.0, 0.5, 0.0]}, "unsorted times.*row 2"),
        ({"EVID": [1, 7, 0]}, "EVID.*row 2"),
        ({"AMT": [0.0, 0.0, 0.0]}, "AMT.*row 1"),
        ({"RATE": [-3.0, 0.0, 0.0]}, "RATE.*row 1"),
        ({"CMT": [3, 1, 1]}, "CMT.*row 1.*1 to 2"),
        ({"ADDL": [2, 0, 0]}, "II.*row 1"),
        ({"SS": [1, 0, 0]}, "II.*row 1"),
        ({"ID": [1, 2, 1]}, "not together.*row 3"),
        ({"TIME": [0.0, np.nan, 0.0]}, "TIME.*row 2"),
        ({"ID": [1, 1, 1.5]}, "impossible ID.*row 3"),
        ({"DV": [1.0]}, "DV"),
    ],
)
def test_bad_tables_are_refused_by_column_and_row(changes, message):
    with pytest.raises(ConfigError, match=message):
        event_table(GOOD | changes, ONE)


def test_a_missing_column_is_named():
    with pytest.raises(ConfigError, match="EVID"):
        event_table({"ID": [1], "TIME": [0.0]}, ONE)


def test_a_modelled_duration_needs_its_parameter():
    table = event_table(GOOD | {"RATE": [-2.0, 0.0, 0.0]}, ONE)
    with pytest.raises(ConfigError, match=r"duration.*compartment 1"):
        linear_predictions(ONE, PARAMETERS, table)


def test_tables_are_read_from_csv_and_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    (tmp_path / "events.csv").write_text("id,time,evid,amt,dv,weight\n1,0,1,100,.,70\n1,1,0,.,4.5,70\n")
    from_csv = read_events(tmp_path / "events.csv", ONE, ignore=["weight"])
    assert from_csv["AMT"].tolist() == [100.0, 0.0]
    assert np.isnan(from_csv["DV"][0])
    columns = {name: from_csv[name] for name in ("ID", "TIME", "EVID", "AMT", "DV")}
    pa.parquet.write_table(pa.table(columns), tmp_path / "events.parquet")
    from_parquet = read_events(tmp_path / "events.parquet", ONE)
    for name, values in from_csv.columns.items():
        np.testing.assert_array_equal(values, from_parquet[name])
    with pytest.raises(ConfigError, match="no such table"):
        read_events(tmp_path / "absent.csv", ONE)
