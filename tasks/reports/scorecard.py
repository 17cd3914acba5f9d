"""The scorecard of a model on one page: what its images are good for, and what they give away.

The headings follow the "7 Cs" of Zamzmi et al. 2025 (arXiv 2406.11143), as far as numbers answer them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from image_longitudinal.models.registry.judgement import Figure as Measure
from image_longitudinal.models.registry.judgement import Interval, Judgement, UtilityFigures
from image_longitudinal.models.registry.metadata import Measurement
from image_longitudinal.tasks.reports.dataset_figures import ACCENT, INK, SOFT, open_frame


class ScoreRow(NamedTuple):
    """One figure of the scorecard beside what real scans of other patients give in its place."""

    question: str
    figure: str
    generated: str
    real: str


def scorecard_rows(measured: Measurement) -> list[ScoreRow]:
    """All rows of a scorecard; none without a judgement."""
    if (found := measured.judgement) is None:
        return []
    return [*_likeness(found), *_contents(found), *_use(found.utility), *_privacy(measured), *_consistency(measured)]


def scorecard_figure(found: UtilityFigures) -> Figure:
    """Balanced accuracy of each method by what it was trained and tested on, with 95 % intervals."""
    names = [row.name for row in found.methods]
    sources = {
        "trained and tested on scans": ("real", INK, "o"),
        "trained on generated, tested on scans": ("trained_on_generated", ACCENT, "s"),
        "trained on scans, tested on generated": ("tested_on_generated", SOFT, "D"),
    }
    figure = Figure(figsize=(6.4, 0.55 * len(names) + 1.5), layout="constrained")
    axis = figure.subplots()
    for shift, (label, (field, colour, mark)) in enumerate(sources.items()):
        intervals: list[Interval] = [getattr(row, field) for row in found.methods]
        y = np.arange(len(names))[::-1] + 0.22 * (1 - shift)
        axis.hlines(y, [one.low for one in intervals], [one.high for one in intervals], color=colour, lw=1.6)
        axis.plot([one.value for one in intervals], y, mark, ms=5, color=colour, label=label)
    chance = 1 / len(found.recalls)
    axis.axvline(chance, color=INK, lw=0.6, ls=":")
    axis.annotate("chance", (chance, len(names) - 0.5), fontsize=7, color=INK, ha="center", va="bottom")
    open_frame(axis).set(xlabel="balanced accuracy (95 % interval)", xlim=(0, 1), ylim=(-0.5, len(names) - 0.4))
    axis.set_yticks(np.arange(len(names))[::-1], names)
    figure.legend(loc="outside upper center", ncols=1, frameon=False, fontsize=8)
    return figure


def _likeness(found: Judgement) -> list[ScoreRow]:
    sets, anatomy = found.measures, "Do they obey anatomy? (constraint)"
    rows = [
        _beside("Do they look like scans? (congruence)", "distance in the judge's features, floors", sets.frechet),
        _beside("", "a classifier tells them from scans, AUC", sets.classifier_auc),
        _beside("", "precision: share inside the range of scans", sets.precision),
        _beside("Do they vary like scans? (coverage)", "recall: share of scans in their range", sets.recall),
        _beside("", "coverage", sets.coverage),
    ]
    for one in found.properties:
        if one.name in ("RPE breaks", "RPE roughness", "speckle"):
            rows.append(ScoreRow(anatomy, f"{one.name}, ratio to scans", _interval(one.ratio), "1"))
            anatomy = ""
    return rows


def _contents(found: Judgement) -> list[ScoreRow]:
    if found.pathology is None:
        return []
    question, rows = "Is every class there? (completeness)", []
    for share in found.pathology.shares:
        rows.append(ScoreRow(question, f"share of {share.label}", _interval(share.generated), _interval(share.real)))
        question = ""
    return rows


def _use(found: UtilityFigures | None) -> list[ScoreRow]:
    if found is None:
        return []
    best = max(found.methods, key=lambda row: row.real.value)
    rows = [
        ScoreRow(
            "Do methods learn from them what they learn from scans? (utility)",
            f"{best.name}, balanced accuracy on new scans: trained on generated images, on scans",
            _interval(best.trained_on_generated), _interval(best.real),
        ),
        ScoreRow(
            "", f"{best.name} trained on scans: balanced accuracy on generated images, on scans",
            _interval(best.tested_on_generated), _interval(best.real),
        ),
        ScoreRow("", "order of five methods: Kendall's tau with that on scans", f"{found.rank_agreement:.2f}", "1"),
        ScoreRow(
            "", "calibration error on new scans",
            f"{found.calibration_error_generated:.3f}", f"{found.calibration_error_real:.3f}",
        ),
    ]  # fmt: skip
    question = "For every class alike? (subgroups)"
    for one in found.recalls:
        figure = f"{one.label}: share found among new scans"
        rows.append(ScoreRow(question, figure, _interval(one.trained_on_generated), _interval(one.real)))
        question = ""
    return rows


def _privacy(measured: Measurement) -> list[ScoreRow]:
    question, rows = "Do they give patients away? (compliance)", []
    if copies := measured.copies:
        rows.append(("copies of single training scans, share", f"{copies.share:.3f}", f"{copies.held_out_share:.3f}"))
    if measured.judgement and (near := measured.judgement.training_patients):
        figure = "training patients to whom one is nearer than new scans are, share"
        rows.append((figure, _interval(near.nearer), _null(near.nearer)))
        figure = "nearest to a training patient, over nearest new scan: least ratio"
        rows.append((figure, _interval(near.least_ratio), _null(near.least_ratio)))
    if member := measured.membership:
        for name, auc in (("VAE", member.vae_auc), ("diffusion", member.diffusion_auc)):
            if auc:
                rows.append(
                    (f"whoever has the model tells training scans by the {name}'s loss, AUC", _interval(auc), "0.5")
                )
    return [ScoreRow("" if i else question, *row) for i, row in enumerate(rows)]


def _consistency(measured: Measurement) -> list[ScoreRow]:
    spread = max((measured.noise_spread[dimension] for dimension in measured.latent_order[:3]), default=0.0)
    figure = "spread over noise seeds of R² of the three best dimensions, greatest"
    return [ScoreRow("Are they the same each time? (consistency)", figure, f"{spread:.3f}", "0")]


def _beside(question: str, name: str, figure: Measure) -> ScoreRow:
    return ScoreRow(question, name, _interval(figure), _null(figure))


def _interval(one: Interval) -> str:
    return f"{one.value:.3g} ({one.low:.2g} to {one.high:.2g})"


def _null(one: Measure) -> str:
    return f"{one.null:.3g} ({one.null_low:.2g} to {one.null_high:.2g})"


def scorecard_markdown(rows: Sequence[ScoreRow]) -> str:
    """The rows as a markdown table; empty without any."""
    if not rows:
        return ""
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""
Scorecard: what the images are good for, and what they give away (in brackets 95 % intervals).

| | figure | generated | scans of other patients |
|---|---|---|---|
{lines}

Classes of generated images are named by logistic regression that was trained on the scans, so methods learn from them
at most what it knows. No copies and an AUC near 0.5 do not prove that nothing of a patient is in the weights.
"""
