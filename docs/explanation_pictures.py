"""Drawings of the explanation: ``python -m docs.explanation_pictures docs/pictures``."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, ACCENT, SOFT = "#1f2a37", "#b4441f", "#8fa3b5"
LEVELS = (1.0, 0.5, 0.1)


def association_figure() -> Figure:
    """From the latent vector to image and outcomes, above what two levels do to the random effects."""
    figure = Figure(figsize=(8.6, 5.6))
    top = figure.add_axes((0.0, 0.52, 1.0, 0.48))
    top.set(xlim=(0, 10), ylim=(-0.15, 4))
    top.set_axis_off()
    boxes = {
        "z": (0.2, 2.1, 1.7, "latent vector\nz ~ N(0, I)"),
        "image": (4.1, 3.0, 1.7, "image"),
        "linked": (2.4, 1.15, 1.7, "linked η\n(three entries of z)"),
        "noise": (2.4, 0.0, 1.7, "fresh noise"),
        "used": (5.4, 0.57, 1.25, "used η"),
        "outcomes": (8.1, 0.57, 1.7, "outcomes"),
        "reader": (8.1, 3.0, 1.7, "any predictor"),
    }
    middle = {}
    for name, (x, y, width, text) in boxes.items():
        own = ACCENT if name in ("used", "outcomes") else INK
        box = FancyBboxPatch(
            (x, y), width, 0.72, boxstyle="round,pad=0.02,rounding_size=0.1", fc="white", ec=own, lw=1.2
        )
        top.add_patch(box)
        top.text(x + width / 2, y + 0.36, text, ha="center", va="center", fontsize=9, color=own)
        middle[name] = (x, x + width, y + 0.36)
    for start, end, label in (
        ("z", "image", "image model"), ("z", "linked", ""), ("linked", "used", "ρ ×"), ("noise", "used", ""),
        ("used", "outcomes", "population model"), ("image", "reader", ""),
    ):  # fmt: skip
        a, b = (middle[start][1] + 0.05, middle[start][2]), (middle[end][0] - 0.05, middle[end][2])
        top.add_patch(FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=11, color=SOFT, lw=1.2))
        top.text((a[0] + b[0]) / 2, (a[1] + b[1]) / 2 + 0.16, label, ha="center", fontsize=8, color=INK)
    top.text(4.9, 0.33, "√(1 - ρ²) ×", ha="center", fontsize=8, color=INK)
    top.add_patch(
        FancyArrowPatch((8.95, 2.95), (8.95, 1.36), arrowstyle="-|>", mutation_scale=11, color=ACCENT, lw=1.2, ls="--")
    )
    top.text(8.85, 2.1, "how well, at best?\nR² = ρ²", ha="right", va="center", fontsize=9, color=ACCENT)
    drawn = np.random.default_rng(2).standard_normal((2, 500))
    for column, level in enumerate(LEVELS):
        axis = figure.add_axes((0.08 + 0.31 * column, 0.09, 0.25, 0.33))
        used = np.sqrt(level) * drawn[0] + np.sqrt(1 - level) * drawn[1]
        axis.plot(drawn[0], used, ".", ms=3, color=SOFT, mew=0)
        axis.plot([-3, 3], np.sqrt(level) * np.array([-3, 3]), color=ACCENT, lw=1.4)
        axis.set(xlim=(-3.3, 3.3), ylim=(-3.3, 3.3), xlabel="linked η")
        axis.set_title(f"ρ² = {level:g}", fontsize=9, color=INK)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        if column == 0:
            axis.set_ylabel("used η")
    return figure


def shrinkage_figure() -> Figure:
    """Why estimates of random effects are poor targets, and what taking the image for the starting point changes."""
    random = np.random.default_rng(5)
    n, slope, spread, noise = 400, 0.8, 0.6, 1.2
    seen = random.standard_normal(n)
    true = slope * seen + spread * random.standard_normal(n)
    data = true + noise * random.standard_normal(n)
    plain = data / (1 + noise**2)  # prior N(0, 1)
    informed = slope * seen + spread**2 / (spread**2 + noise**2) * (data - slope * seen)
    figure = Figure(figsize=(8.6, 3.1), layout="constrained")
    panels = ((true, "true random effect"), (plain, "estimate that knows\nthe outcomes only"),
              (informed, "estimate that knows\noutcomes and image"))  # fmt: skip
    for axis, (values, label) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        axis.plot(seen, values, ".", ms=3.5, color=SOFT, mew=0)
        found = np.polyfit(seen, values, 1)
        line = np.array([-3.0, 3.0])
        axis.plot(line, slope * line, color=INK, lw=1, ls=":")
        axis.plot(line, np.polyval(found, line), color=ACCENT, lw=1.6)
        axis.set(xlabel="what the image shows", xlim=(-3, 3), ylim=(-3.2, 3.2))
        axis.set_title(f"{label}: slope {found[0]:.2f}", fontsize=9, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def main(folder: str) -> None:
    """Write both drawings."""
    import matplotlib

    matplotlib.rcParams |= {"svg.hashsalt": "image-longitudinal", "svg.fonttype": "none", "font.family": "sans-serif"}
    for name, figure in (("association", association_figure()), ("shrinkage", shrinkage_figure())):
        figure.savefig(Path(folder, f"{name}.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1])
