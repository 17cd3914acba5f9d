"""The evaluation's records and tables as files, with a dash where a ceiling does not differ clearly from 0."""

import csv
import io
import re
from pathlib import Path

import numpy as np

from image_longitudinal.cli.console import aligned
from image_longitudinal.models.evaluation.bootstrap import Estimate
from image_longitudinal.models.evaluation.records import EffectScores, LevelScores, PopulationEstimate
from image_longitudinal.tasks.evaluation.tables import Table, effect_table, headline_table, population_table

TABLE = Table("t", "E[η | z] at 50 %", ("ρ²", "source"), [("1", "E[η | z], a < b_1 & c"), ("0.5", "plain")])
HALF = Estimate(0.5, 0.4, 0.6)
SCORES = EffectScores(
    mse=HALF, r2=HALF, r2_each=(HALF,), mse_to_modes=HALF, r2_to_modes=HALF, of_nominal=HALF, of_realised=HALF
)


POPULATION = PopulationEstimate(
    method="IMP", converged=True, message="", mu=(), omega=(), error=(),
    true={"ka": 1.0, "imax": 2.1}, estimates={"ka": (1.1, 0.05), "imax": (2.0, float("nan"))},
    foce={"ka": 1.2, "imax": 1.9}, shrinkage={"eta_ka": 0.07},
)  # fmt: skip
STRONG = LevelScores(
    level=1.0, subjects=8, variance=1.0, ceiling=Estimate(1.0, 1.0, 1.0), outcomes={}, population=POPULATION,
    effects=dict.fromkeys(("regression", "informed", "one_step", "oracle", "ebe"), SCORES),
)  # fmt: skip
WEAK = STRONG.model_copy(update={"level": 0.1, "ceiling": Estimate(0.07, -0.05, 0.14)})


def test_cells_are_escaped_in_every_format() -> None:
    rows = TABLE.markdown().splitlines()[2:]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3, 3, 3], "a bar within a cell does not end it"
    assert r"E[η \| z]" in rows[2]
    assert "1 & E[$\\eta$ $\\mid$ z], a $<$ b\\_1 \\& c \\\\" in TABLE.latex().splitlines()
    assert r"\caption{E[$\eta$ $\mid$ z] at 50 \%}" in TABLE.latex()
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [["ρ²", "source"], *map(list, TABLE.rows)]


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    WEAK.write(tmp_path / "scores.json")
    found = LevelScores.read(tmp_path / "scores.json")
    assert found.effects == WEAK.effects
    assert found.population is not None
    assert np.isnan(found.population.estimates["imax"][1]), "a standard error that was not found"


def test_every_row_of_the_effects_is_as_wide_as_the_head() -> None:
    table = effect_table([STRONG, WEAK])
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert len(table.records) == 2 * (1 + 5)  # the ceiling and five sources at each level


def test_no_percentage_of_a_ceiling_that_does_not_differ_from_0() -> None:
    assert {row[1:] for row in headline_table([STRONG, WEAK]).rows} == {("50.0", "–")}


def test_the_population_table_has_the_distance_of_an_estimate_from_the_truth() -> None:
    rows = population_table([STRONG]).rows
    assert rows[0] == ("1", "ka", "1", "1.2", "1.1", "0.05", "+2.0")
    assert rows[1] == ("1", "imax", "2.1", "1.9", "2", "", ""), "no standard error, no distance"
    assert rows[2][1:5] == ("shrinkage of eta_ka", "", "", "7.0 %")


def test_text_is_aligned_left_and_numbers_right_on_the_console() -> None:
    rows = [("ρ²", "source", "R²"), ("0.5", "me", "0.25"), ("1", "them", "1")]
    assert aligned(rows, left=2).splitlines() == ["ρ²   source    R²", "0.5  me      0.25", "1    them       1"]
