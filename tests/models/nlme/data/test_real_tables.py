"""Tables as other programs and people write them: understood by docs/reference/nmtran.md, or refused by cell."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.nmtran_reader import open_observations, read_events, whole
from image_longitudinal.models.nlme.data.reading import Reading
from image_longitudinal.models.nlme.kernels.records import COVARIATES
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.effects import with_covariate, with_occasions
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import predict
from image_longitudinal.models.nlme.simulation.trial import write_simulated_events

ONE = get_model("one-compartment")
PK_EMAX = get_model("pk-emax").structural
WEIGHED = with_covariate(ONE, "cl", "weight", reference=70.0, coefficient=0.75).structural
PLAIN = (
    "ID,TIME,EVID,AMT,CMT,DV,MDV\n1,0,1,100,1,.,1\n1,1,0,0,2,3.5,0\n1,2,0,0,2,2.5,0\n2,0,1,50,1,.,1\n2,1,0,0,2,1.5,0\n"
)


@pytest.fixture
def opened(tmp_path):
    def open_text(text, model=ONE.structural, reading=None, name="data.csv"):
        (tmp_path / name).write_text(text)
        return open_observations(tmp_path / name, model, reading)

    return open_text


@pytest.fixture
def read(opened):
    def read_text(*arguments, **options):
        table = opened(*arguments, **options)
        return table.population(whole(table))

    return read_text


def assert_same(one, other):
    for name, values in other.arrays._asdict().items():
        np.testing.assert_array_equal(getattr(one, name), values, err_msg=name)


def with_column(text, name, *cells):
    """The text with a further column."""
    return "\n".join(f"{line},{cell}" for line, cell in zip(text.splitlines(), (name, *cells), strict=True)) + "\n"


def changed(text, old, new):
    assert text.count(old) == 1, (text, old)
    return text.replace(old, new)


@pytest.mark.parametrize("name", ["CENS", "cens", "BLQ", "bloq", "Bql"])
@pytest.mark.parametrize(
    "cells", [("FALSE", "FALSE", "TRUE", "FALSE", "TRUE"), ("F", "F", "T", "F", "T"), (".", 0, 1, "NA", 1)]
)
def test_censoring_is_told_by_numbers_or_logical_values_under_any_name(read, name, cells):
    assert read(with_column(PLAIN, name, *cells)).censored.tolist() == [False, True, True]


def test_booleans_of_parquet_are_understood(tmp_path):
    columns = {"ID": [1, 1, 1], "TIME": [0.0, 1.0, 2.0], "AMT": [9.0, 0.0, 0.0], "DV": [None, 2.0, 1.0]}
    pq.write_table(pa.table(columns | {"CENS": [None, True, False]}), tmp_path / "data.parquet")
    table = open_observations(tmp_path / "data.parquet", ONE.structural)
    assert table.population(whole(table)).censored.tolist() == [True, False]


def test_a_limit_of_quantification_may_have_its_own_column(read, opened):
    text = with_column(with_column(PLAIN, "BLQ", 0, 0, 1, 0, 0), "LLOQ", 1, 1, 3, 1, 1)
    assert read(text).observed.tolist() == [3.5, 3.0, 1.5]
    assert read(text.replace("2,2.5,0", "2,NA,0")).observed.tolist() == [3.5, 3.0, 1.5]
    assert "LLOQ is the limit" in " ".join(opened(text).notes)
    equal = with_column(with_column(PLAIN, "CENS", 0, 0, 1, 0, 0), "LLOQ", 1, 1, 2.5, 1, 1)
    assert opened(equal).found.rules == ()  # as it was read before: the digest of a fit stays
    for bad, message in (
        (
            with_column(PLAIN, "LLOQ", 1, 1, 3, 1, 1),
            r"DV \(row 3, ID 1\).*CENS \(or BLQ\) 1 at an observation below LLOQ",
        ),
        (text.replace("2,2.5,0", "2,3.5,0"), r"DV \(row 3, ID 1\).*at most LLOQ"),
        (with_column(PLAIN, "BLQ", 0, 0, 1, 0, 0).replace("2.5", "."), r"DV \(row 3, ID 1\).*the limit of quant"),
        (with_column(PLAIN, "LIMIT", ".", ".", 0, ".", "."), r"LIMIT \(row 3, ID 1\).*interval is not supported"),
        (with_column(PLAIN, "CENS", 0, 0, -1, 0, 0), r"CENS \(row 3, ID 1\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(bad)


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("RATE", ("25 mg/h", 0, 0, 25, 0), r"column RATE.*row 1.*'25 mg/h'"),
        ("RATE", ("25", 0, 0, "1,000", 0), r"row 4\); expected 8 cells, as in the header; got 9"),
        ("RATE", ("25", 0, 0, '"1,000"', 0), r"column RATE.*row 4.*'1,000'.*--decimal"),
        ("SS", ("yes", 0, 0, 0, 0), r"column SS.*row 1.*TRUE or FALSE"),
        ("ADDL", ("TRUE", 0, 0, 0, 0), r"column ADDL.*row 1.*'TRUE'"),
        ("II", ("12 h", 0, 0, 0, 0), r"column II.*row 1"),
        ("DVID", ("x", "x", "cp", "x", "cp"), r"DVID no endpoint has \(row 2, ID 1\).*outcome; got x.*--endpoint"),
        ("CENS", (0, "<0.5", 0, 0, 0), r"column CENS.*row 2.*'<0.5'"),
        ("WEIGHT", (70, "heavy", 70, 70, 70), r"column WEIGHT.*row 2.*'heavy'"),
    ],
)
def test_text_in_a_column_of_numbers_is_refused_by_file_row_and_column(read, column, cells, message):
    with pytest.raises(ConfigError, match=r"(?s)data\.csv.*" + message):
        read(with_column(PLAIN, column, *cells), WEIGHED if column == "WEIGHT" else ONE.structural)


def test_the_duration_of_an_infusion_may_stand_in_place_of_its_rate(read, opened):
    assert read(with_column(PLAIN, "TINF", 4, ".", ".", 0, ".")).rate.tolist() == [25.0, 0.0]
    both = with_column(with_column(PLAIN, "TINF", 4, 0, 0, 0, 0), "RATE", 50, 0, 0, 0, 0)
    assert read(both).rate.tolist() == [50.0, 0.0]
    assert "Columns not used: TINF." in opened(both).notes


def test_missing_columns_are_derived_as_nm_tran_does(read):
    expected = read(PLAIN)
    assert_same(read("ID,TIME,AMT,DV\n1,0,100,.\n1,1,.,3.5\n1,2,0,2.5\n2,0,50,\n2,1,NA,1.5\n"), expected)
    given = read("ID,TIME,AMT,MDV,DV\n1,0,100,1,.\n1,1,0,0,3.5\n1,1.5,0,1,9\n1,2,0,0,2.5\n2,0,50,1,.\n2,1,0,0,1.5\n")
    assert_same(given, expected)
    cells = changed(changed(PLAIN, "1,0,1,100,1,.,1", "1,0,1,100,0,.,."), "2,0,1,50,1,.,1", "2,0,1,50,.,.,NA")
    assert_same(read(cells), expected)


def test_a_table_without_doses_is_read_and_said_to_be_one(read, opened):
    text = "ID,TIME,DV\n1,0,3\n1,1,2\n"
    assert (read(text).when.tolist(), read(text).observed.tolist()) == ([], [3.0, 2.0])
    assert "The table has no doses." in opened(text).notes


def test_columns_without_use_are_listed_once(opened):
    text = with_column(with_column(PLAIN, "Comment", *"abcde"), "L2", 1, 1, 2, 3, 4)
    assert "Columns not used: Comment, L2 (NM-TRAN's L2 have no effect here)." in opened(text).notes
    assert opened(PLAIN).notes == ()
    assert opened(PLAIN).found.rules == ()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("ID,TIME,EVID,AMT,CMT,DV,DV", "column twice.*DV, DV"),
        ("ID,TIME,EVID,AMT,CMT,DV,dv", "column twice.*DV, dv"),
        ("ID,TIME,EVID,AMT,CMT,Y,cObs", "both mean DV.*Y, cObs"),
        ("ID,HOUR,EVID,AMT,CMT,DV,MDV", "lacks columns.*Add TIME"),
    ],
)
def test_columns_that_are_twice_or_missing_are_refused(read, header, message):
    with pytest.raises(ConfigError, match=message):
        read(PLAIN.replace("ID,TIME,EVID,AMT,CMT,DV,MDV", header))


ENDPOINTS = "ID,TIME,AMT,CMT,DV\n1,0,100,1,.\n1,1,0,2,3.5\n1,1,0,3,25\n1,2,0,3,24\n"


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        (ENDPOINTS, ()),  # the library's model knows its compartments
        (ENDPOINTS, (("concentration", "2"), ("response", "3"))),
        (with_column(ENDPOINTS, "DVID", 0, 1, 2, 2), ()),
        (with_column(ENDPOINTS, "ytype", ".", 1, 2, 2), ()),
        (with_column(ENDPOINTS, "DVID", "dose", "Concentration", "response", "response"), ()),
        (with_column(ENDPOINTS, "DVID", ".", "cp", "pca", "pca"), (("concentration", "cp"), ("response", "pca"))),
        (with_column(ENDPOINTS, "DVID", 1, 3, 1, 1), (("concentration", "3"), ("response", "1"))),
        (ENDPOINTS.replace(",2,3.5", ",central,3.5").replace(",3,2", ",response,2"), ()),
        (ENDPOINTS.replace(",2,3.5", ",cp,3.5").replace(",3,2", ",e,2"), (("concentration", "cp"), ("response", "e"))),
    ],
)
def test_endpoints_are_told_by_number_or_name_in_dvid_or_cmt(read, text, endpoints):
    data = read(text, PK_EMAX, Reading(endpoints=endpoints))
    assert data.endpoint.tolist() == [0, 1, 1]
    assert data.compartment.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "model", "endpoints", "message"),
    [
        (ENDPOINTS.replace(",3,24", ",1,24"), PK_EMAX, (), r"CMT no endpoint has \(row 4, ID 1\).*got 1"),
        (ENDPOINTS.replace(",3,24", ",.,24"), PK_EMAX, (), r"CMT no endpoint has \(row 4.*got nothing"),
        (ENDPOINTS, ONE.structural, (), r"several compartments.*one endpoint \(row 3, ID 1\).*outcome=2"),
        (ENDPOINTS.replace(",2,", ",7,"), ONE.structural, (), r"(?s)several compartments|no endpoint has"),
        (PLAIN.replace("0,0,2,", "0,0,5,"), ONE.structural, (), r"CMT no endpoint has \(row 2, ID 1\).*got 5"),
        (ENDPOINTS, PK_EMAX, (("concentration", "2"),), r"CMT no endpoint has \(row 3, ID 1\)"),
        (ENDPOINTS, PK_EMAX, (("cp", "2"),), "no such endpoint.*concentration, response.*cp"),
        (ENDPOINTS, PK_EMAX, (("concentration", "2"), ("response", "2")), "two endpoints have the same value"),
        ("ID,TIME,DV\n1,0,3\n", PK_EMAX, (), r"several endpoints, and nothing says.*row 1, ID 1.*Add DVID"),
        (PLAIN.replace(",100,1,", ",100,gut,"), ONE.structural, (), r"CMT \(row 1, ID 1\).*depot, central.*'gut'"),
    ],
)
def test_an_observation_that_no_endpoint_has_is_refused(read, text, model, endpoints, message):
    with pytest.raises(ConfigError, match=message):
        read(text, model, Reading(endpoints=endpoints))


def test_compartments_of_doses_may_be_names(read):
    assert read(PLAIN.replace(",100,1,", ",100,Central,")).compartment.tolist() == [1, 0]


OCCASIONS = with_occasions(ONE, ["cl"], 2, [[0.1]]).structural


@pytest.mark.parametrize(
    "cells", [(0, 0, 3, 0, 3), ("visit 1", "visit 1", "visit 2", "visit 1", "visit 2"), (1, 1, 2, 1, 2)]
)
def test_occasions_may_have_any_labels(read, opened, cells):
    text = with_column(PLAIN, "OCC", *cells)
    data = read(text, OCCASIONS)
    assert data.covariates[data.kind == COVARIATES, 0].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert bool(opened(text, OCCASIONS).found.rules) == (cells[2] != 2)  # numbers from 1 on are as they always were
    linear = read(text, OCCASIONS, Reading(interpolation="linear"))
    assert not linear.covariates[:, 1].any()  # an occasion has no slope


def test_more_occasions_than_the_model_has_are_refused(read):
    with pytest.raises(ConfigError, match=r"more occasions.*at most 2.*3: a, b, c"):
        read(with_column(PLAIN, "OCC", *"aabac"), OCCASIONS)
    with pytest.raises(ConfigError, match=r"occ \(row 2, ID 1\).*1 to 2"):
        event_table({"ID": [1, 1], "TIME": [0, 1], "DV": [1, 1], "occ": [1, 3]}, OCCASIONS)


def test_minus_99_in_a_covariate_is_missing_and_said(read, opened):
    text = with_column(PLAIN, "WEIGHT", 80, -99, 80, 60, -99)
    data = read(text, WEIGHED)
    assert data.covariates[data.kind == COVARIATES, 0].tolist() == [80.0, 60.0]
    assert "WEIGHT is -99 in 2 rows (the first is row 2): taken for missing." in opened(text, WEIGHED).notes
    with pytest.raises(ConfigError, match=r"covariate 'weight' is missing for a subject \(ID 2, rows 4 to 5\)"):
        read(with_column(PLAIN, "WEIGHT", 80, 80, 80, -99, -99), WEIGHED)


def test_text_ids_are_kept_in_data_errors_and_output(read, opened, tmp_path):
    text = PLAIN.replace("\n1,", "\nS-01,").replace("\n2,", "\nB 7,")
    data = read(text)
    assert data.names.tolist() == ["S-01", "B 7"]
    assert data.subset(1, 2).names.tolist() == ["B 7"]
    assert data.take([1, 0]).names.tolist() == ["B 7", "S-01"]
    assert_same(data, read(PLAIN))
    with pytest.raises(ConfigError, match=r"AMT \(row 4, ID B 7\)"):
        read(changed(text, ",50,1,", ",-1,1,"))
    with pytest.raises(ConfigError, match=r"not together \(row 5, ID S-01\)"):
        read(changed(text, "B 7,1,", "S-01,1,"))
    (tmp_path / "events.csv").write_text(text)
    table, truth = read_events(tmp_path / "events.csv", ONE.structural), tmp_path / "truth.csv"
    path = write_simulated_events(ONE, table, tmp_path / "out.csv", seed=1, truth=truth)
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["ID", *3 * ["S-01"], *2 * ["B 7"]]
    assert [line.split(",")[0] for line in truth.read_text().splitlines()] == ["ID", "S-01", "B 7"]


def test_time_may_go_back_at_a_reset(read):
    one = "ID,TIME,EVID,AMT,CMT,DV\n1,0,1,100,1,.\n1,5,0,0,2,3\n1,0,4,100,1,.\n1,1,0,0,2,2\n1,3,0,0,2,1\n"
    two = one.replace("1,0,4", "2,0,1").replace("1,1,0,0", "2,1,0,0").replace("1,3,0,0", "2,3,0,0")
    parameters = [[1.0, 2.0, 20.0]]
    together, apart = read(one), read(two)
    got = predict(ONE.structural, parameters, together)
    # the two differ by the integrator's own error, 1e-6 of the largest concentration (5 mg/L)
    np.testing.assert_allclose(got, predict(ONE.structural, parameters * 2, apart), atol=1e-5)
    assert together.times.tolist() == [5.0, 6.0, 8.0]
    with pytest.raises(ConfigError, match=r"unsorted times \(row 3, ID 1\).*≥ 5, or a reset"):
        read(one.replace("1,0,4", "1,0,1"))
    timed = StructuralModel("timed", ("a",), ("k",), lambda t, x, p: {"a": -p.k * t * x.a}, lambda t, x, p: x.a)
    with pytest.raises(ConfigError, match=r"time goes back at a reset.*depend on time.*row 3, ID 1"):
        read(one.replace(",2,", ",1,"), timed)


@pytest.mark.parametrize(
    ("cells", "date", "expected"),
    [
        (("8:00", "9:30", "20:00", "7:15", "8:15:36"), None, [1.5, 12.0, 1.01]),
        (
            ("23:00", "1:00", "2:00", "7:00", "8:00"),
            ("2024-02-28", "2024-02-29", "2024-03-01", "2024-01-01", "2024-01-01"), [2.0, 27.0, 1.0],
        ),
        (
            ("2024-02-28 23:00", "2024-02-29 01:00", "2024-03-01T02:00", "2024-01-01 07:00", "2024-01-01 08:00"),
            None, [2.0, 27.0, 1.0],
        ),
    ],
)  # fmt: skip
def test_times_of_day_and_dates_are_hours_since_the_first_row(read, opened, cells, date, expected):
    lines = PLAIN.splitlines()
    text = "\n".join([lines[0], *(f"{line[0]},{cell}{line[3:]}" for line, cell in zip(lines[1:], cells, strict=True))])
    text = with_column(text, "DATE", *date) if date else text
    # hours since 1970 as float64: 1e-10 h
    np.testing.assert_allclose(read(text).times, expected, atol=1e-9)
    np.testing.assert_allclose(read(text, reading=Reading(time_unit="day")).times, np.divide(expected, 24), atol=1e-9)
    assert "TIME holds times of day or dates" in opened(text).notes[0]
    with pytest.raises(ConfigError, match="cannot be read in the model's unit"):
        read(text, reading=Reading(time_unit="unit of time"))


def test_timestamps_of_parquet_are_times_too(tmp_path):
    moments = np.array(["2024-02-28T23:00", "2024-02-29T01:00"], dtype="datetime64[us]")
    columns = {"ID": [1, 1], "TIME": moments, "AMT": [9.0, 0.0], "DV": [None, 2.0]}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    table = open_observations(tmp_path / "data.parquet", ONE.structural)
    assert table.population(whole(table)).times.tolist() == [2.0]


@pytest.mark.parametrize("cell", ["8h", "28/02/2024", "25:99", "2024-13-01", "2024-01-01T08:00+01:00"])
def test_other_ways_to_write_time_are_refused_by_row(read, cell):
    with pytest.raises(ConfigError, match=r"data\.csv: column TIME.*row 2"):
        read(changed(PLAIN, "1,1,0,0", f"1,{cell},0,0"))
    with pytest.raises(ConfigError, match=r"data\.csv: column TIME.*row 1"):
        read(changed(PLAIN, "1,0,1,100", f"1,{cell},1,100"))


def test_the_steady_state_of_an_infusion_with_an_interval_names_the_interval(read):
    text = with_column(
        with_column(with_column(PLAIN, "RATE", 9, 0, 0, 0, 0), "SS", 1, 0, 0, 0, 0), "II", 12, 0, 0, 0, 0
    )
    with pytest.raises(
        ConfigError, match=r"impossible II \(row 1, ID 1\).*0 at the steady state of a constant infusion"
    ):
        read(changed(text, ",100,", ",0,"))
    assert read(changed(changed(text, ",100,", ",0,"), ",12", ",0")).rate.tolist() == [9.0, 0.0]


def test_rows_are_counted_over_all_pieces():
    ids = np.repeat(np.arange(1, 5), 2)
    columns = {"ID": ids, "TIME": np.tile([0.0, 1.0], 4), "AMT": np.tile([9.0, 0.0], 4), "DV": [1.0] * 7 + [None]}
    table = open_observations(pads.dataset(pa.table(columns)), ONE.structural)
    pieces = list(table.pieces(2))
    assert [piece.num_rows for piece in pieces] == [4, 4]
    table.population(pieces[0])
    with pytest.raises(ConfigError, match=r"missing DV.*row 8, ID 4"):
        table.population(pieces[1], first_row=4)
    assert len(expand_events(table.events(pieces[1], 4), ONE.structural, every_row=True).times) == 4
