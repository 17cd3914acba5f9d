"""What was measured of a model as a table with intervals, for the command line."""

import time
from typing import NamedTuple

from image_longitudinal.core.config import Config, Section
from image_longitudinal.models.imaging.backends import load_image_model
from image_longitudinal.models.imaging.interface import generate_in_batches
from image_longitudinal.models.quality.recoverability import probe_latents
from image_longitudinal.models.registry.judgement import Figure, Interval, Judgement, PropertyFigures
from image_longitudinal.models.registry.metadata import Measurement
from image_longitudinal.models.registry.registry import ModelVersion

TIMED = 32  # images whose generation is timed, after a batch that is not
SETS = {  # measures of sets, by what the table calls them
    "kernel distance": "kernel", "precision": "precision", "recall": "recall", "density": "density",
    "coverage": "coverage", "classifier AUC": "classifier_auc", "near copies, share": "near_copies",
    "grey levels, distance": "grey_levels", "thickness map, distance": "thickness_map",
}  # fmt: skip


class ModelReport(Section):
    """A version's figures, and how many images it makes per second with the sampler that was measured, here."""

    version: str
    images_per_second: float
    measured: Measurement


class TableRow(NamedTuple):
    """One line: the figure, generated images' value with its interval, and what held-out scans have in its place."""

    figure: str
    generated: str
    interval: str
    real: str


HEADING = TableRow("figure", "generated", "95 % interval", "real scans")


def model_report(version: ModelVersion, config: Config) -> ModelReport:
    """The report of a measured version; times the generation of :data:`TIMED` images.

    The sampler is that of the version's probe, all else that decides the speed is of ``config``.
    """
    measured = version.metadata.measured
    sampler = {"scheduler": measured.probe.scheduler, "steps": measured.probe.steps}
    generator = config.generator.model_copy(update={"backend": version.metadata.backend, "decoder": "full", **sampler})
    model = load_image_model(generator, version, config.compute.device)
    latents, seeds = probe_latents(config.seed, 2 * TIMED, model.latent_dim, "rate")
    size = measured.probe.batch_size
    generate_in_batches(model, latents[:size], seeds[:size], size)
    start = time.perf_counter()
    generate_in_batches(model, latents[:TIMED], seeds[:TIMED], size)
    seconds = time.perf_counter() - start
    return ModelReport(version=version.version, images_per_second=TIMED / seconds, measured=measured)


def model_table(report: ModelReport) -> list[TableRow]:
    """All figures of a report, the heading first."""
    measured = report.measured
    rows = [HEADING]
    if measured.judgement:
        rows += _judged(measured.judgement)
    if member := measured.membership:
        chance = "0.5: nothing is given away"
        rows.append(_row("training scans told by the VAE's loss, AUC", member.vae_auc, chance))
        if member.diffusion_auc:
            rows.append(_row("training scans told by the diffusion's loss, AUC", member.diffusion_auc, chance))
    intervals = measured.recoverability_intervals or ()
    for dimension in measured.latent_order:
        name = f"z[{dimension}] read back by the {measured.read_by}, R²"
        if intervals:
            rows.append(_row(name, intervals[dimension], ""))
        else:
            rows.append(TableRow(name, f"{measured.recoverability[dimension]:.3f}", "", ""))
    return [*rows, TableRow("images per second, on this machine", f"{report.images_per_second:.2f}", "", "")]


def _judged(found: Judgement) -> list[TableRow]:
    sets = found.measures
    rows = [
        _beside("outside judge, floors", sets.frechet),
        TableRow("outside judge, floors of one real set", f"{sets.frechet_to_one_floor:.2f}", "", "1"),
        *(_beside(name, getattr(sets, field)) for name, field in SETS.items()),
    ]
    if near := found.training_patients:
        rows.append(_beside("training patients nearer to it than to new scans, share", near.nearer))
        rows.append(_beside("nearest image to a training patient, over new scans'", near.least_ratio))
    for method in found.utility.methods if found.utility else ():
        real = f"{method.real.value:.3g} ({method.real.low:.3g} to {method.real.high:.3g})"
        rows.append(_row(f"{method.name} trained on generated, accuracy on scans", method.trained_on_generated, real))
    for one in found.properties:
        rows += _of_property(one)
    if found.pathology:
        for share in found.pathology.shares:
            real = f"{share.real.value:.3f} ({share.real.low:.3f} to {share.real.high:.3f})"
            rows.append(_row(f"share of {share.label}", share.generated, real))
            rows.append(_row(f"share of {share.label}, difference", share.difference, "0"))
    return rows


def _of_property(one: PropertyFigures) -> list[TableRow]:
    return [
        _row(f"{one.name}, mean", one.generated, f"{one.real.value:.3g} ({one.real.low:.3g} to {one.real.high:.3g})"),
        _row(f"{one.name}, ratio", one.ratio, "1"),
        _beside(f"{one.name}, distance", one.distance),
    ]


def _beside(name: str, figure: Figure) -> TableRow:
    return _row(name, figure, f"{figure.null:.3g} ({figure.null_low:.3g} to {figure.null_high:.3g})")


def _row(name: str, interval: Interval, real: str) -> TableRow:
    return TableRow(name, f"{interval.value:.3g}", f"{interval.low:.3g} to {interval.high:.3g}", real)
