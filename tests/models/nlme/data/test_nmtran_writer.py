"""Event tables in files and as the data of a fit: exact round trips, irregular visits, covariates, errors by row."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.nmtran_reader import read_events
from image_longitudinal.models.nlme.data.nmtran_writer import DIALECTS, write_events
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import observe_table, predict, predict_table

# the area under a covariate: what it is between the rows is all that counts
AREA = StructuralModel(
    name="area",
    states=("area",),
    parameters=("scale",),
    rhs=lambda t, x, p: {"area": p.scale * p.weight},
    output=lambda t, x, p: x.area,
    covariates=("weight",),
)
ONE = get_model("one-compartment").structural
TABLE = {
    "ID": [1, 1, 1, 1, 2, 2], "TIME": [0, 0.1, 1 / 3, 2, 0, 5], "EVID": [1, 0, 0, 0, 0, 0], "AMT": [100, 0, 0, 0, 0, 0],
    "DV": [np.nan, 0.1, 1e-17, np.pi, 2, 3], "MDV": [1, 0, 0, 0, 0, 1], "WEIGHT": [70, 70, 71.3, 80, 60, 60],
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_written_table_is_read_back_exactly(tmp_path, dialect, suffix):
    table = event_table(TABLE, AREA)
    file = write_events(table, tmp_path / f"table{suffix}", dialect)
    again = read_events(file, AREA)
    assert set(again.columns) == set(table.columns)
    for name, values in table.columns.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_each_program_gets_the_names_and_missing_values_it_knows(tmp_path):
    table = event_table(TABLE, AREA)
    lines = {name: write_events(table, tmp_path / f"{name}.csv", name).read_text().splitlines() for name in DIALECTS}
    assert lines["nonmem"][0] == "ID,TIME,EVID,AMT,RATE,CMT,ADDL,II,SS,DV,MDV,DVID,CENS,weight"
    assert lines["nonmem"][1] == "1,0,1,100,0,1,0,0,0,.,1,1,0,70"
    assert lines["nlmixr2"][1].split(",")[9] == "NA"
    assert "ADM" in lines["monolix"][0]
    assert lines["pumas"][0].startswith("id,time,evid,amt")
    assert ",," in lines["pumas"][1]


def test_files_that_cannot_be_used_are_refused_by_name_and_row(tmp_path):
    (tmp_path / "bad.csv").write_text("ID,TIME,EVID,WEIGHT\n1,0,0,70\n1,1,0,heavy\n")
    with pytest.raises(ConfigError, match=r"WEIGHT.*row 2.*heavy"):
        read_events(tmp_path / "bad.csv", AREA)
    (tmp_path / "more.csv").write_text("ID,TIME,EVID,WEIGHT,HEIGHT,DV\n1,0,0,70,180,.\n")
    assert np.isnan(read_events(tmp_path / "more.csv", AREA)["DV"]).all()
    with pytest.raises(ConfigError, match="no such table"):
        read_events(tmp_path / "absent.csv", AREA)
    with pytest.raises(ConfigError, match=r"dialect.*sas"):
        write_events(event_table(TABLE, AREA), tmp_path / "table.csv", "sas")


def test_a_covariate_missing_for_a_subject_is_refused_by_name_and_rows():
    with pytest.raises(ConfigError, match=r"'weight'.*ID 2, rows 5 to 6"):
        event_table(TABLE | {"WEIGHT": [70, 70, 70, 70, np.nan, np.nan]}, AREA)


def test_an_observation_without_a_value_is_refused_by_row():
    table = event_table(TABLE | {"DV": [np.nan, 0.1, np.nan, 1, 2, 3]}, AREA)
    with pytest.raises(ConfigError, match=r"missing DV.*row 3, ID 1"):
        expand_events(table, AREA)
    assert len(expand_events(table, AREA, every_row=True).times) == 6


def test_missed_visits_and_subjects_without_any_stay_in_the_population():
    columns = {name: np.array(values, dtype=float) for name, values in TABLE.items() if name != "WEIGHT"}
    columns["MDV"] = np.array([1, 0, 1, 0, 1, 1])
    data = expand_events(event_table(columns, ONE), ONE)
    assert (data.ids.tolist(), data.row_start.tolist()) == ([1, 2], [0, 2, 2])
    assert data.times.tolist() == [0.1, 2.0]


def test_additional_doses_end_with_the_subject_or_at_a_reset():
    columns = {
        "ID": [1, 1, 1, 1], "TIME": [0, 5, 10, 30], "EVID": [1, 3, 0, 0], "AMT": [9, 0, 0, 0],
        "ADDL": [9, 0, 0, 0], "II": [2, 0, 0, 0], "DV": [np.nan, np.nan, 1, 1],
    }  # fmt: skip
    data = expand_events(event_table(columns, ONE), ONE)
    assert data.when.tolist() == [0, 2, 4, 5]
    columns["EVID"] = [1, 2, 0, 0]
    assert expand_events(event_table(columns, ONE), ONE).when.tolist() == [0, *range(2, 19, 2)]


KNOTS = np.array([0.0, 1.0, 4.0, 6.0])
VALUES = np.array([2.0, 5.0, np.nan, 1.0])  # the third visit did not record it


@pytest.mark.parametrize(
    ("interpolation", "areas"),
    [
        ("locf", [0, 2, 2 + 15, 17 + 10]),
        ("nocb", [0, 5, 5 + 3, 8 + 2]),
        ("linear", [0, 3.5, 3.5 + 3 * (5 + 2.6) / 2, 3.5 + 11.4 + 2 * (2.6 + 1) / 2]),
    ],
)
def test_covariates_between_their_rows(interpolation, areas):
    columns = {"ID": np.ones(4), "TIME": KNOTS, "EVID": np.zeros(4), "WEIGHT": VALUES}
    data = expand_events(event_table(columns, AREA, interpolation=interpolation), AREA, every_row=True)
    np.testing.assert_allclose(predict(AREA, [[1.0]], data), areas, rtol=1e-9)


def test_two_subjects_keep_their_own_covariates_doses_and_visits():
    together = predict(AREA, [[1.0], [2.0]], expand_events(event_table(TABLE, AREA), AREA, every_row=True))
    np.testing.assert_allclose(together[-2:], [0.0, 2 * 60 * 5], rtol=1e-9)
    np.testing.assert_allclose(together[3], 100 + 70 / 3 + 71.3 * 5 / 3, rtol=1e-9)


def test_simulated_tables_are_noisy_reproducible_and_censored():
    model, times = get_model("one-compartment"), np.tile([0.0, 0.5, 1.0, 24.0, 48.0], 3)
    first = times == 0
    table = event_table({"ID": np.repeat([4, 9, 2], 5), "TIME": times, "EVID": first, "AMT": 100.0 * first}, ONE)
    prediction = predict_table(model, np.zeros((3, 3)), table)
    seen = observe_table(model, prediction, table, key=3, limits={"outcome": 0.5})
    assert np.isnan(seen["DV"][first]).all()
    assert ((seen["CENS"] == 1) == (seen["DV"] == 0.5)).all()
    assert seen["CENS"].sum() >= 3  # at 48 h a typical subject has 0.05 mg/L
    alone = event_table({name: seen[name][10:] for name in ("ID", "TIME", "EVID", "AMT")}, ONE)
    again = observe_table(model, prediction[10:], alone, key=3, limits={"outcome": 0.5})
    np.testing.assert_array_equal(again["DV"], seen["DV"][10:])
    noise = (seen["DV"] / prediction - 1)[(seen["EVID"] == 0) & (seen["CENS"] == 0)] / 0.1
    assert 0.3 < noise.std() < 2.0
