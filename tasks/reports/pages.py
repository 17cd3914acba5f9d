"""HTML pages from templates, with everything that is filled in escaped: the only place that makes HTML."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined

from image_longitudinal.tasks.reports.figure_data import figure_csv
from image_longitudinal.tasks.reports.pictures import data_url, vector

if TYPE_CHECKING:  # importing it is slow
    from matplotlib.figure import Figure


class Shown(NamedTuple):
    """A picture of a page, and the numbers behind it as CSV, as data URLs; ``data`` is empty without numbers."""

    url: str
    data: str


def page(template: str, pictures: Mapping[str, bytes | Figure], **content: Any) -> str:
    """A template of :mod:`tasks.reports`, filled; ``pictures`` (figures, PNG or GIF by name) become part of it."""
    environment = Environment(loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined)
    shown = {name: _shown(one) for name, one in pictures.items()}
    return environment.get_template(template).render(pictures=shown, **content)


def _shown(picture: bytes | Figure) -> Shown:
    if isinstance(picture, bytes):
        return Shown(data_url(picture), "")
    numbers = figure_csv(picture)
    url = data_url(vector(picture), "image/svg+xml")
    return Shown(url, data_url(numbers.encode(), "text/csv") if numbers else "")


def _source(template: str) -> str:
    folder = resources.files("image_longitudinal.tasks.reports").joinpath("templates")
    return folder.joinpath(template).read_text(encoding="utf-8")
