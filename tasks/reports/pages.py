"""HTML pages from templates, with everything that is filled in escaped: the only place that makes HTML."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from image_longitudinal.tasks.reports.pictures import data_url


def page(template: str, pictures: Mapping[str, bytes], **content: Any) -> str:
    """A template of :mod:`tasks.reports`, filled; ``pictures`` (PNG or GIF by name) become part of the page."""
    environment = Environment(loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined)
    urls = {name: data_url(picture) for name, picture in pictures.items()}
    return environment.get_template(template).render(pictures=urls, **content)


def _source(template: str) -> str:
    folder = resources.files("image_longitudinal.tasks.reports").joinpath("templates")
    return folder.joinpath(template).read_text(encoding="utf-8")
