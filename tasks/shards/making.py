"""Shards made here: some at a time, by tasks of a runner, each put in its place and vouched for by its manifest."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import StorageError, naming
from image_longitudinal.core.plan import Shard
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.storage.dataset.manifest import Part, ShardManifest, finished_shard, write_shard_manifest
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.engine.cancellation import stopping_tasks
from image_longitudinal.tasks.engine.task_runners import shard_runner
from image_longitudinal.tasks.shards.host_workers import worker_devices
from image_longitudinal.tasks.shards.parts import image_key, make_images, make_outcomes, outcome_key, place_part
from image_longitudinal.tasks.shards.reuse import Found, Parts
from image_longitudinal.tasks.shards.spec import DatasetSpec

Pending = PrefectFuture[dict[str, Any]] | Found


class Made(NamedTuple):
    """A shard that is in place."""

    shard: Shard
    record: FileRecord  # of its manifest
    state: str  # made or reused, and why: a word or two for people
    why: str
    use: Mapping[str, float]  # how a device spent its time on it; empty where that is not known


class _Shard(NamedTuple):
    """A shard in the making."""

    shard: Shard
    images: Pending
    outcomes: Pending


def done(root: Root, spec: DatasetSpec, shard: Shard) -> FileRecord | str:
    """The record of a shard's manifest if the shard is made as this data set wants it; else why it has to be made."""
    return finished_shard(root, shard.index, {"image": image_key(spec, shard), "outcomes": outcome_key(spec, shard)})


def make_here(
    root: Root, spec: DatasetSpec, wanted: Mapping[int, str], found: Parts | None = None, refresh: bool = False
) -> Generator[Made, None, None]:
    """Make shards, some at a time: as many as configured, and never fewer than keep every drawing device busy.

    Args:
        root: where the data set is.
        spec: what it is.
        wanted: why each shard is to be made, by its index; they are made in this order.
        found: what another data set has of them, which is not made but shared.
        refresh: make what earlier runs' results have, too.

    Yields:
        Each shard as it is in place.
    """
    compute, there = spec.config.compute, found or Parts()
    width = _width(compute)
    in_the_making: deque[_Shard] = deque()
    todo = iter(wanted)
    with stopping_tasks(), shard_runner(compute, width) as runner:
        while True:
            while len(in_the_making) < width and (index := next(todo, None)) is not None:
                shard = spec.plan.shard(index)
                in_the_making.append(_Shard(shard, *_submit(runner, root, spec, shard, there, refresh)))
            if not in_the_making:
                return
            oldest = in_the_making.popleft()
            with naming(f"shard {oldest.shard.index}"):
                record = _commit(root, spec, oldest)
            yield Made(oldest.shard, record, *_how(oldest, wanted[oldest.shard.index]), _device_use(oldest.images))


def _width(compute: ComputeConfig) -> int:
    """Shards in the making at a time."""
    drawing = len(worker_devices(compute)) or int(default_device(compute.device).type != "cpu")
    # Two for each device: it goes on with one while the other is encoded, written, checked and put in its place.
    return max(compute.concurrent_shards, 2 * drawing if compute.executor == "threads" else drawing)


def _submit(
    runner: TaskRunner[Any], root: Root, spec: DatasetSpec, shard: Shard, there: Parts, refresh: bool
) -> tuple[Pending, Pending]:
    shared = {"index": shard.index, "output": root.url, "spec": spec}
    images, outcomes = (task.with_options(refresh_cache=refresh) for task in (make_images, make_outcomes))
    return (
        there.images.get(shard.index) or runner.submit(images, {"key": image_key(spec, shard), **shared}),
        there.outcomes.get(shard.index) or runner.submit(outcomes, {"key": outcome_key(spec, shard), **shared}),
    )


def _commit(root: Root, spec: DatasetSpec, pending: _Shard) -> FileRecord:
    """Wait for both parts of a shard, put them in place and say so in its manifest: from then on it is done."""
    shard = pending.shard
    parts: dict[str, Part] = {}
    for name, future, task in (("image", pending.images, make_images), ("outcomes", pending.outcomes, make_outcomes)):
        part = place_part(future.result(), root)
        if part is None:  # a cached result whose files are gone or damaged
            key = future.result()["key"]
            fresh = task.with_options(refresh_cache=True)
            part = place_part(fresh(key=key, index=shard.index, output=root.url, spec=spec), root)
        if part is None:
            raise StorageError("the files vanished while they were made", where=root.url)
        parts[name] = part
    manifest = ShardManifest(index=shard.index, start=shard.start, stop=shard.stop, parts=parts)
    return write_shard_manifest(root, manifest)


def _how(shard: _Shard, wanted: str) -> tuple[str, str]:
    """Whether a shard's parts were made or reused, and why, in a word or two for people."""
    there = [name for name, part in (("images", shard.images), ("outcomes", shard.outcomes)) if _was_there(part)]
    if not there:
        return "made", wanted
    return "reused" if len(there) == 2 else f"{there[0]} reused", f"{wanted}; found among earlier results"


def _device_use(images: Pending) -> Mapping[str, float]:
    """How a device spent its time on a shard; nothing where the images were there already."""
    return {} if _was_there(images) else images.result().get("use", {})


def _was_there(part: Pending) -> bool:
    """Whether a part comes from an earlier run's results or another data set."""
    return isinstance(part, Found) or part.state.name == "Cached"
