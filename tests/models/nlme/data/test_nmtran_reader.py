"""From long tables to the data of an estimation, in pieces of whole subjects."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.nmtran_reader import open_observations, whole
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.model.dosing import Dose


def long_table(ids, times, observed, doses):
    """Rows of subjects that share one design; a dose before what is observed at its time."""
    rows = []
    for subject, values in zip(ids, observed, strict=True):
        events = [(time, 1, amount, cmt, None, 1) for time, amount, cmt in doses]
        events += [(time, 0, 0.0, 2, value, 0) for time, value in zip(times, values, strict=True)]
        rows += [(subject, *event) for event in sorted(events, key=lambda event: (event[0], -event[1]))]
    names = ("id", "time", "evid", "amt", "cmt", "dv", "mdv")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def population_data(model, table):
    """The population of an Arrow table."""
    opened = open_observations(pads.dataset(table), model)
    return opened.population(whole(opened))


IDS, TIMES, OBSERVED = [3, 5, 4, 9, 1], [0.0, 1.0, 4.0], np.arange(15.0).reshape(5, 3)


@pytest.fixture
def table():
    return long_table(IDS, TIMES, OBSERVED, [(0.0, 1.0, 1), (4.0, 0.5, 2)])


def changed(table, column, row, value):
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values))


def test_a_table_gives_the_data_of_its_design(original, table):
    data = population_data(original.structural, table)
    doses = [Dose(0.0, 1.0, "depot"), Dose(4.0, 0.5, "central")]
    same = PopulationData.of_design(original.structural, OBSERVED, TIMES, doses, ids=IDS)
    for name in ("ids", "row_start", "times", "observed", "before", "when", "kind", "compartment", "amount"):
        np.testing.assert_array_equal(getattr(data, name), getattr(same, name), err_msg=name)


def test_an_observation_above_a_dose_of_the_same_time_does_not_see_it(original, table):
    swapped = table.take([0, 1, 2, 4, 3])  # rows of the first subject: dose at 4 after the observation at 4
    assert population_data(original.structural, swapped).before.tolist() == [1, 1, 1]
    assert population_data(original.structural, table.slice(0, 5)).before.tolist() == [1, 1, 2]


def test_infusions_further_doses_and_columns_of_no_interest_are_read_as_such(original, table):
    first, fourth = np.eye(25)[0], np.eye(25)[3]
    for name, values in {"rate": 0.25 * fourth, "addl": 2 * first, "ii": 1.5 * first, "comment": ["x"] * 25}.items():
        table = table.append_column(name, pa.array(values))
    data = population_data(original.structural, table)
    assert (data.when[:4].tolist(), data.rate[3]) == ([0.0, 1.5, 3.0, 4.0], 0.25)


def test_observations_marked_as_missing_are_left_out(original, table):
    marked = changed(changed(table, "mdv", 2, 1), "dv", 2, None)
    data = population_data(original.structural, marked)
    assert data.times[:2].tolist() == [0.0, 4.0]
    assert np.diff(data.row_start).tolist() == [2, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("column", "row", "value", "said"),
    [
        ("time", 2, -1.0, "unsorted times.*row 3, ID 3.*reset"),
        ("amt", 5, -2.0, "AMT.*row 6, ID 5.*positive"),
        ("dv", 4, None, "missing DV.*row 5"),
        ("id", 20, 3, "not together.*row 21, ID 3"),
    ],
)
def test_bad_rows_are_refused_by_number(original, table, column, row, value, said):
    with pytest.raises(ConfigError, match=said):
        population_data(original.structural, changed(table, column, row, value))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_pieces_hold_whole_subjects_in_order(original, tmp_path, table, size):
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(table.slice(0, 8), files[0], row_group_size=3)  # a subject may lie in two files
    pq.write_table(table.slice(8), files[1])
    pieces = list(open_observations(files, original.structural).pieces(size))
    assert pa.concat_tables(pieces).equals(table)
    assert [len(set(piece["id"].to_pylist())) for piece in pieces] == [min(size, 5 - i) for i in range(0, 5, size)]


def test_a_missing_file_or_column_is_named(original, tmp_path, table):
    with pytest.raises(ConfigError, match=r"nowhere\.parquet"):
        open_observations(tmp_path / "nowhere.parquet", original.structural)
    pq.write_table(table.drop_columns(["dv"]), tmp_path / "short.parquet")
    with pytest.raises(ConfigError, match=r"short\.parquet: a table lacks columns.*Add DV"):
        open_observations(tmp_path / "short.parquet", original.structural)


def test_a_modelled_rate_needs_a_model_that_has_one(original, table):
    rates = np.where(table["evid"].to_numpy() == 1, -1.0, 0.0)
    with pytest.raises(ConfigError, match=r"rate or duration.*row 1, ID \d.*got RATE -1"):
        population_data(original.structural, table.append_column("rate", pa.array(rates)))
