"""What a page offers beside a figure: its numbers, as they were drawn."""

import csv
import io

import numpy as np
from matplotlib.figure import Figure

from image_longitudinal.tasks.reports.figure_data import figure_csv
from image_longitudinal.tasks.reports.pictures import vector


def rows_of(figure: Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(figure_csv(figure))))


def test_lines_points_bands_intervals_and_bars_are_numbers() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([1, 2], [3.5, 4.25], label="observed")
    left.fill_between([1, 2, 3], [0, 1, 2], [5, 6, 7], label="95 %")
    left.vlines([8], [0.25], [0.75])
    left.scatter([1.5], [2.5])
    left.axhline(9, color="red")  # a line of reference is no data
    left.set(xlabel="time", ylabel="outcome", title="one")
    right.bar([0, 1], [10, 20], label="counts")
    found = rows_of(figure)
    assert {row["panel"] for row in found} == {"one: outcome by time", "panel 2"}
    by_series = {name: [row for row in found if row["series"] == name] for name in {row["series"] for row in found}}
    assert set(by_series) == {"observed", "95 %", "interval", "points", "counts"}
    assert [(row["x"], row["y"]) for row in by_series["observed"]] == [("1", "3.5"), ("2", "4.25")]
    assert [(row["x"], row["low"], row["high"]) for row in by_series["95 %"]] == [
        ("1", "0", "5"), ("2", "1", "6"), ("3", "2", "7"),
    ]  # fmt: skip
    assert [(row["x"], row["low"], row["high"]) for row in by_series["interval"]] == [("8", "0.25", "0.75")]
    assert [(row["x"], row["y"]) for row in by_series["points"]] == [("1.5", "2.5")]
    assert [(row["x"], row["y"]) for row in by_series["counts"]] == [("0", "10"), ("1", "20")]


def test_a_figure_of_pictures_has_no_numbers() -> None:
    figure = Figure()
    figure.subplots().imshow(np.zeros((4, 4)))
    assert figure_csv(figure) == ""


def test_a_drawing_is_the_same_text_each_time_and_many_points_become_a_picture() -> None:
    def drawn(n: int) -> bytes:
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot(np.arange(n), np.arange(n), ".")
        return vector(figure)

    assert drawn(5) == drawn(5)
    assert b"<image" not in drawn(5)
    assert b"<image" in drawn(5000)
    assert len(drawn(5000)) < 60_000
