"""The images of one shard, from latents to a file, in whatever process draws them. Knows nothing of Prefect."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.random import subject_seeds
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.models.imaging.backends import ImageModel, first_batch_size, load_image_model, needs_training
from image_longitudinal.models.imaging.device import DeviceUse
from image_longitudinal.models.imaging.sampling_pipeline import BatchSize, prefetch, render_batches
from image_longitudinal.storage.dataset.images import write_image_shard
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord
from image_longitudinal.tasks.engine.cancellation import until_stopped
from image_longitudinal.tasks.shards.spec import DatasetSpec
from image_longitudinal.tasks.workspace import Workspace

QUEUE = 4  # batches drawn and not yet taken up by the encoders
_loading = Lock()


@dataclass(frozen=True)
class ImageJob:
    """Draw the images of shard ``index`` into the data set at ``output``; ``device`` in place of the configured one."""

    spec: DatasetSpec
    index: int
    output: str
    device: str | None = None


class MadeImages(NamedTuple):
    """The files written, and how the device spent its time: images, seconds, busy_seconds, batch_size."""

    records: list[FileRecord]
    use: dict[str, float]


class _Drawer(NamedTuple):
    """A model with what its shards have in common in this process."""

    model: ImageModel
    batch: BatchSize
    use: DeviceUse


def make_image_shard(job: ImageJob) -> MadeImages:
    """Latents → images of one shard, written as one Zarr shard each.

    The device draws in a thread of its own, encoders compress on others, and this one writes: each takes up what the
    one before it has done, a few batches at a time, so memory does not grow with the shard.
    """
    spec = job.spec
    shard = spec.plan.shard(job.index)
    ids = range(shard.start, shard.stop)
    latents, seeds = draw_latents(spec.config.seed, ids, spec.latent_dim), subject_seeds(spec.config.seed, ids)
    config = spec.config
    drawer = _drawer(spec.workspace, spec.model_version, config.generator, job.device or config.compute.device)
    stream = render_batches(drawer.model, latents, seeds, drawer.batch, drawer.use)
    with closing(prefetch(stream, QUEUE)) as batches:
        records = write_image_shard(
            open_root(job.output), shard, until_stopped(batches), latents, shard_size=config.dataset.shard_size
        )
    return MadeImages(list(records), drawer.use.take() | {"batch_size": drawer.batch.size})


def image_model(workspace: str, version: str | None, generator: GeneratorConfig, device: str) -> ImageModel:
    """The image model, loaded once per process."""
    return _drawer(workspace, version, generator, device).model


def _drawer(workspace: str, version: str | None, generator: GeneratorConfig, device: str) -> _Drawer:
    with _loading:  # two shards that begin together load one model
        return _cached_drawer(workspace, version, generator.model_dump_json(), device)


@lru_cache(maxsize=1)
def _cached_drawer(workspace: str, version: str | None, generator: str, device: str) -> _Drawer:
    config = GeneratorConfig.model_validate_json(generator)
    registered = Workspace.at(workspace).registry.get(version) if version and needs_training(config.backend) else None
    model = load_image_model(config, registered, device)
    return _Drawer(model, BatchSize(first_batch_size(model, config, device)), DeviceUse())
