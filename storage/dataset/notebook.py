"""How a data set and a subject look in a notebook: a few facts, thumbnails, and curves of outcomes.

Texts of a data set are escaped: what it says is data.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.png import encode_png

if TYPE_CHECKING:
    from image_longitudinal.storage.dataset.reader import Dataset
    from image_longitudinal.storage.dataset.subject import Subject

THUMBNAILS, SIDE = 8, 96  # images shown of a data set; pixels of a side at most
WIDTH, HEIGHT = 260, 120  # of the curves
COLOURS = ("#1f6f8b", "#c2571a", "#5b7f2b", "#7a4ea3", "#8a6d1d")


def dataset_html(dataset: Dataset) -> str:
    """Facts of a data set above its first images."""
    manifest, view = dataset.manifest, dataset.view()
    splits = ", ".join(f"{manifest.splits[name]:,} {name}" for name in manifest.present_splits)
    facts = {
        "address": dataset.root.url,
        "subjects": f"{len(dataset):,} ({splits})",
        "images": f"{manifest.image.height} x {manifest.image.width}, by {manifest.image.model}",
        "levels": ", ".join(map(str, dataset.levels)),
        "random effects": ", ".join(manifest.random_effects),
        "times": f"{len(dataset.times)}, from {dataset.times[0]:g} to {dataset.times[-1]:g}",
        **({"arms": ", ".join(dataset.arms)} if dataset.arms else {}),
        **({"sites": ", ".join(dataset.sites)} if dataset.sites else {}),
    }
    pictures = zip(view.ids[:THUMBNAILS].tolist(), view.images[:THUMBNAILS], strict=True)
    shown = "".join(_thumbnail(image, f"subject {number}") for number, image in pictures)
    return f"<div><strong>{escape(manifest.name)}</strong>{_facts(facts)}<div>{shown}</div></div>"


def subject_html(subject: Subject) -> str:
    """A subject's image beside its numbers, above the outcomes at each level."""
    facts = {"split": subject.split, "linked_eta": _numbers(subject.linked_eta)}
    facts |= {f"used_eta at {level}": _numbers(used) for level, used in subject.used_eta.items()}
    curves = []
    for level, rows in subject.observations.items():
        seen = np.array([(row["time"], row["dv"]) for row in rows.to_pylist() if row["dv"] is not None], float)
        curves.append((f"{level}", seen.reshape(-1, 2)))
    return (
        f"<div><strong>Subject {subject.id}</strong><div style='display:flex;gap:1em;flex-wrap:wrap'>"
        f"{_thumbnail(subject.image, f'image of subject {subject.id}', 2 * SIDE)}{_facts(facts)}{_curves(curves)}"
        "</div></div>"
    )


def _facts(facts: dict[str, str]) -> str:
    rows = (f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    return f"<table>{''.join(rows)}</table>"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _thumbnail(image: NDArray[np.uint8], text: str, side: int = SIDE) -> str:
    """An image, at most ``side`` pixels wide and high: means of blocks of a larger one."""
    block = -(-max(image.shape) // side)
    rows, columns = image.shape[0] // block * block, image.shape[1] // block * block
    small = image[:rows, :columns].reshape(rows // block, block, columns // block, block).mean((1, 3))
    encoded = base64.b64encode(encode_png(small.round().astype(np.uint8))).decode()
    style = f"width:{side}px;margin:2px"
    return f'<img src="data:image/png;base64,{encoded}" alt="{escape(text)}" title="{escape(text)}" style="{style}">'


def _curves(curves: list[tuple[str, NDArray[np.float64]]]) -> str:
    """Outcomes over time, one line for each level, with the level at its end."""
    every = np.concatenate([seen for _, seen in curves]) if curves else np.empty((0, 2))
    if not len(every):
        return ""
    low, span = every.min(0), np.maximum(np.ptp(every, axis=0), 1e-12)
    lines = []
    for number, (level, seen) in enumerate(curves):
        places = (seen - low) / span
        x, y = 4 + places[:, 0] * (WIDTH - 60), HEIGHT - 6 - places[:, 1] * (HEIGHT - 12)
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        lines.append(
            f'<text x="{WIDTH - 50}" y="{12 + 14 * number}" font-size="11" fill="{colour}">{escape(level)}</text>'
        )
    title = f"outcomes over time, {low[1]:.3g} to {low[1] + span[1]:.3g}, by association level"
    return (
        f'<svg role="img" aria-label="{title}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"<title>{title}</title>{''.join(lines)}</svg>"
    )
