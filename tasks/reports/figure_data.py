"""The numbers behind a figure, taken from what it draws, so that they cannot differ from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # importing it is slow
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


class Point(NamedTuple):
    """One drawn point, bar or end of a line; ``low`` and ``high`` of a band or an interval at ``x``."""

    panel: str
    series: str
    x: float
    y: float | None = None
    low: float | None = None
    high: float | None = None


def figure_csv(figure: Figure) -> str:
    """All points of a figure as CSV with a header; empty if it shows pictures alone."""
    rows = [row for number, axis in enumerate(figure.axes, 1) for row in _points(axis, number)]
    if not rows:
        return ""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(Point._fields)
    writer.writerows([_text(cell) for cell in row] for row in rows)
    return written.getvalue()


def _points(axis: Axes, number: int) -> Iterator[Point]:
    from matplotlib.collections import LineCollection, PathCollection, PolyCollection
    from matplotlib.container import BarContainer
    from matplotlib.lines import AxLine

    label = " by ".join(part for part in (axis.get_ylabel(), axis.get_xlabel()) if part)
    panel = ": ".join(part for part in (axis.get_title().replace("\n", " "), label) if part) or f"panel {number}"
    for line in axis.lines:
        if not isinstance(line, AxLine) and line.get_transform() == axis.transData:  # others are lines of reference
            for x, y in np.column_stack([line.get_xdata(orig=False), line.get_ydata(orig=False)]).tolist():
                yield Point(panel, _series(line.get_label(), "points"), x, y)
    for collection in axis.collections:
        name = _series(collection.get_label(), "band")
        if isinstance(collection, PathCollection):
            for x, y in np.asarray(collection.get_offsets()):
                yield Point(panel, _series(collection.get_label(), "points"), x, y)
        elif isinstance(collection, LineCollection):
            for segment in collection.get_segments():
                yield Point(panel, "interval", segment[0, 0], low=segment[:, 1].min(), high=segment[:, 1].max())
        elif isinstance(collection, PolyCollection):
            for path in collection.get_paths():
                yield from (
                    Point(panel, name, x, low=low, high=high) for x, low, high in _band(np.asarray(path.vertices))
                )
    for container in axis.containers:
        if isinstance(container, BarContainer):
            for bar in container.patches:
                middle = bar.get_x() + bar.get_width() / 2
                yield Point(panel, _series(container.get_label(), "bars"), middle, bar.get_height())


def _band(corners: NDArray[np.float64]) -> Iterator[tuple[float, float, float]]:
    """Place and both edges of each point of a filled band: matplotlib goes along one edge, and back along the other."""
    n = (len(corners) - 3) // 2
    for one, other in zip(corners[1 : n + 1], corners[n + 2 : 2 * n + 2][::-1], strict=True):
        yield float(one[0]), float(min(one[1], other[1])), float(max(one[1], other[1]))


def _series(label: object, otherwise: str) -> str:
    text = str(label or "")
    return otherwise if not text or text.startswith("_") else text


def _text(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, (float, np.floating)) else str(cell)
