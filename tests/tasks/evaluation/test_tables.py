"""The evaluation's tables as files: every row as wide as its head, and nothing said that test subjects cannot tell."""

import csv
import io
import re
from typing import Any

from image_longitudinal.cli.console import aligned
from image_longitudinal.tasks.evaluation.report import headline
from image_longitudinal.tasks.evaluation.tables import Table, effect_table, population_table

TABLE = Table("t", "E[η | z] at 50 %", ("ρ²", "source"), [("1", "E[η | z], a < b_1 & c"), ("0.5", "plain")])
FIGURES = {name: [0.5, 0.4, 0.6] for name in ("mse", "r2", "of_nominal", "of_realised", "mse_to_modes", "r2_to_modes")}


def level(value: float, ceiling: list[float]) -> dict[str, Any]:
    effects = {name: FIGURES | {"of_oracle": None} for name in ("regression", "informed", "one_step", "oracle", "ebe")}
    population = {
        "true": {"ka": 1.0, "imax": 2.1},
        "estimates": {"ka": [1.1, 0.05], "imax": [2.0, float("nan")]},
        "foce": {"ka": 1.2, "imax": 1.9},
        "shrinkage": {"eta_ka": 0.07},
    }
    return {"level": value, "ceiling": ceiling, "effects": effects, "population": population}


def test_a_bar_within_a_cell_does_not_end_it_in_markdown() -> None:
    rows = TABLE.markdown().splitlines()[2:]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3, 3, 3]
    assert r"E[η \| z]" in rows[2]


def test_latex_holds_no_character_that_latex_reads_as_its_own() -> None:
    row = next(line for line in TABLE.latex().splitlines() if line.startswith("1 "))
    assert row == r"1 & E[$\eta$ $\mid$ z], a $<$ b\_1 \& c \\"
    assert r"\caption{E[$\eta$ $\mid$ z] at 50 \%}" in TABLE.latex()


def test_csv_reads_back() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [["ρ²", "source"], *map(list, TABLE.rows)]


def test_every_row_of_the_effects_is_as_wide_as_the_head() -> None:
    table = effect_table([level(1.0, [1.0, 1.0, 1.0]), level(0.1, [0.07, -0.05, 0.14])])
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert len(table.records) == 2 * (1 + 5)  # the ceiling and five sources at each level


def test_the_population_table_says_how_far_an_estimate_is_from_the_truth() -> None:
    rows = population_table([level(1.0, [1.0, 1.0, 1.0])]).rows
    assert rows[0] == ("1", "ka", "1", "1.2", "1.1", "0.05", "+2.0")
    assert rows[1] == ("1", "imax", "2.1", "1.9", "2", "", ""), "no standard error, no distance"
    assert rows[2][1:5] == ("shrinkage of eta_ka", "", "", "7.0 %")


def test_no_share_of_a_ceiling_that_cannot_be_told_from_nothing() -> None:
    table = headline([level(1.0, [1.0, 1.0, 1.0]), level(0.1, [0.07, -0.05, 0.14])])
    assert {row[1:] for row in table.rows} == {("50.0", "–")}


def test_words_stand_left_and_numbers_right_on_the_console() -> None:
    assert aligned([("ρ²", "source", "R²"), ("0.5", "me", "0.25"), ("1", "them", "1")], left=2).splitlines() == [
        "ρ²   source    R²",
        "0.5  me      0.25",
        "1    them       1",
    ]
