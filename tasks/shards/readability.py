"""What the images of a data set say of its random effects, read from the finished files before it is published."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core import progress
from image_longitudinal.core.config import OutcomesConfig, ProbeConfig
from image_longitudinal.core.gates import Gate, GatesConfig, gate
from image_longitudinal.core.readability import Readability
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.quality.recoverability import (
    Reader,
    encoder_reader,
    measure_recoverability,
    r_squared_intervals,
    regression_reader,
)
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.tasks.engine.gpu_slots import gpu_slots
from image_longitudinal.tasks.shards.image_shards import image_model
from image_longitudinal.tasks.shards.specs import Execution, ImageSpec, OutcomeSpec

READ = 128  # finished images: the encoder of a flattened retina takes a tenth of a second of a core for each
LEAST = 64  # subjects: R² of fewer is too uncertain


class Recoverability(NamedTuple):
    """R² per latent dimension of z recovered from images, and what recovered it: ``encoder`` or ``regression``.

    ``intervals`` (95 %) and the number of ``images`` are known where finished images were read (``finished``).
    """

    r_squared: list[float]
    read_by: str
    images: int
    finished: bool = False
    intervals: list[tuple[float, float]] | None = None


def measured_recoverability(images: ImageSpec, probe: ProbeConfig, execution: Execution) -> Recoverability:
    """R² per latent dimension of images generated exactly like this data set's.

    The model's own metric, if it was measured with the same probe and sampler.
    """
    if (known := known_recoverability(probe, execution)) is not None:
        return known
    with gpu_slots(execution.compute):
        return _measured(images.as_generated, probe, execution)


def known_recoverability(probe: ProbeConfig, execution: Execution) -> Recoverability | None:
    """The metric of the registered model, if it was measured with this probe and the data set's sampler."""
    generator, version = execution.generator, execution.version()
    if version is None or version.metadata.measured.probe != probe:
        return None
    sampler = (generator.backend, generator.scheduler, generator.steps, generator.decoder, generator.precision)
    if sampler != (version.metadata.backend, probe.scheduler, probe.steps, "full", "float32"):
        return None
    measured = version.metadata.measured
    return Recoverability(measured.recoverability, measured.read_by, probe.n_images)


@lru_cache(maxsize=1)
def _measured(images: ImageSpec, probe: ProbeConfig, execution: Execution) -> Recoverability:
    """Measured once for both uses in a run: the choice of the random effects' dimensions, and the report."""
    progress.report(progress.Step("measure how well z is recovered"))
    version, model, n = execution.version(), image_model(execution), probe.n_images
    vae = load_vae(version) if version else None
    found, read_by = measure_recoverability(model, vae, n=n, batch_size=probe.batch_size, seed=images.seed)
    return Recoverability(found, read_by, n)


def finished_recoverability(
    dataset: Dataset, images: ImageSpec, probe: ProbeConfig, execution: Execution
) -> Recoverability:
    """R² per latent dimension of a data set's own images, evenly spaced over its subjects, against its own latents.

    A data set with hardly any subjects is represented by images that are generated in the same way.
    """
    if len(dataset) < LEAST:
        return measured_recoverability(images, probe, execution)
    progress.report(progress.Step("read z from finished images"))
    ids = np.linspace(0, len(dataset) - 1, min(len(dataset), READ)).astype(np.int64)
    with gpu_slots(execution.compute):
        version = execution.version()
        vae = load_vae(version) if version else None
        reader = encoder_reader(vae) if vae else _regression_reader(images.as_generated, probe, execution)
        truth, estimate = dataset.latents[ids], reader(dataset.images[ids])
    found = r_squared_intervals(truth, estimate, images.seed)
    read_by, intervals = "encoder" if vae else "regression", [(one.low, one.high) for one in found]
    return Recoverability([one.value for one in found], read_by, len(ids), True, intervals)


@lru_cache(maxsize=1)
def _regression_reader(images: ImageSpec, probe: ProbeConfig, execution: Execution) -> Reader:
    model = image_model(execution)
    return regression_reader(model, n=probe.n_images, batch_size=probe.batch_size, seed=images.seed)


def readability(recoverability: Recoverability, outcomes: OutcomeSpec) -> Readability:
    """What images say of each random effect: of its latent dimension, or of the mixture of dimensions behind it.

    η = L·z with the Cholesky factor L of Ω; errors of different dimensions are taken as uncorrelated.
    """
    chosen = list(outcomes.eta_dims)
    shares = effect_weights(outcomes.outcomes)
    eta = shares @ np.asarray(recoverability.r_squared)[chosen]
    intervals = None
    if recoverability.intervals is not None:
        ends = shares @ np.asarray(recoverability.intervals)[chosen]
        intervals = tuple((round(float(low), 4), round(float(high), 4)) for low, high in ends)
    return Readability(
        read_by=recoverability.read_by, images=recoverability.images, finished=recoverability.finished,
        eta=tuple(round(float(value), 4) for value in eta), intervals=intervals,
    )  # fmt: skip


def effect_weights(outcomes: OutcomesConfig) -> NDArray[np.float64]:
    """Share of each linked effect's variance from each chosen dimension of z: (k, k), rows that sum to 1."""
    squared = np.square(np.linalg.cholesky(np.asarray(get_model(outcomes.model).omega, np.float64)))
    return np.asarray(squared / squared.sum(1, keepdims=True))


def readability_gate(found: Readability, names: Sequence[str], bars: GatesConfig) -> Gate:
    """The gate of a data set: its least readable random effect."""
    worst = int(np.argmin(found.eta))
    of = "finished images" if found.finished else "images generated like these"
    name = f"η of {names[worst]}, the least readable, read back from {of} by the {found.read_by}, R²"
    return gate("data set", "recoverability", name, found.eta[worst], bars)
