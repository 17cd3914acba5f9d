"""Random tables: every dialect gives the same events; any cell is read by its rule or named."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.nmtran_reader import open_observations, whole
from image_longitudinal.models.nlme.data.nmtran_writer import DIALECTS, write_events
from image_longitudinal.models.nlme.data.reading import Reading
from image_longitudinal.models.nlme.model.structural import StructuralModel

MODEL = StructuralModel(
    name="both",
    states=("depot", "central"),
    parameters=("ka", "cl"),
    rhs=lambda t, x, p: {"depot": -p.ka * x.depot, "central": p.ka * x.depot - p.cl * p.weight * x.central},
    output=lambda t, x, p: {"concentration": x.central, "effect": x.depot},
    covariates=("weight",),
    endpoints=("concentration", "effect"),
    endpoint_compartments=(2, 3),
)
STATES = {1.0: "depot", 2.0: "central", 3.0: "effect"}
NUMBER = st.one_of(st.integers(-3, 200), st.floats(-1e6, 1e6, width=64)).map(float)
POSITIVE = st.one_of(st.integers(1, 500), st.floats(1e-3, 1e6)).map(float)


@st.composite
def subjects(draw, number):
    """The rows of one subject: a dose, then doses, resets, other events and observations."""
    rows, time = [], 0.0
    for position in range(draw(st.integers(2, 6))):
        kind = 1 if position == 0 else 0 if position == 1 else draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
        if position and kind in (3, 4) and draw(st.booleans()):
            time = 0.0
        dosed, seen, again = kind in (1, 4), kind == 0, draw(st.sampled_from([0, 0, 1, 2]))
        endpoint = draw(st.sampled_from([1, 2]))
        row = {
            "ID": number, "TIME": time, "EVID": kind, "AMT": draw(POSITIVE) if dosed else 0.0,
            "RATE": draw(st.sampled_from([0.0, 0.0, 12.5, 1 / 3])) if dosed else 0.0,
            "CMT": draw(st.sampled_from([1, 2])) if dosed else endpoint + 1 if seen else 0,
            "ADDL": again if dosed else 0, "II": 1.5 if dosed and again else 0.0, "SS": 0,
            "DV": draw(NUMBER) if seen else np.nan, "MDV": 0 if seen else 1, "DVID": endpoint if seen else 1,
            "CENS": draw(st.sampled_from([0, 0, 1])) if seen else 0,
            "weight": draw(POSITIVE) if position == 0 or draw(st.booleans()) else np.nan,
        }  # fmt: skip
        rows.append(row)
        time += draw(st.sampled_from([0.0, 0.25, 1.0, 1 / 3, 7.0]))
    return rows


@st.composite
def tables(draw):
    """Columns of a table of one to four subjects."""
    numbers = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=4, unique=True))
    rows = [row for number in numbers for row in draw(subjects(number))]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def spreadsheet(columns):
    """A fifth dialect: semicolons, decimal commas, R's logical values, names of compartments and endpoints."""
    names = [name for name in columns if name != "EVID" or np.isin(columns["EVID"], (3, 4)).any()]
    lines = [";".join("BLQ" if name == "CENS" else name for name in names)]
    for row in range(len(columns["ID"])):
        cells = {name: repr(float(columns[name][row])).replace(".", ",") for name in names}
        cells |= {name: ("FALSE", "TRUE")[int(columns[name][row])] for name in ("MDV", "CENS")}
        cells["CMT"] = STATES.get(columns["CMT"][row], "")
        cells["DVID"] = MODEL.endpoints[int(columns["DVID"][row]) - 1]
        cells |= {name: "NA" for name in ("DV", "weight") if np.isnan(columns[name][row])}
        lines.append(";".join(cells[name] for name in names))
    return "\n".join(lines) + "\n"


def population(path, reading=None):
    table = open_observations(path, MODEL, reading)
    return table.population(whole(table))


def assert_same(one, other):
    for name, values in other.arrays._asdict().items():
        np.testing.assert_array_equal(getattr(one, name), values, err_msg=name)
    assert one.names.tolist() == other.names.tolist()


@settings(max_examples=40, deadline=None)
@given(tables())
def test_five_dialects_give_the_same_events(columns):
    table = event_table(columns, MODEL)
    expected = expand_events(table, MODEL)
    with tempfile.TemporaryDirectory() as folder:
        for dialect in DIALECTS:
            for suffix in (".csv", ".parquet"):
                path = write_events(table, Path(folder, f"{dialect}{suffix}"), dialect)
                assert_same(population(path), expected)
        path = Path(folder, "spreadsheet.csv")
        path.write_text(spreadsheet(columns))
        assert_same(population(path, Reading(decimal=",")), expected)
        by_compartment = event_table({name: values for name, values in columns.items() if name != "DVID"}, MODEL)
        np.testing.assert_array_equal(expand_events(by_compartment, MODEL).endpoint, expected.endpoint)


CELLS = st.one_of(
    st.sampled_from([
        "", ".", "NA", "NaN", "TRUE", "false", "T", "1,5", "1,234.5", "25 mg/h", "-99", "0", "1", "2", "3", "-1", "inf",
        "1e400", "0x10", "visit 2", "8:30", "2020-01-01", "<0.5", " 2 ", "2.5", "central", "Depot", "effect", "+3",
        "1e2", "concentration", "1_000", "１", "NAN", "-inf",
    ]),
    st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters='"'), max_size=6),
)  # fmt: skip
FLAGS = {"TRUE": 1.0, "T": 1.0, "FALSE": 0.0, "F": 0.0}


def meant(name, cell):
    """What the rules say of a cell: a number, text that names something, or None if they refuse it."""
    text = cell.strip()
    if text in ("", ".", "NA", "NaN", "nan"):
        return np.nan
    if name in ("MDV", "CENS", "SS", "weight") and text.upper() in FLAGS:
        return FLAGS[text.upper()]
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        number = float(text)
        if np.isfinite(number):
            return np.nan if name == "weight" and number == -99 else number
    return text if name in ("CMT", "DVID") else None


@settings(max_examples=200, deadline=None)
@given(tables(), st.data())
def test_any_cell_is_read_by_its_rule_or_named(columns, data):
    name = data.draw(st.sampled_from([name for name in columns if name != "ID"]))
    row = data.draw(st.integers(0, len(columns["ID"]) - 1))
    cell = data.draw(CELLS)
    value = meant(name, cell)
    lines = [",".join(columns)]
    for index in range(len(columns["ID"])):
        cells = {own: "." if np.isnan(values[index]) else repr(float(values[index])) for own, values in columns.items()}
        lines.append(",".join(f'"{cell}"' if (own, index) == (name, row) else cells[own] for own in cells))
    try:
        given_values = columns[name].astype(object)
        given_values[row] = value
        if value is None:
            raise ConfigError("refused")
        expected = expand_events(event_table(columns | {name: given_values}, MODEL), MODEL)
        if (np.diff(expected.row_start) == 0).any():
            raise ConfigError("no observation")
    except ConfigError:
        expected = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fuzz.csv")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if expected is not None:
            assert_same(population(path), expected)
            return
        with pytest.raises(ConfigError) as error:
            population(path)
        said = str(error.value)
        assert "fuzz.csv" in said
        assert re.search(r"rows? \d+", said) or "no observation (ID" in said, said
        if value is None:
            assert re.search(rf"column {name.upper()} .*row \d+", said), said
