"""The graphs of the study presets: ``python -m docs.design_pictures docs/pictures`` writes design-NAME.png for each.

A node is a variable, an arrow says what it is a function of; dashed arrows have a designed strength, which they name.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

INK, ACCENT, SOFT = "#1f2a37", "#b4441f", "#dde4ea"
Place = tuple[float, float]

NODES: dict[str, Place] = {  # where each variable is drawn
    "z": (0.0, 0.8), "image": (0.0, 2.3), "η": (1.8, 0.2), "covariates": (1.8, 2.0), "own effect τ": (1.8, 1.1),
    "confounder c": (0.9, -1.0), "arm": (2.5, -1.0), "outcomes": (3.4, 0.6), "site": (1.8, 2.3),
}  # fmt: skip
LABELS = {"z": "latent z", "η": "random effects η"}
GRAPHS: dict[str, list[tuple[str, str, str]]] = {
    "trial": [
        ("z", "image", ""), ("z", "η", "association"), ("z", "covariates", "level"),
        ("z", "own effect τ", "image share"), ("η", "outcomes", ""), ("covariates", "outcomes", ""),
        ("own effect τ", "outcomes", ""), ("arm", "outcomes", ""),
    ],
    "observational": [
        ("z", "image", ""), ("z", "η", "association"), ("z", "own effect τ", "image share"),
        ("z", "confounder c", "image share"), ("η", "confounder c", "prognosis"), ("confounder c", "arm", "AUC"),
        ("η", "outcomes", ""), ("own effect τ", "outcomes", ""), ("arm", "outcomes", ""),
    ],
    "sites": [
        ("z", "image", ""), ("z", "η", "association"), ("η", "outcomes", ""), ("outcomes", "site", "correlation"),
        ("site", "image", "strength"),
    ],
}  # fmt: skip


def graph(edges: list[tuple[str, str, str]]) -> Figure:
    """The graph of a preset."""
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axis = figure.subplots()
    boxes = {}
    for name in {name for start, end, _ in edges for name in (start, end)}:
        box = {"boxstyle": "round,pad=0.45", "facecolor": SOFT, "edgecolor": INK}
        text = axis.text(
            *NODES[name], LABELS.get(name, name), fontsize=10, color=INK, ha="center", va="center", bbox=box
        )
        boxes[name] = text.get_bbox_patch()
    for start, end, strength in edges:
        arrow = FancyArrowPatch(
            NODES[start], NODES[end], arrowstyle="-|>", mutation_scale=14, patchA=boxes[start], patchB=boxes[end],
            shrinkA=2, shrinkB=3, color=ACCENT if strength else INK, linestyle="--" if strength else "-", lw=1.3,
        )  # fmt: skip
        axis.add_patch(arrow)
        if strength:
            x, y = ((a + b) / 2 for a, b in zip(NODES[start], NODES[end], strict=True))
            axis.text(x, y, strength, fontsize=8, color=ACCENT, ha="center", va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    axis.set(xlim=(-0.6, 4.0), ylim=(-1.4, 2.7))
    axis.set_axis_off()
    return figure


def main(folder: str) -> None:
    """Write the graph of every preset."""
    for name, edges in GRAPHS.items():
        graph(edges).savefig(Path(folder) / f"design-{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1])
