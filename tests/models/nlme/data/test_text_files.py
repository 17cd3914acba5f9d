"""Text files: separators, comments, decimal marks, and what is no table."""

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.text_files import read_text

ROWS = [{"ID": 1, "TIME": 0.0, "DV": None}, {"ID": 2, "TIME": 0.5, "DV": 7}]


@pytest.fixture
def rows(tmp_path):
    def read(text, decimal="."):
        (tmp_path / "table.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_text(tmp_path / "table.csv", decimal)

    return read


@pytest.mark.parametrize(
    "text",
    [
        "ID,TIME,DV\n1,0.0,.\n2,0.5,7\n",
        "ID, TIME, DV\n1, 0.0, NA\n2, 0.5, 7",
        "ID;TIME;DV\r\n1;0.0;\r\n2;0.5;7\r\n",
        "ID\tTIME\tDV\n1\t0.0\tNaN\n2\t0.5\t7\n",
        "  ID  TIME DV\n  1  0.0  .\n\n  2  .5   7\n",
        '\ufeff"ID","TIME","DV"\n"1","0.0","."\n"2","0.5","7"\n,,\n',
    ],
)
def test_the_header_decides_the_separator(rows, text):
    assert rows(text).rows.to_pylist() == ROWS
    assert rows(text).ignored == 0


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("# made with R 4\n#ID,TIME,DV\n1,0.0,.\n# a note, with a comma\n@2,9,9\n2,0.5,7\n", 3),
        ("ID,TIME,DV\n1,0.0,.\nC1,9,9\nC 5,9,9\n2,0.5,7\n", 2),
        ("@ID TIME DV\n1 0.0 .\nC 9 9\n2 0.5 7\n", 1),
    ],
)
def test_lines_that_nm_tran_ignores_are_comments(rows, text, ignored):
    found = rows(text)
    assert (found.rows.to_pylist(), found.ignored) == (ROWS, ignored)


def test_ids_that_begin_with_a_c_are_ids(rows):
    assert rows("ID,TIME\nC1,0\nC2,0\n").rows["ID"].to_pylist() == ["C1", "C2"]


def test_decimal_commas_are_asked_for(rows):
    text = "ID;TIME;DV\n1;0,0;.\n2;0,5;7\n"
    assert rows(text, ",").rows.to_pylist() == ROWS
    assert rows(text).rows["TIME"].to_pylist() == ["0,0", "0,5"]  # (refused when TIME is read)
    assert rows("ID;TIME\n1;1.234,5\n2;1.234\n", ",").rows["TIME"].to_pylist() == ["1.234,5", "1.234"]
    with pytest.raises(ConfigError, match="semicolons"):
        rows("ID,TIME\n1,5\n", ",")


@pytest.mark.parametrize("cell", ["0x10", "1_000", "1d5", "5 mg", "--1"])
def test_text_that_is_no_decimal_number_stays_text(rows, cell):
    assert rows(f"ID,DV\n1,{cell}\n").rows["DV"].to_pylist() == [cell]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table"), ("\n\n", "not a table"), ("ID,TIME\n", "no rows.*column names alone"),
        ("ID,TIME\n1,0\n1,2,3\n", r"table\.csv, row 2.*2 cells, as in the header; got 3"),
        (b"ID,TIME,SITE\n1,0,Z\xfcrich\n", r"not in UTF-8.*table\.csv, line 2"), ("PK\0\0\n", "not a table"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(rows, text, message):
    with pytest.raises(ConfigError, match=message):
        rows(text)
