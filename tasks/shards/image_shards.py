"""The images of one shard, from latents to a file, in the process that renders them. Independent of Prefect."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.config import ComputeConfig, Section
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.plan import Shard
from image_longitudinal.core.progress import Counter
from image_longitudinal.core.random import subject_seeds
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.models.imaging.backends import first_batch_size, import_backend, load_image_model
from image_longitudinal.models.imaging.device import DeviceUse
from image_longitudinal.models.imaging.grey_images import check_images
from image_longitudinal.models.imaging.interface import BatchSize, ImageModel, prefetch, render_batches
from image_longitudinal.storage.dataset.images import write_image_shard
from image_longitudinal.storage.dataset.manifest import Part
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.engine.cancellation import until_stopped
from image_longitudinal.tasks.shards.specs import Execution, ImageSpec
from image_longitudinal.tasks.shards.study import acquire

QUEUE = 4  # batches rendered and not yet taken by the encoders
_loading = Lock()


class RenderUse(Section):
    """How a device spent its time on a shard: images, seconds since the shard before, busy seconds of these."""

    images: int
    seconds: float
    busy_seconds: float
    batch_size: int


class ShardPartResult(Section):
    """A part of a shard: its files under ``root``, and how a device spent its time on them, if it did."""

    root: str
    part: Part
    use: RenderUse | None = None


class _Renderer(NamedTuple):
    """An image model with what its shards share in this process."""

    model: ImageModel
    batch: BatchSize
    use: DeviceUse


def render_shard(spec: ImageSpec, output: str, execution: Execution) -> ShardPartResult:
    """Render the images of one shard into the data set at ``output``: images and latents as one Zarr shard each.

    One thread drives the device, others compress, and this one writes. Each works a few batches ahead of the next, so
    memory does not grow with the shard.

    Raises:
        ModelError: the image model is not the one that the spec names, or makes images without content.
    """
    ids = range(spec.start, spec.stop)
    latents, seeds = draw_latents(spec.seed, ids, spec.latent_dim), subject_seeds(spec.seed, ids)
    import_backend(execution.generator.backend)  # in a worker's process: the run has it, from the user's configuration
    renderer = _renderer(execution)
    if renderer.model.digest != spec.generator:
        raise ModelError(
            "the image model is not the one of this data set",
            where=execution.workspace,
            expected=spec.generator[:12],
            got=renderer.model.digest[:12],
            do="use the same model and version of the software on all workers",
        )
    stream = render_batches(renderer.model, latents, seeds, renderer.batch, renderer.use)
    with closing(prefetch(stream, QUEUE)) as batches:
        rendered = _counted(_acquired(_checked(until_stopped(batches), spec.start), spec), spec.shard)
        records = write_image_shard(open_root(output), spec.shard, rendered, latents, shard_size=spec.shard_size)
    use = RenderUse.model_validate(renderer.use.take() | {"batch_size": renderer.batch.size})
    return ShardPartResult(root=output, part=Part(key=spec.digest, files=records), use=use)


def _checked(batches: Iterable[NDArray[np.uint8]], start: int) -> Iterator[NDArray[np.uint8]]:
    """The same batches of images, each with content; ``start`` is the first subject. ModelError: see check_images."""
    for batch in batches:
        check_images(batch, start)
        yield batch
        start += len(batch)


def _acquired(batches: Iterable[NDArray[np.uint8]], spec: ImageSpec) -> Iterator[NDArray[np.uint8]]:
    """The same batches of images as the sites of a study design acquire them."""
    start = spec.start
    for batch in batches:
        yield acquire(spec, batch, np.arange(start, start + len(batch)))
        start += len(batch)


def _counted(batches: Iterable[NDArray[np.uint8]], shard: Shard) -> Iterator[NDArray[np.uint8]]:
    """The same batches of images; reports how many of the shard's have gone through."""
    counter, done = Counter(f"render shard {shard.index}", len(shard), "images"), 0
    for batch in batches:
        yield batch
        done += len(batch)
        counter.update(done)


def image_model(execution: Execution) -> ImageModel:
    """The image model, loaded once per process.

    Raises:
        ModelError: the workspace does not have it, or its weights are damaged.
    """
    return _renderer(execution).model


def _renderer(execution: Execution) -> _Renderer:
    compute = ComputeConfig(device=execution.compute.device)  # the number of workers does not change the model
    with _loading:  # shards that start at the same time load one model
        return _cached_renderer(execution.model_copy(update={"compute": compute}))


@lru_cache(maxsize=1)
def _cached_renderer(execution: Execution) -> _Renderer:
    generator, device = execution.generator, execution.compute.device
    model = load_image_model(generator, execution.version(), device)
    return _Renderer(model, BatchSize(first_batch_size(model, generator, device)), DeviceUse())
